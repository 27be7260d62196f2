//! The examples of deployments: that they parse, keep the promises of their comments, and that what
//! they configure is a configuration.

use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tidegate::config::{Config, Overrides, Topology};

fn documents(path: &str) -> Vec<Value> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let text = std::fs::read_to_string(&path).expect("a file");
    let documents = serde_yaml_ng::Deserializer::from_str(&text);
    let documents: Vec<_> = documents.map(|it| Value::deserialize(it).expect("YAML")).collect();
    assert!(!documents.is_empty());
    documents
}

fn kinds<'a>(documents: &'a [Value], kind: &str) -> Vec<&'a Value> {
    documents.iter().filter(|it| it["kind"].as_str() == Some(kind)).collect()
}

/// Every container of the deployments, with its pod.
fn containers(documents: &[Value]) -> Vec<(&Value, &Value)> {
    let pods = kinds(documents, "Deployment").into_iter().map(|it| &it["spec"]["template"]["spec"]);
    pods.flat_map(|pod| {
        let all = ["initContainers", "containers"].map(|key| pod[key].as_array());
        all.into_iter().flatten().flatten().map(move |container| (pod, container))
    })
    .collect()
}

const FILES: [&str; 2] = ["deploy/kubernetes/shared.yaml", "deploy/kubernetes/sidecar.yaml"];

#[test]
fn no_container_is_root_or_writes_or_lacks_probes() {
    let mut seen = 0;
    for file in FILES {
        let documents = documents(file);
        for (pod, container) in containers(&documents) {
            let name = container["name"].as_str().expect("a name");
            let security = &container["securityContext"];
            assert_eq!(pod["securityContext"]["runAsNonRoot"].as_bool(), Some(true), "{name}");
            assert_eq!(security["readOnlyRootFilesystem"].as_bool(), Some(true), "{name}");
            assert_eq!(security["allowPrivilegeEscalation"].as_bool(), Some(false), "{name}");
            assert_eq!(security["capabilities"]["drop"][0].as_str(), Some("ALL"), "{name}");
            assert!(!container["resources"]["limits"]["memory"].is_null(), "{name}");
            let ours = matches!(name, "tidegate" | "redis");
            assert!(!ours || !container["livenessProbe"].is_null(), "{name}");
            seen += 1;
        }
    }
    assert_eq!(seen, 4);
}

#[test]
fn secrets_come_from_secrets_and_every_mount_has_its_volume() {
    for file in FILES {
        let documents = documents(file);
        assert!(kinds(&documents, "Secret").is_empty(), "{file} holds none itself");
        for (pod, container) in containers(&documents) {
            let volumes = pod["volumes"].as_array().expect("volumes");
            for mount in container["volumeMounts"].as_array().into_iter().flatten() {
                let named = |it: &&Value| it["name"] == mount["name"];
                let volume = volumes.iter().find(named).expect("a volume");
                let path = mount["mountPath"].as_str().expect("a path");
                let is_secret = !volume["secret"].is_null();
                assert_eq!(path.starts_with("/run/secrets/"), is_secret, "{path}");
            }
        }
    }
}

#[test]
fn what_they_configure_is_a_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    for secret in ["account/api-key", "redis/password"] {
        let path = folder.path().join(secret);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, "planted").expect("a file");
    }
    for file in FILES {
        let documents = documents(file);
        let map = kinds(&documents, "ConfigMap")[0];
        let text = map["data"]["tidegate.toml"].as_str().expect("a configuration");
        let text = text.replace("/run/secrets", &folder.path().display().to_string());
        let config = Config::parse(&text, [], &Overrides::default());
        let shared = config.unwrap_or_else(|problems| panic!("{file}: {problems}")).shared;
        let shared = shared.expect("a shared quota");
        assert_eq!(shared.servers.topology, Topology::Single);
        assert_eq!(shared.servers.user.as_deref(), Some("tidegate"));
    }
}

#[test]
fn the_composition_has_three_gateways_and_one_redis() {
    let documents = documents("docker-compose.shared.yml");
    let services = documents[0]["services"].as_object().expect("services");
    let names: Vec<_> = services.keys().map(String::as_str).collect();
    assert_eq!(names.iter().filter(|it| it.starts_with("gateway-")).count(), 3);
    let gateway = &documents[0]["x-gateway"];
    let environment = gateway["environment"].as_array().expect("variables");
    let url = environment.iter().filter_map(Value::as_str).find_map(|it| it.split_once('='));
    let (name, url) = url.expect("the address of the server");
    let variables = [(name.to_owned(), url.to_owned())];
    let text = std::fs::read_to_string("config/tidegate.toml").expect("the short file");
    let config = Config::parse(&text, variables, &Overrides::default()).expect("a configuration");
    let hosts = config.shared.expect("a shared quota").servers.hosts;
    assert_eq!(hosts, [("redis".to_owned(), 6379)]);
    assert!(names.contains(&"redis"));
    for (_, service) in services {
        for port in service["ports"].as_array().into_iter().flatten() {
            assert!(port.as_str().expect("a port").starts_with("127.0.0.1:"), "{port:?}");
        }
    }
}

/// The rights that the manifest gives the gateways, for a server to try them on.
pub(super) fn rights() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(FILES[0]);
    let text = std::fs::read_to_string(path).expect("a file");
    let (_, rest) = text.split_once("/run/secrets/redis/password) ").expect("the user's line");
    let (rights, _) = rest.split_once("} >").expect("its end");
    let words: Vec<_> =
        rights.split_whitespace().map(|it| it.trim_matches('"')).filter(|it| *it != "\\").collect();
    words.join(" ")
}
