//! Level, held and admissions over the first minutes of a quota that everybody wants.

use std::io;
use std::path::Path;

use crate::run::Pair::{BucketOnBucket, FixedOnFixed, SlidingOnFixed};
use crate::run::run;
use crate::table::Table;
use crate::workload::{MINUTE, SECOND, Workload};

/// Answers that take a while and use half of what is reserved, so that there is something to see.
pub(crate) fn write(folder: &Path) -> io::Result<()> {
    let workload = Workload {
        name: "timeline",
        traced: true,
        lasts: 4 * MINUTE,
        reserved: 4_000..=24_000,
        stream: 2 * SECOND..=10 * SECOND,
        ..Workload::steady()
    };
    for (name, pair) in [
        ("bucket-on-bucket", BucketOnBucket),
        ("sliding-on-fixed", SlidingOnFixed),
        ("fixed-on-fixed", FixedOnFixed),
    ] {
        let mut table = Table::new(&["seconds", "level", "held", "left", "admitted", "charged"]);
        let run = run(&workload, pair, 0);
        for it in &run.story.moments {
            let seconds = it.at as f64 / SECOND as f64;
            table.row(&[&seconds, &it.level, &it.held, &it.left, &it.admitted, &it.charged]);
        }
        table.write(folder, name)?;
    }
    Ok(())
}
