//! The examples of deployments: that what they configure is what the program then goes by, in the
//! container that it is in, and that the parts fit each other.

use std::net::IpAddr;
use std::path::Path;

use serde::Deserialize;
use serde_json::Value;
use tidegate::config::{Config, Overrides, Topology};

use crate::support::Gateway;

const KUBERNETES: [&str; 2] = ["deploy/kubernetes/shared.yaml", "deploy/kubernetes/sidecar.yaml"];
const COMPOSE: [&str; 2] = ["docker-compose.yml", "docker-compose.shared.yml"];
const MIB: u64 = 1 << 20;

fn read(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(path).expect("a file")
}

fn documents(path: &str) -> Vec<Value> {
    let text = read(path);
    let documents = yaml_serde::Deserializer::from_str(&text).map(|document| {
        let mut value = yaml_serde::Value::deserialize(document).expect("YAML");
        value.apply_merge().expect("anchors of maps");
        serde_json::to_value(value).expect("keys are text")
    });
    documents.collect()
}

fn text(value: &Value) -> &str {
    value.as_str().expect("text")
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn named<'a>(all: &'a Value, name: &Value) -> &'a Value {
    list(all).find(|it| it["name"] == *name).unwrap_or(&Value::Null)
}

fn kinds<'a>(documents: &'a [Value], kind: &str) -> impl Iterator<Item = &'a Value> {
    documents.iter().filter(move |it| it["kind"] == kind)
}

/// Every container of a file's deployments, with its pod and the deployment.
fn containers(documents: &[Value]) -> Vec<(&Value, &Value, &Value)> {
    let deployments = kinds(documents, "Deployment");
    deployments
        .flat_map(|deployment| {
            let pod = &deployment["spec"]["template"]["spec"];
            let all = list(&pod["initContainers"]).chain(list(&pod["containers"]));
            all.map(move |container| (deployment, pod, container))
        })
        .collect()
}

/// What the image sets, by its Dockerfile.
fn image_environment() -> Vec<(String, String)> {
    let dockerfile = read("Dockerfile").replace("\\\n", " ");
    let lines = dockerfile.lines().filter_map(|line| line.strip_prefix("ENV "));
    let pairs = lines.flat_map(str::split_whitespace).filter_map(|word| word.split_once('='));
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What the container's process finds: the image's variables, its own, and those that Kubernetes makes
/// of the names of services unless it is told not to.
fn environment(documents: &[Value], pod: &Value, container: &Value) -> Vec<(String, String)> {
    let mut all = image_environment();
    if pod["enableServiceLinks"] != Value::Bool(false) {
        all.extend(kinds(documents, "Service").map(|service| {
            let name = text(&service["metadata"]["name"]).to_uppercase().replace('-', "_");
            (format!("{name}_SERVICE_HOST"), "10.0.0.1".to_owned())
        }));
    }
    for variable in list(&container["env"]) {
        let name = text(&variable["name"]);
        all.retain(|(other, _)| other != name);
        all.push((name.to_owned(), text(&variable["value"]).to_owned()));
    }
    all
}

/// The gateway of a file, as it will be configured where it runs.
fn configured(documents: &[Value], secrets: &Path) -> Config {
    let all = containers(documents);
    let (_, pod, container) = all.iter().find(|it| it.2["name"] == "tidegate").expect("one");
    let [command, flag, path] =
        [0, 1, 2].map(|index| container["args"][index].as_str().unwrap_or(""));
    assert_eq!((command, flag), ("serve", "--config"));
    let (folder, file) = path.rsplit_once('/').expect("an absolute path");
    let mut mounts = list(&container["volumeMounts"]);
    let mount = mounts.find(|it| it["mountPath"] == folder).expect("a mount");
    let map = &named(&pod["volumes"], &mount["name"])["configMap"]["name"];
    let mut maps = kinds(documents, "ConfigMap");
    let map = maps.find(|it| it["metadata"]["name"] == *map).expect("the map");
    let config = text(&map["data"][file]).replace("/run/secrets", &secrets.display().to_string());
    let environment = environment(documents, pod, container);
    let config = Config::parse(&config, environment, &Overrides::default());
    config.map_err(|problems| problems.to_string()).expect("a configuration")
}

fn secrets() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    for secret in ["account/api-key", "admin/token", "redis/password"] {
        let path = folder.path().join(secret);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        std::fs::write(path, "planted-secret-of-some-length").expect("a file");
    }
    folder
}

/// A quantity of Kubernetes, in bytes.
fn bytes(quantity: &Value) -> u64 {
    let count = text(quantity).strip_suffix("Mi").expect("MiB");
    count.parse::<u64>().expect("a number") * MIB
}

