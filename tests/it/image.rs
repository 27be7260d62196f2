//! The image and the compositions: as little in them, and as few rights, as can be.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(path).expect("a file")
}

/// The instructions of the Dockerfile, stage by stage, each on one line.
fn stages() -> Vec<Vec<String>> {
    let text = read("Dockerfile");
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let text = lines.collect::<Vec<_>>().join("\n").replace("\\\n", " ");
    let mut stages = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        if line.starts_with("FROM ") {
            stages.push(Vec::new());
        }
        stages.last_mut().expect("it begins with FROM").push(line.to_owned());
    }
    stages
}

#[test]
fn the_image_has_the_program_and_nothing_to_break_out_with() {
    let stages = stages();
    let last = stages.last().expect("a stage");
    assert!(last[0].starts_with("FROM gcr.io/distroless/") && last[0].ends_with(":nonroot"));
    let is = |line: &&String, word: &str| line.split_whitespace().next() == Some(word);
    for word in ["RUN", "ADD", "ARG", "SHELL"] {
        assert_eq!(last.iter().find(|line| is(line, word)), None, "there is no shell");
    }
    let users: Vec<_> = last.iter().filter(|line| is(line, "USER")).collect();
    assert_eq!(users, ["USER 65532:65532"]);
    // By the list, without a shell.
    for word in ["ENTRYPOINT", "CMD"] {
        let line = last.iter().find(|line| is(line, word)).expect("it is there");
        assert!(line[word.len()..].trim_start().starts_with('['), "{line}");
    }
    for line in last.iter().filter(|line| is(line, "COPY")) {
        assert!(line.contains("--from=build"), "nothing comes past the build: {line}");
    }
    for line in stages.iter().flatten().filter(|line| is(line, "ENV")) {
        for word in ["KEY", "TOKEN", "PASSWORD", "SECRET"] {
            assert!(!line.contains(word), "no secret is in an image: {line}");
        }
    }
}

#[test]
fn what_is_built_does_not_depend_on_where() {
    let build = &stages()[0];
    let flags = build.iter().find(|line| line.starts_with("ENV RUSTFLAGS=")).expect("it is set");
    for folder in ["/build", "/usr/local/cargo"] {
        assert!(flags.contains(&format!("--remap-path-prefix={folder}=")), "{flags}");
        assert!(flags.contains(&format!("-ffile-prefix-map={folder}=")), "{flags}");
    }
    // The same program as outside of an image.
    assert!(build.iter().any(|line| line.contains("release/build")));
    assert!(build.iter().all(|line| !line.contains("cargo build")), "{build:?}");
    assert!(read("release/build").contains("cargo build --release --locked"));
    let tag = build[0].split(':').nth(1).expect("a tag");
    let pinned = read("rust-toolchain.toml");
    let version = tag.split('-').next().expect("a version");
    assert!(pinned.contains(&format!("channel = \"{version}.")), "{tag}: {pinned}");
}

/// The services of a composition, by name.
fn services(path: &str) -> Vec<(String, Value)> {
    let text = read(path);
    let mut documents = yaml_serde::Deserializer::from_str(&text);
    let mut value =
        yaml_serde::Value::deserialize(documents.next().expect("a document")).expect("YAML");
    // What is merged into a service may itself be merged of others.
    for _ in 0..3 {
        value.apply_merge().expect("anchors of maps");
    }
    let value = serde_json::to_value(value).expect("keys are text");
    let services = value["services"].as_object().expect("services");
    services.iter().map(|(name, service)| (name.clone(), service.clone())).collect()
}

#[test]
fn no_service_of_a_composition_has_more_rights_than_it_needs() {
    for path in ["docker-compose.yml", "docker-compose.shared.yml"] {
        let services = services(path);
        assert!(services.iter().any(|(name, _)| name.starts_with("gateway")));
        for (name, service) in services {
            let list = |key: &str| {
                let all = service[key].as_array().into_iter().flatten();
                all.map(|it| it.as_str().expect("text").to_owned()).collect::<Vec<_>>()
            };
            let name = format!("{name} of {path}");
            assert_eq!(service["read_only"], true, "{name}");
            assert_eq!(list("cap_drop"), ["ALL"], "{name}");
            assert_eq!(list("security_opt"), ["no-new-privileges:true"], "{name}");
            if name.starts_with("gateway") {
                assert_eq!(list("cap_add"), [""; 0], "{name}");
            }
            for key in ["privileged", "network_mode", "pid", "ipc", "userns_mode", "devices"] {
                assert_eq!(service[key], Value::Null, "{name}: {key}");
            }
            for port in list("ports") {
                assert!(port.starts_with("127.0.0.1:"), "{name}: {port}");
            }
            for volume in list("volumes") {
                assert!(!volume.contains("docker.sock"), "{name}: {volume}");
                // What comes from this folder is only read.
                let own = volume.starts_with('.') || volume.starts_with('/');
                assert!(!own || volume.ends_with(":ro"), "{name}: {volume}");
            }
        }
    }
}
