//! Where the randomness comes from, so that a failure can be repeated.

use std::fmt;

use fastrand::Rng;

/// A midnight (UTC), in nanoseconds since the Unix epoch.
pub(crate) const START: u64 = 1_772_064_000 * 1_000_000_000;

/// The seed: `SIM_SEED`, or always the same one.
pub(crate) fn seed() -> u64 {
    std::env::var("SIM_SEED").ok().and_then(|text| text.parse().ok()).unwrap_or(7)
}

/// A generator for one purpose; prints what it takes to repeat it.
pub(crate) fn rng(purpose: &str) -> Rng {
    let seed = seed();
    say(format_args!("{purpose}: SIM_SEED={seed}"));
    derived(seed, purpose)
}

/// A generator that depends on the seed and the purpose only.
pub(crate) fn derived(seed: u64, purpose: &str) -> Rng {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3);
    Rng::with_seed(purpose.bytes().fold(0xCBF2_9CE4_8422_2325 ^ seed.rotate_left(29), step))
}

#[expect(clippy::print_stdout, reason = "the harness shows it where a test fails or is asked to")]
pub(crate) fn say(line: fmt::Arguments<'_>) {
    println!("{line}");
}
