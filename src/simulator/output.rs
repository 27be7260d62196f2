//! What the simulated model says: lengths and words that a seed and a request always repeat.

use fastrand::Rng;

use super::options::OutputModel;

/// Each is one token by the simulator's tokenizer (at most six letters), and safe in JSON.
const WORDS: [&str; 64] = [
    "amber", "basin", "bridge", "brook", "canal", "cedar", "chalk", "cliff", "cloud", "coast",
    "copper", "coral", "cove", "creek", "crest", "delta", "drift", "dune", "ebb", "eddy", "elm",
    "fern", "fjord", "flint", "flood", "foam", "ford", "gale", "glade", "grove", "gulf", "harbor",
    "heath", "inlet", "island", "isle", "kelp", "lagoon", "lake", "marsh", "mist", "moor", "mouth",
    "oak", "pebble", "pier", "pool", "quay", "rain", "reed", "reef", "ridge", "river", "sand",
    "sea", "shoal", "shore", "spring", "stream", "surf", "tide", "wave", "weir", "wharf",
];

/// A generator that depends on the seed and on what it is for, and on nothing else.
pub(super) fn rng(seed: u64, purpose: u64) -> Rng {
    // Wyrand's first output of near seeds is correlated; one spread of the bits is not.
    Rng::with_seed((seed ^ purpose.rotate_left(32)).wrapping_mul(0x9E37_79B9_7F4A_7C15))
}

/// FNV-1a: the same number for the same bytes on every machine.
pub(super) fn digest(bytes: &[u8]) -> u64 {
    let step = |hash: u64, byte: &u8| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01B3);
    bytes.iter().fold(0xCBF2_9CE4_8422_2325, step)
}

impl OutputModel {
    /// How long an answer wants to be: at least one token.
    pub(super) fn sample(self, rng: &mut Rng) -> u64 {
        // The spread of measured completions: a median of 1.6k below a maximum of 4.7k.
        const SIGMA: f64 = 0.7;
        let tokens = match self {
            Self::Fixed(tokens) => tokens,
            Self::Uniform(from, to) => rng.u64(from..=to.max(from)),
            Self::Median(median) => {
                // Twelve uniform numbers less six: a normal distribution cut off at six sigma.
                let normal: f64 = (0..12).map(|_| rng.f64()).sum::<f64>() - 6.0;
                scale(median, (SIGMA * normal).exp())
            }
        };
        tokens.max(1)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates")]
pub(super) fn scale(units: u64, factor: f64) -> u64 {
    (units as f64 * factor).round() as u64
}

/// One choice's endless text.
#[derive(Debug)]
pub(super) struct Words {
    rng: Rng,
    started: bool,
}

impl Words {
    pub(super) fn new(seed: u64, digest: u64, choice: u64) -> Self {
        Self { rng: rng(seed, digest.wrapping_add(choice)), started: false }
    }

    /// Appends the next `tokens` words.
    pub(super) fn write(&mut self, tokens: u64, out: &mut String) {
        for _ in 0..tokens {
            if self.started {
                out.push(' ');
            }
            self.started = true;
            out.push_str(WORDS[self.rng.usize(..WORDS.len())]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tokens;
    use super::*;

    #[test]
    fn a_text_has_as_many_tokens_as_were_asked_for_however_it_is_cut() {
        let (mut whole, mut pieces) = (String::new(), String::new());
        Words::new(1, 2, 0).write(1_000, &mut whole);
        let mut words = Words::new(1, 2, 0);
        for piece in [0, 1, 24, 975] {
            words.write(piece, &mut pieces);
        }
        assert_eq!(whole, pieces);
        assert_eq!(tokens::count(&whole), 1_000);
        assert!(WORDS.iter().all(|word| tokens::count(word) == 1), "each word is one token");
        let mut other = String::new();
        Words::new(1, 2, 1).write(1_000, &mut other);
        assert_ne!(whole, other, "choices differ");
    }

    #[test]
    fn lengths_follow_the_model() {
        let mut lengths: Vec<_> =
            (0..2_001).map(|n| OutputModel::Median(400).sample(&mut rng(3, n))).collect();
        lengths.sort_unstable();
        // The median of 2,001 samples has a standard error of about two per cent.
        assert!((350..=450).contains(&lengths[1_000]), "{}", lengths[1_000]);
        assert!(lengths[0] >= 1 && lengths[2_000] > 1_200);
        assert_eq!(OutputModel::Fixed(0).sample(&mut rng(0, 0)), 1);
        let uniform = |n| OutputModel::Uniform(5, 7).sample(&mut rng(0, n));
        assert!((0..100).all(|n| (5..=7).contains(&uniform(n))));
    }
}
