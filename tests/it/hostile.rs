//! Hostile HTTP: what a peer on the open internet may send, and what comes of it.
//!
//! The cases over HTTP/1 are data (`tests/hostile/*.toml`, see its README.md); `run` sends each as it
//! stands, byte by byte and in random pieces, and checks the answers, what the upstream saw and that
//! nothing is left.

mod case;
mod frames;
mod http2;
mod reply;
mod run;
mod unread;

use self::case::{Theme, themes};
use self::run::run_theme;

/// One test for each file, so that a failure names its theme.
macro_rules! themes {
    ($($test:ident: $file:literal,)*) => {
        /// The files that are run.
        const FILES: &[&str] = &[$($file),*];
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $test() {
                run_theme($file).await;
            }
        )*
    };
}

themes! {
    request_lines: "request-line",
    targets: "target",
    hosts: "host",
    fields: "fields",
    lengths: "length",
    transfer_codings: "transfer-coding",
    chunks: "chunks",
    hops: "hop-by-hop",
    expectations_and_upgrades: "expect-upgrade",
    sizes: "size",
    bodies: "body",
    pipelines: "pipeline",
    early_refusals: "early-refusal",
    slow_peers: "slow",
    answers_of_the_upstream: "upstream",
}

#[test]
fn the_corpus_is_whole() {
    let all = themes();
    let mut files: Vec<_> = FILES.iter().map(|file| (*file).to_owned()).collect();
    files.sort_unstable();
    let found: Vec<_> = all.iter().map(|theme| theme.file.clone()).collect();
    assert_eq!(found, files, "every file has its test");
    let mut names: Vec<_> = all.iter().flat_map(Theme::names).collect();
    let count = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), count, "every case has a name of its own");
    assert!(count >= 150, "{count} cases");
    for theme in &all {
        for case in &theme.cases {
            assert!(case.source.len() > 6, "{}: where it comes from", case.name);
        }
    }
}
