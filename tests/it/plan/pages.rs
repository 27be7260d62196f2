//! What docs/PLAN.md and the README show, compared with what the program says.

use std::fs;

use super::run;

/// The commands of a page's console blocks that ask for a plan, each with what stands below it.
fn commands(page: &str) -> Vec<(Vec<String>, String)> {
    let blocks = page.split("```console\n").skip(1);
    let blocks = blocks.filter_map(|rest| rest.split_once("```").map(|(block, _)| block));
    let asked = blocks.filter_map(|block| {
        let block = block.replace("\\\n", " ");
        let (command, output) = block.split_once('\n')?;
        let args = command.strip_prefix("$ tidegate plan")?;
        let args = args.split_whitespace().map(str::to_owned).collect();
        Some((args, output.to_owned()))
    });
    asked.collect()
}

/// Whether a page shows what was said; a line of one ellipsis stands for any number of lines.
fn shows(page: &str, said: &str) {
    let mut rest = said;
    for (index, part) in page.split("…\n").enumerate() {
        let at = rest.find(part);
        assert!(at.is_some(), "the page has\n{part}\nand the program said\n{said}");
        let at = at.unwrap_or_default();
        assert!(index > 0 || at == 0, "the page leaves out the beginning, without saying so");
        rest = &rest[at + part.len()..];
    }
    assert!(rest.is_empty() || page.ends_with("…\n"), "the page leaves out the end\n{rest}");
}

#[test]
fn pages_show_what_the_program_says() {
    let mut shown = 0;
    for name in ["docs/PLAN.md", "README.md"] {
        let page = fs::read_to_string(name).expect(name);
        for (args, expected) in commands(&page) {
            let args: Vec<_> = args.iter().map(String::as_str).collect();
            let folder = tempfile::tempdir().expect("a folder");
            let own = folder.path().join("plan.svg");
            // The picture goes elsewhere, to be compared.
            let place = args.iter().position(|arg| *arg == "docs/plots/plan.svg");
            let mut args = args;
            if let Some(place) = place {
                args[place] = own.to_str().expect("text");
            }
            let (code, out, err) = run(&args);
            assert_eq!((code, err.as_str()), (Some(0), ""), "{name}: {args:?}");
            shows(&expected, &out);
            if place.is_some() {
                let drawn = fs::read_to_string(&own).expect("a picture");
                let kept = fs::read_to_string("docs/plots/plan.svg").expect("the picture");
                assert!(drawn == kept, "docs/plots/plan.svg is not what the program draws");
            }
            shown += 1;
        }
    }
    assert!(shown >= 4, "{shown} commands are shown: are the pages read as they are written?");
}
