//! What the documents say of the program, compared with the program.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::support::{hello, pair, roomy, send};

#[tokio::test]
async fn the_metrics_page_lists_what_a_scrape_has() {
    let fallback = "[[fallback]]\nname = \"other\"\nfor = \"*\"\nmodel = \"n\"";
    let (_simulator, gateway) = pair(roomy(), fallback).await;
    send(gateway.chat(&hello())).await.bytes().await.expect("whole");
    let (_, scrape) = gateway.page("/metrics").await;
    let scraped: BTreeSet<&str> =
        scrape.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    let page = fs::read_to_string("docs/METRICS.md").expect("the page");
    let listed: BTreeSet<String> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `tidegate_"))
        .filter_map(|rest| {
            let mut cells = rest.split('|');
            let name = cells.next()?.trim().trim_end_matches('`');
            Some(format!("tidegate_{name} {}", cells.next()?.trim()))
        })
        .collect();
    assert_eq!(listed.iter().map(String::as_str).collect::<BTreeSet<_>>(), scraped);
    gateway.close().await;
}

/// What stands between back ticks in a page.
fn quoted(page: &str) -> impl Iterator<Item = &str> {
    page.split('`').skip(1).step_by(2)
}

/// Whether `text` has a test called `name`: a function that an attribute makes one, or one within
/// `proptest!`.
fn has_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    let is_function = |line: &str| {
        let line = line.trim_start();
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ")
            .and_then(|rest| rest.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('))
    };
    lines.iter().enumerate().filter(|(_, line)| is_function(line)).any(|(index, line)| {
        let above = lines[..index].iter().rev().map(|line| line.trim_start());
        let mut attributes =
            above.take_while(|line| line.starts_with("#[") || line.starts_with("//"));
        // A property test has no attribute of its own; it stands deeper than the macro's name.
        let indent = |line: &str| line.len() - line.trim_start().len();
        let mut around = lines[..index].iter().rev().filter(|it| indent(it) < indent(line));
        let is_property = around
            .find(|line| !line.trim().is_empty())
            .is_some_and(|line| line.trim_start().starts_with("proptest!"));
        attributes.any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
            || is_property
    })
}

#[test]
fn a_test_is_told_from_what_is_none() {
    let text = "#[test]\n#[expect(x)]\nfn one() {\n}\nfn two() {\n}\nproptest! {\n    /// It.\n    \
                fn three(\n    ) {\n        fn four() {}\n    }\n}\n    #[tokio::test(flavor = \"a\")]\n    \
                async fn five() {\n    }\n";
    for (name, is_test) in [
        ("one", true),
        ("two", false),
        ("three", true),
        ("four", false),
        ("five", true),
        ("on", false),
    ] {
        assert_eq!(has_test(text, name), is_test, "{name}");
    }
}

#[test]
fn the_limits_page_names_tests_and_pictures_that_exist() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = fs::read_to_string(root.join("docs/LIMITS.md")).expect("the page");
    let mut problems = Vec::new();
    let mut named = 0;
    for (file, name) in quoted(&page).filter_map(|it| it.split_once("::")) {
        named += 1;
        let text = fs::read_to_string(root.join(file)).unwrap_or_default();
        if !has_test(&text, name) {
            problems.push(format!("{file} has no test {name}"));
        }
    }
    assert!(named >= 50, "{named} tests are named: is the page read as it is written?");
    let shown: BTreeSet<String> = page
        .split("](plots/")
        .skip(1)
        .filter_map(|rest| rest.split_once(')').map(|(name, _)| name.to_owned()))
        .collect();
    let files = fs::read_dir(root.join("docs/plots")).expect("the pictures");
    let files = files.map(|file| file.expect("an entry").file_name().into_string().expect("text"));
    let pictures: BTreeSet<String> = files.filter(|name| name.ends_with(".png")).collect();
    assert_eq!(shown, pictures, "every picture is shown, and there is every one that is");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

#[test]
fn what_the_image_is_built_from_is_let_through_to_it() {
    let read = |name: &str| {
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("it is there")
    };
    let (image, ignored) = (read("Dockerfile"), read(".dockerignore"));
    let through: Vec<&str> = ignored.lines().filter_map(|line| line.strip_prefix('!')).collect();
    let copied = image.lines().filter_map(|line| line.strip_prefix("COPY "));
    let from_here = copied.filter(|line| !line.starts_with("--from="));
    let mut sources = 0;
    for line in from_here {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        words.pop().expect("a destination");
        for source in words {
            sources += 1;
            let stem = |pattern: &str| pattern.split('*').next().map(str::to_owned);
            // A pattern lets a file through, its folder's files, or all of a folder.
            let fits = through.iter().filter_map(|pattern| stem(pattern)).any(|start| {
                source.starts_with(&start) || start.starts_with(&format!("{source}/"))
            });
            assert!(fits, ".dockerignore keeps {source} from the image");
        }
    }
    assert!(sources >= 5, "{sources} sources: is the Dockerfile read as it is written?");
}