#[test]
fn a_gateway_in_a_pod_goes_by_what_the_manifest_says() {
    let secrets = secrets();
    let redis = documents(KUBERNETES[0]);
    let mut services = kinds(&redis, "Service");
    let server = services.find(|it| it["metadata"]["name"] == "tidegate-redis").expect("one");
    for (file, inside) in KUBERNETES.into_iter().zip([false, true]) {
        let documents = documents(file);
        let config = configured(&documents, secrets.path());
        let all = containers(&documents);
        let (_, pod, container) = all.iter().find(|it| it.2["name"] == "tidegate").expect("one");
        let port = |name: &str| named(&container["ports"], &name.into())["containerPort"].as_u64();
        let probe = &container["livenessProbe"]["httpGet"]["port"];
        assert_eq!(port(text(probe)), Some(config.server.admin.port().into()), "{file}");
        assert!(config.server.admin.ip().is_unspecified(), "{file}: the kubelet asks there");
        let access = &config.server.admin_access;
        assert!(access.token.is_some() && !access.open, "{file}: a cluster is no private network");
        if inside {
            let url = named(&pod["containers"][0]["env"], &"CEREBRAS_BASE_URL".into());
            assert_eq!(text(&url["value"]), format!("http://{}", config.server.listen));
            assert!(config.server.listen.ip().is_loopback(), "without keys, nobody from outside");
        } else {
            assert_eq!(port("api"), Some(config.server.listen.port().into()));
            assert_eq!(config.server.listen.ip(), IpAddr::from([0, 0, 0, 0]));
        }
        let state = config.state.dir.as_deref().and_then(Path::to_str).expect("a directory");
        let mount = list(&container["volumeMounts"]).find(|it| it["mountPath"] == state);
        let mount = mount.expect("state is on a volume");
        assert!(!named(&pod["volumes"], &mount["name"])["emptyDir"].is_null(), "{file}");
        let grace = pod["terminationGracePeriodSeconds"].as_u64().expect("seconds");
        assert!(grace > config.server.drain_timeout.as_secs(), "{file}");
        let room = bytes(&container["resources"]["limits"]["memory"]);
        assert!(room >= config.admission.max_queued_bytes.get() + 256 * MIB, "{file}");
        let servers = config.shared.expect("a shared quota").servers;
        assert_eq!(
            (servers.topology, servers.user.as_deref()),
            (Topology::Single, Some("tidegate"))
        );
        let (host, redis_port) = &servers.hosts[0];
        let full = ["name", "namespace"].map(|key| text(&server["metadata"][key])).join(".");
        assert!(format!("{full}.svc").starts_with(host.as_str()), "{file}: {host}");
        assert_eq!(server["spec"]["ports"][0]["port"].as_u64(), Some((*redis_port).into()));
    }
}

#[tokio::test]
async fn every_probe_is_answered() {
    let gateway = Gateway::start("http://127.0.0.1:9", "");
    let mut seen = 0;
    for file in KUBERNETES {
        for (.., container) in containers(&documents(file)) {
            for probe in ["startupProbe", "readinessProbe", "livenessProbe"] {
                if let Some(path) = container[probe]["httpGet"]["path"].as_str() {
                    assert_eq!(gateway.page(path).await.0, 200, "{file}: {path}");
                    seen += 1;
                }
            }
        }
    }
    assert_eq!(seen, 4);
    gateway.close().await;
}

#[test]
fn no_container_is_root_or_writes_or_lacks_probes() {
    let mut seen = 0;
    for file in KUBERNETES {
        for (_, pod, container) in containers(&documents(file)) {
            let name = text(&container["name"]);
            let security = &container["securityContext"];
            assert_eq!(pod["securityContext"]["runAsNonRoot"], true, "{name}");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{name}");
            assert_eq!(security["allowPrivilegeEscalation"], false, "{name}");
            assert_eq!(security["capabilities"]["drop"][0], "ALL", "{name}");
            assert!(!container["resources"]["limits"]["memory"].is_null(), "{name}");
            assert!(name == "application" || !container["livenessProbe"].is_null(), "{name}");
            seen += 1;
        }
    }
    assert_eq!(seen, 4);
}

#[test]
fn secrets_come_from_secrets_and_what_is_named_is_there() {
    for file in KUBERNETES {
        let documents = documents(file);
        assert_eq!(kinds(&documents, "Secret").count(), 0, "{file} holds none itself");
        for (_, pod, container) in containers(&documents) {
            for mount in list(&container["volumeMounts"]) {
                let volume = named(&pod["volumes"], &mount["name"]);
                assert!(!volume.is_null(), "{file}: {mount}");
                let is_secret = !volume["secret"].is_null();
                assert_eq!(text(&mount["mountPath"]).starts_with("/run/secrets/"), is_secret);
            }
        }
        // Every service leads to a port of pods with the labels that it selects.
        for service in kinds(&documents, "Service") {
            let (selector, ports) = (&service["spec"]["selector"], &service["spec"]["ports"]);
            let target = list(ports).all(|port| {
                containers(&documents).iter().any(|(deployment, _, container)| {
                    deployment["spec"]["template"]["metadata"]["labels"] == *selector
                        && !named(&container["ports"], &port["targetPort"]).is_null()
                })
            });
            assert!(target, "{file}: {service:#}");
        }
    }
}

