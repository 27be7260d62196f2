//! The tables.

use crate::throughput::{Sample, Series, Target};

/// Prints one scenario: a line for each target, then how the gateway compares.
pub(crate) fn series(targets: &[Target], series: &Series) {
    println!("{}", series.scenario.name);
    println!(
        "  {:<14}{:>11}{:>11}{:>11}{:>11}{:>13}",
        "", "requests/s", "p50 µs", "p99 µs", "max µs", "CPU µs/req"
    );
    for (target, samples) in targets.iter().zip(&series.samples) {
        let of = |value: fn(&Sample) -> f64| median(samples.iter().map(value));
        let cpu = samples.iter().filter_map(|sample| sample.cpu);
        let cpu = target_cpu(&cpu.collect::<Vec<_>>());
        println!(
            "  {:<14}{:>11.0}{:>11.0}{:>11.0}{:>11.0}{cpu:>13}",
            target.name,
            of(Sample::throughput),
            of(|sample| sample.measured.p50),
            of(|sample| sample.measured.p99),
            of(|sample| sample.measured.max),
        );
    }
    let samples = |name| {
        let found = targets.iter().position(|target| target.name == name);
        found.map(|target| series.samples[target].as_slice())
    };
    if let (Some(gateway), Some(bare), Some(direct)) =
        (samples("tidegate"), samples("bare"), samples("direct"))
    {
        compare(gateway, bare, direct, series.scenario.connections);
    }
    println!();
}

/// Ratios and differences of each round, then their median: rounds share the machine's mood.
fn compare(gateway: &[Sample], bare: &[Sample], direct: &[Sample], connections: usize) {
    let ratio = |what: &str, value: fn(&Sample) -> f64| {
        let ratios = gateway.iter().zip(bare).map(|(ours, theirs)| value(ours) / value(theirs));
        let ratios: Vec<f64> = ratios.collect();
        let (least, most) = range(&ratios);
        println!("  tidegate / bare, {what}: {:.2} ({least:.2} to {most:.2})", median(ratios));
    };
    ratio("CPU per request", |sample| sample.cpu.unwrap_or(f64::NAN));
    ratio("requests/s", Sample::throughput);
    if connections == 1 {
        for (name, other) in [("direct", direct), ("bare", bare)] {
            let added = gateway.iter().zip(other).map(|(a, b)| a.measured.p50 - b.measured.p50);
            println!("  added median latency over {name}: {:.0} µs", median(added));
        }
    }
}

fn target_cpu(values: &[f64]) -> String {
    if values.is_empty() { "-".to_owned() } else { format!("{:.1}", median(values.to_vec())) }
}

fn range(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| {
        (least.min(*value), most.max(*value))
    })
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.get(middle) {
        None => f64::NAN,
        Some(value) if values.len() % 2 == 1 => *value,
        Some(value) => f64::midpoint(values[middle - 1], *value),
    }
}
