use super::*;
use crate::config::{Config, DEFAULT_FILE, Overrides, Problems};

fn read(lines: &str, environment: &[(&str, &str)]) -> Result<Option<Traces>, Problems> {
    let text = format!("{DEFAULT_FILE}\n[traces]\n{lines}\n");
    let environment: Vec<_> =
        environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    Config::parse(&text, environment, &Overrides::default()).map(|config| config.traces)
}

#[test]
fn nothing_is_sent_unless_it_is_said_where() {
    assert_eq!(read("", &[]).unwrap(), None);
    assert_eq!(read("service_name = \"x\"", &[("OTEL_SERVICE_NAME", "y")]).unwrap(), None);
    let traces = read("endpoint = \"http://c:4318\"", &[]).unwrap().unwrap();
    assert_eq!(traces.endpoint, "http://c:4318/v1/traces");
    assert_eq!((traces.service_name.as_str(), traces.sample_ratio), ("tidegate", 1_000_000));
    assert_eq!(traces.sampler.as_str(), "parentbased_traceidratio");
    let traces = read("endpoint = \"https://c/own?x=y\"", &[]).unwrap().unwrap();
    assert_eq!(traces.endpoint, "https://c/own?x=y");
}

#[test]
fn the_standard_variables_are_heard() {
    let all = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://base:4318/prefix/"),
        ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20planted, x-team = a"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "2500"),
        ("OTEL_RESOURCE_ATTRIBUTES", "service.name=theirs,deployment.environment.name=a%2Cb"),
        ("OTEL_TRACES_SAMPLER", "traceidratio"),
        ("OTEL_TRACES_SAMPLER_ARG", "0.25"),
        ("OTEL_LOG_LEVEL", "debug"),
        ("OTEL_SERVICE_NAME", ""),
    ];
    let traces = read("", &all).unwrap().unwrap();
    assert_eq!(traces.endpoint, "http://base:4318/prefix/v1/traces");
    assert_eq!(traces.headers["authorization"], "Bearer planted");
    assert_eq!(traces.headers["x-team"], "a");
    assert_eq!(traces.timeout, Duration::from_millis(2_500));
    assert_eq!(traces.service_name, "theirs");
    let said = [("deployment.environment.name".to_owned(), "a,b".to_owned())];
    assert_eq!(traces.resource, said);
    assert_eq!((traces.sampler.as_str(), traces.sample_ratio), ("traceidratio", 250_000));
    assert!(!format!("{traces:?}").contains("planted"), "{traces:?}");

    let own = [
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://own:1/x"),
        ("OTEL_EXPORTER_OTLP_TRACES_HEADERS", "x-team=b"),
        ("OTEL_SERVICE_NAME", "mine"),
    ];
    let traces = read("", &[&all[..], &own].concat()).unwrap().unwrap();
    assert_eq!(traces.endpoint, "http://own:1/x", "what is said of traces comes first");
    assert_eq!(traces.headers["x-team"], "b");
    assert_eq!(traces.service_name, "mine");
    let ours = ("TIDEGATE_TRACES_ENDPOINT", "http://ours:1");
    let traces = read("endpoint = \"http://file:1\"", &[own[0], ours]).unwrap().unwrap();
    assert_eq!(traces.endpoint, "http://ours:1/v1/traces");
    // What is meant for other programs is no business of a gateway that sends nothing.
    let others = [("OTEL_TRACES_EXPORTER", "console"), ("OTEL_TRACES_SAMPLER", "xray")];
    assert_eq!(read("", &others).unwrap(), None);
    for off in [("OTEL_SDK_DISABLED", "TRUE"), ("OTEL_TRACES_EXPORTER", "none")] {
        assert_eq!(read("endpoint = \"http://file:1\"", &[own[0], off]).unwrap(), None);
    }
}

#[test]
fn what_is_wrong_is_said_without_its_secrets() {
    let lines = "endpoint = \"http://me:planted@c\"\nheaders = \"x-key=planted\"\n\
                 resource = \"a\"\nsampler = \"often\"\nsample_ratio = 2\ntimeout = \"0s\"\n\
                 max_queued = 0\nprovider = \"a b\"\nsamplr = 1";
    let shown = read(lines, &[]).unwrap_err().to_string();
    for expected in [
        "traces.endpoint (line ",
        "credentials have no place in a URL",
        "traces.headers (line ",
        "a reference is expected",
        "traces.resource (line ",
        "traces.sampler (line ",
        "one of always_on, always_off, traceidratio, parentbased_always_on",
        "traces.sample_ratio (line ",
        "traces.timeout (line ",
        "traces.max_queued (line ",
        "traces.provider (line ",
        "traces.samplr (line ",
    ] {
        assert!(shown.contains(expected), "no {expected:?} in\n{shown}");
    }
    assert!(!shown.contains("planted"), "{shown}");
    let on = ("OTEL_EXPORTER_OTLP_ENDPOINT", "http://c:4317");
    for (name, value, expected) in [
        ("OTEL_EXPORTER_OTLP_HEADERS", "planted", "OTEL_EXPORTER_OTLP_HEADERS (traces.headers)"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "10s", "milliseconds are expected"),
        ("OTEL_TRACES_SAMPLER", "xray", "OTEL_TRACES_SAMPLER (traces.sampler): one of"),
        ("OTEL_TRACES_SAMPLER_ARG", "half", "OTEL_TRACES_SAMPLER_ARG (traces.sample_ratio)"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", "only http/protobuf is spoken"),
        ("OTEL_TRACES_EXPORTER", "zipkin", "\"otlp\" or \"none\" is expected"),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "c:4318", "traces.endpoint"),
    ] {
        let shown = read("", &[on, (name, value)]).unwrap_err().to_string();
        assert!(shown.contains(expected), "no {expected:?} in\n{shown}");
        assert!(!shown.contains("planted"), "{shown}");
    }
}

#[test]
fn the_full_file_shows_the_defaults() {
    let on = [("TIDEGATE_TRACES_ENDPOINT", "http://c:1")];
    let environment = on.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let full = include_str!("../../../config/full.toml");
    let full = Config::parse(full, environment, &Overrides::default()).unwrap();
    assert_eq!(full.traces, read("", &on).unwrap());
}

#[test]
fn a_section_reads_back_as_itself_without_its_secrets() {
    let environment = [("HEADERS", "x-key=planted")];
    let lines = "endpoint = \"http://c:1\"\nheaders = \"env:HEADERS\"\nprovider = \"x\"\n\
                 resource = \"a=b%2Cc,d=%C3%A9\"\nsampler = \"always_off\"\nsample_ratio = 0.5\n\
                 service_name = \"s\"\ntimeout = \"3s\"\nmax_queued = 5";
    let text = format!("{DEFAULT_FILE}\n[traces]\n{lines}\n");
    let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let parse =
        |text: &str| Config::parse(text, environment.clone(), &Overrides::default()).expect(text);
    let config = parse(&text);
    let shown = config.to_toml();
    assert!(!shown.contains("planted"), "{shown}");
    assert_eq!(parse(&shown), config, "{shown}");
}