#[test]
fn the_images_are_the_same_everywhere() {
    let compose = COMPOSE.map(|file| documents(file).remove(0));
    let image = |document: &Value, service: &str| document["services"][service]["image"].clone();
    let (ours, redis) = (image(&compose[0], "gateway"), image(&compose[0], "redis"));
    assert!(ours.is_string() && redis.is_string());
    assert_eq!(
        (image(&compose[1], "gateway-1"), image(&compose[1], "redis")),
        (ours.clone(), redis.clone())
    );
    for file in KUBERNETES {
        for (.., container) in containers(&documents(file)) {
            let expected = match text(&container["name"]) {
                "tidegate" => &ours,
                "redis" => &redis,
                _ => continue,
            };
            assert_eq!(container["image"], *expected, "{file}");
        }
    }
}

#[test]
fn the_composition_has_three_gateways_and_one_redis() {
    let document = documents(COMPOSE[1]).remove(0);
    let services = document["services"].as_object().expect("services");
    let balancer = list(&services["balancer"]["command"]).map(text).collect::<Vec<_>>();
    let mut gateways = 0;
    for (name, service) in services {
        for port in list(&service["ports"]) {
            assert!(text(port).starts_with("127.0.0.1:"), "{port}");
        }
        if !name.starts_with("gateway-") {
            continue;
        }
        gateways += 1;
        let mut environment = image_environment();
        let own = list(&service["environment"]).filter_map(|it| text(it).split_once('='));
        environment.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let volumes: Vec<_> = list(&service["volumes"]).map(text).collect();
        let place = "/etc/tidegate/tidegate.toml:ro";
        let file = volumes.iter().find_map(|it| it.strip_suffix(place)?.strip_suffix(':'));
        let file = read(file.expect("a configuration is mounted"));
        let config = Config::parse(&file, environment, &Overrides::default()).expect("it is valid");
        assert!(config.server.admin_access.open, "{name}: published on loopback only");
        let hosts = config.shared.expect("a shared quota").servers.hosts;
        assert_eq!(hosts, [("redis".to_owned(), 6379)]);
        assert!(services.contains_key("redis"));
        let admin = format!(":{}", config.server.admin.port());
        assert!(text(&service["ports"][0]).ends_with(&admin), "{name}");
        let to = format!("--to={name}:{}", config.server.listen.port());
        assert!(balancer.contains(&to.as_str()), "{balancer:?}: {to}");
        let state = config.state.dir.as_deref().and_then(Path::to_str).expect("a directory");
        let own = volumes.iter().find_map(|it| it.strip_suffix(state)?.strip_suffix(':'));
        let own = own.expect("state is on a volume");
        assert!(own.contains(name.as_str()), "a directory has one process: {own}");
        assert!(document["volumes"].as_object().is_some_and(|all| all.contains_key(own)));
        let grace = text(&service["stop_grace_period"]).strip_suffix('s').expect("seconds");
        let grace: u64 = grace.parse().expect("a number");
        assert!(grace > config.server.drain_timeout.as_secs(), "{name}");
    }
    assert_eq!(gateways, 3);
}

#[test]
fn the_image_alone_shows_its_admin_port_to_nobody() {
    let file = read("config/tidegate.toml");
    let config = Config::parse(&file, image_environment(), &Overrides::default()).expect("valid");
    assert!(config.server.listen.ip().is_unspecified(), "it is to be published");
    assert!(config.server.admin.ip().is_loopback(), "the health check asks there");
}

#[test]
fn prometheus_asks_the_composed_gateway_by_a_name_that_it_goes_by() {
    let document = documents(COMPOSE[0]).remove(0);
    let mut environment = image_environment();
    let own = list(&document["services"]["gateway"]["environment"]);
    let own = own.filter_map(|it| text(it).split_once('='));
    environment.extend(own.map(|(name, value)| (name.to_owned(), value.to_owned())));
    let file = read("config/tidegate.toml");
    let config = Config::parse(&file, environment, &Overrides::default()).expect("valid");
    let prometheus = documents("config/prometheus/prometheus.yml").remove(0);
    let target = &prometheus["scrape_configs"][0]["static_configs"][0]["targets"][0];
    let (host, port) = text(target).split_once(':').expect("a host and a port");
    assert_eq!(config.server.admin_access.hosts, [host]);
    assert_eq!(config.server.admin.port().to_string(), port);
    assert!(config.server.admin_access.open && config.server.admin.ip().is_unspecified());
    for (name, service) in document["services"].as_object().expect("services") {
        for port in list(&service["ports"]) {
            assert!(text(port).starts_with("127.0.0.1:"), "{name}: {port}");
        }
    }
}

/// The rights that the manifest gives the gateways, for a server to try them on.
pub(super) fn rights() -> String {
    let manifest = read(KUBERNETES[0]);
    let (_, rest) = manifest.split_once("/run/secrets/redis/password) ").expect("the user's line");
    let (rights, _) = rest.split_once("} >").expect("its end");
    let words: Vec<_> =
        rights.split_whitespace().map(|it| it.trim_matches('"')).filter(|it| *it != "\\").collect();
    words.join(" ")
}
