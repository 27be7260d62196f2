use std::num::NonZeroU32;

use super::*;

const A: &str = "sha256:0101010101010101010101010101010101010101010101010101010101010101";
const B: &str = "sha256:0202020202020202020202020202020202020202020202020202020202020202";
const C: &str = "sha256:0303030303030303030303030303030303030303030303030303030303030303";

/// What a person may have written.
const WRITTEN: &str = r#"# ours

[[keys]] # the first
name = "a"   # why
hash = "HASH" # and what
weight = 3

# the other
[[keys]]
hash = "sha256:0404040404040404040404040404040404040404040404040404040404040404"
name = "z"
# the end
"#;

struct Case {
    _directory: tempfile::TempDir,
    context: KeysContext,
}

impl Case {
    fn new(text: Option<&str>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.toml");
        if let Some(text) = text {
            fs::write(&path, text.replace("HASH", A)).unwrap();
        }
        let context = context(path);
        Self { _directory: directory, context }
    }

    fn path(&self) -> &Path {
        self.context.file.as_deref().unwrap()
    }

    fn text(&self) -> String {
        fs::read_to_string(self.path()).unwrap()
    }

    fn change(&self, change: impl FnOnce(&mut KeysFile<'_>) -> Result<(), Failure>) {
        let mut file = KeysFile::open(&self.context).unwrap();
        change(&mut file).unwrap();
        file.save().unwrap();
    }

    fn keys(&self) -> Vec<VirtualKey> {
        read(&self.context).unwrap().1
    }
}

fn entry(name: &str, hash: &str) -> Entry {
    Entry {
        name: name.to_owned(),
        hash: hash.to_owned(),
        class: None,
        weight: None,
        limits: Vec::new(),
        models: Vec::new(),
        max_concurrent: None,
        expires: None,
    }
}

/// Nothing but the file is known.
fn context(file: PathBuf) -> KeysContext {
    let mut context = KeysContext::default();
    context.file = Some(file);
    context
}

fn at(seconds: u64) -> Timestamp {
    Timestamp::from_nanos(seconds * 1_000_000_000)
}

#[test]
fn a_new_file_is_its_owners_alone_and_says_what_it_is() {
    let case = Case::new(None);
    let full = Entry {
        class: Some("batch".to_owned()),
        weight: NonZeroU32::new(5),
        limits: vec!["10 requests/1m".parse().unwrap(), "1M tokens/1d:fixed".parse().unwrap()],
        models: vec!["m".to_owned(), "n*".to_owned()],
        max_concurrent: NonZeroU32::new(2),
        expires: Some(at(1_800_000_000)),
        ..entry("a", A)
    };
    case.change(|file| file.add(&full));
    assert_eq!(fs::metadata(case.path()).unwrap().mode() & 0o777, 0o600);
    assert!(case.text().starts_with(HEADER), "{}", case.text());
    let keys = case.keys();
    let terms = keys[0].terms.as_ref().unwrap();
    let limits: Vec<_> = terms.limits.iter().map(|it| (it.to_string(), it.limit())).collect();
    assert_eq!(limits, [("requests/minute".to_owned(), 10), ("tokens/day".to_owned(), 1_000_000)]);
    assert!(terms.allow("m") && terms.allow("n-1") && !terms.allow("o"));
    assert_eq!((keys[0].weight.get(), keys[0].expires), (5, full.expires));
    assert_eq!(terms.max_concurrent, full.max_concurrent);
}

#[test]
fn what_people_have_written_stays() {
    let case = Case::new(Some(WRITTEN));
    case.change(|file| file.add(&entry("b", B)));
    let written = WRITTEN.replace("HASH", A);
    let (body, end) = written.split_at(written.rfind("# the end").unwrap());
    assert!(case.text().starts_with(body) && case.text().contains(end), "{}", case.text());
    case.change(|file| file.rotate("a", C, None, at(1)));
    let expected = written.replace(A, C);
    let (body, _) = expected.split_at(expected.rfind("# the end").unwrap());
    assert!(case.text().starts_with(body), "{}", case.text());
    case.change(|file| file.remove("b"));
    case.change(|file| file.revoke("z"));
    let states: Vec<_> =
        case.keys().iter().map(|key| (key.name.to_string(), key.revoked)).collect();
    assert_eq!(states, [("a".to_owned(), false), ("z".to_owned(), true)]);
    for comment in ["# ours", "# the first", "# why", "# and what", "# the other"] {
        assert!(case.text().contains(comment), "{comment}: {}", case.text());
    }
}

#[test]
fn a_key_that_is_replaced_is_good_for_as_long_as_is_said() {
    let case = Case::new(Some(WRITTEN));
    case.change(|file| file.rotate("a", B, Some(at(10)), at(1)));
    case.change(|file| file.rotate("a", C, Some(at(20)), at(9)));
    let previous = |keys: &[VirtualKey]| -> Vec<_> {
        keys[0].previous.iter().map(|it| (it.digest[0], it.expires)).collect()
    };
    assert_eq!(previous(&case.keys()), [(1, at(10)), (2, at(20))]);
    assert_eq!(case.keys()[0].digest, [3; 32]);
    case.change(|file| file.rotate("a", A, None, at(10)));
    assert_eq!(previous(&case.keys()), [(2, at(20))], "what is over is dropped");
    case.change(|file| file.rotate("a", C, None, at(20)));
    assert!(case.keys()[0].previous.is_empty() && !case.text().contains("previous"));
}

#[test]
fn what_the_gateway_would_not_read_is_not_written() {
    let case = Case::new(Some(WRITTEN));
    let before = case.text();
    for name in
        ["", "a b", "../../etc", "x\n[[keys]]", "\u{202e}", "operator", &"x".repeat(65), "-é"]
    {
        let mut file = KeysFile::open(&case.context).unwrap();
        file.add(&entry(name, B)).unwrap();
        assert!(matches!(file.save(), Err(Failure::Usage(_))), "{name:?}");
    }
    let mut file = KeysFile::open(&case.context).unwrap();
    file.add(&entry("twin", A)).unwrap();
    assert!(file.save().is_err(), "the same key twice");
    let mut file = KeysFile::open(&case.context).unwrap();
    assert!(matches!(file.add(&entry("a", B)), Err(Failure::Failed(_))), "the same name twice");
    for name in ["nobody", "", "\u{1b}[2J"] {
        assert!(matches!(file.revoke(name), Err(Failure::Failed(_))), "{name:?}");
        assert!(matches!(file.remove(name), Err(Failure::Failed(_))), "{name:?}");
        assert!(matches!(file.rotate(name, B, None, at(1)), Err(Failure::Failed(_))), "{name:?}");
    }
    assert_eq!(case.text(), before);
    for broken in ["[[keys]", "keys = []", "[[keys]]\nname = 3", "other = 1"] {
        let case = Case::new(Some(broken));
        assert!(matches!(KeysFile::open(&case.context), Err(Failure::Usage(_))), "{broken}");
    }
}

#[test]
fn a_link_and_a_mode_that_somebody_chose_stay() {
    let case = Case::new(Some(WRITTEN));
    fs::set_permissions(case.path(), fs::Permissions::from_mode(0o640)).unwrap();
    let link = case.path().with_file_name("link.toml");
    std::os::unix::fs::symlink(case.path(), &link).unwrap();
    let context = context(link.clone());
    let mut file = KeysFile::open(&context).unwrap();
    file.add(&entry("b", B)).unwrap();
    file.save().unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(case.path()).unwrap().mode() & 0o777, 0o640);
    assert_eq!(case.keys().len(), 3);
    let left: Vec<_> = fs::read_dir(case.path().parent().unwrap()).unwrap().collect();
    assert_eq!(left.len(), 2, "nothing else is left");
}

#[test]
fn those_who_write_at_once_wait_for_each_other() {
    let case = Case::new(None);
    std::thread::scope(|scope| {
        for number in 0..16_u8 {
            let case = &case;
            scope.spawn(move || {
                let hash = format!("sha256:{}", format!("{:02x}", number + 1).repeat(32));
                case.change(|file| file.add(&entry(&format!("t{number}"), &hash)));
            });
        }
    });
    let names: std::collections::BTreeSet<_> = case.keys().into_iter().map(|it| it.name).collect();
    assert_eq!(names.len(), 16);
}
