//! Writes a [`Config`] back as a file: every key with its effective value, secrets as references.

use std::path::Path;
use std::time::Duration;

use toml::{Table, Value};

use super::fallback;
use super::{
    Class, Classes, Config, LogFormat, OutputChoice, Profile, ReloadOn, Secret, Shared, Tls, Traces,
};
use crate::identity::VirtualKey;
use crate::limit::{ColdStart, Constraint, Learn, Mode, Spread};
use crate::time::Timestamp;
use crate::usage::Tokenizer;

pub(super) fn to_table(config: &Config) -> Table {
    let Config {
        server,
        upstream,
        admission,
        classes,
        retry,
        breaker,
        fallbacks,
        log,
        metrics,
        state,
        batch,
        identity,
        keys,
        output_choices,
        models,
        shared: shared_quota,
        traces: collector,
        files: _,
    } = config;
    let class_name = |index: usize| text(&classes.all()[index].name);
    let authority = upstream.base_url.authority().map_or("", |it| it.as_str());
    let base_url = format!("{}://{authority}", upstream.base_url.scheme_str().unwrap_or("https"));
    let header = admission.tenant_header.as_ref().map_or("", |name| name.as_str());
    let root = [
        (
            "server",
            table([
                ("listen", text(&server.listen)),
                ("admin", text(&server.admin)),
                ("admin_token", text(&reference(server.admin_access.token.as_ref()))),
                ("admin_open", Value::Boolean(server.admin_access.open)),
                ("admin_hosts", Value::Array(server.admin_access.hosts.iter().map(text).collect())),
                ("tls", tls(server.tls.as_ref())),
                ("max_connections", int(server.max_connections.get())),
                ("max_connections_per_ip", int(server.max_connections_per_ip.get())),
                ("max_body_bytes", int(server.max_body_bytes)),
                ("header_timeout", span(server.header_timeout)),
                ("body_timeout", span(server.body_timeout)),
                ("write_timeout", span(server.write_timeout)),
                ("reuse_port", Value::Boolean(server.reuse_port)),
                ("drain_delay", span(server.drain_delay)),
                ("drain_timeout", span(server.drain_timeout)),
                (
                    "reload",
                    text(match server.reload {
                        ReloadOn::Auto => &"auto",
                        ReloadOn::Signal => &"signal",
                    }),
                ),
            ]),
        ),
        (
            "upstream",
            table([
                ("base_url", text(&base_url)),
                ("api_key", text(&reference(upstream.api_key.as_ref()))),
                ("ca_file", text(&upstream.ca_file)),
                ("connect_timeout", span(upstream.connect_timeout)),
                ("head_timeout", span(upstream.head_timeout)),
                ("idle_timeout", span(upstream.idle_timeout)),
                ("pool_idle_timeout", span(upstream.pool_idle_timeout)),
            ]),
        ),
        (
            "admission",
            table([
                ("max_queued", int(admission.max_queued.get())),
                ("max_queued_bytes", int(admission.max_queued_bytes)),
                ("max_queued_per_tenant", int(admission.max_queued_per_tenant.get())),
                ("max_queued_bytes_per_tenant", int(admission.max_queued_bytes_per_tenant)),
                ("tenant_header", text(&header)),
                ("default_class", class_name(classes.default())),
                ("max_wait", span(admission.max_wait)),
                ("cold_start", text(&cold_start(admission.cold_start))),
                ("settle_delay", span(admission.settle_delay)),
                ("max_pools", int(admission.max_pools.get())),
                ("heartbeat_after", span(admission.heartbeat_after)),
                ("heartbeat_every", span(admission.heartbeat_every)),
                ("keep_place", span(admission.keep_place)),
            ]),
        ),
        ("identity", table([("keys_file", path(identity.keys_file.as_deref()))])),
        (
            "classes",
            Value::Table(classes.all().iter().map(|it| (it.name.to_string(), class(it))).collect()),
        ),
        (
            "retry",
            table([
                ("max_attempts", int(retry.max_attempts.get())),
                ("lost_answers", Value::Boolean(retry.lost_answers)),
                ("backoff", span(retry.backoff)),
                ("max_backoff", span(retry.max_backoff)),
                ("budget_percent", int(retry.budget_percent)),
                ("budget_per_second", int(retry.budget_per_second)),
            ]),
        ),
        (
            "breaker",
            table([
                ("failures", int(breaker.failures)),
                ("window", span(breaker.window)),
                ("open", span(breaker.open)),
                ("max_open", span(breaker.max_open)),
                ("probes", int(breaker.probes)),
                ("wait", span(breaker.wait)),
            ]),
        ),
        (
            "log",
            table([
                ("level", text(&log.level)),
                (
                    "format",
                    text(match log.format {
                        LogFormat::Text => &"text",
                        LogFormat::Json => &"json",
                    }),
                ),
                ("requests", Value::Boolean(log.requests)),
            ]),
        ),
        ("metrics", table([("max_tenants", int(metrics.max_tenants.get()))])),
        (
            "state",
            table([
                ("dir", path(state.dir.as_deref())),
                ("stateless", Value::Boolean(state.stateless)),
                ("sync", text(&state.sync.as_str())),
                ("keep_minutes", span(state.keep_minutes)),
                ("keep_hours", span(state.keep_hours)),
                ("keep_days", span(state.keep_days)),
            ]),
        ),
        (
            "batch",
            table([
                ("dir", path(batch.dir.as_deref())),
                ("class", class_name(batch.class)),
                ("max_lines", int(batch.max_lines.get())),
                ("max_file_bytes", int(batch.max_file_bytes)),
                ("max_stored_bytes", int(batch.max_stored_bytes)),
                ("max_batches", int(batch.max_batches.get())),
                ("max_in_flight", int(batch.max_in_flight.get())),
                ("max_attempts", int(batch.max_attempts.get())),
                ("keep", span(batch.keep)),
            ]),
        ),
        (
            "models",
            Value::Table(models.all().map(|it| (it.name.to_string(), profile(it))).collect()),
        ),
    ];
    let mut root: Table = root.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    if !fallbacks.is_empty() {
        root.insert("fallback".to_owned(), fallback::to_toml(fallbacks));
    }
    if let Some(section) = shared_quota {
        root.insert("shared".to_owned(), shared(section));
    }
    if let Some(section) = collector {
        root.insert("traces".to_owned(), traces(section));
    }
    // Those of the keys' file are shown by its name: both together would be there twice.
    let own = keys.iter().filter(|key| !key.in_keys_file);
    let own = own.map(|it| key(it, classes, output_choices.get(&it.name).copied()));
    let own: Vec<_> = own.collect();
    if !own.is_empty() {
        root.insert("keys".to_owned(), Value::Array(own));
    }
    root
}

fn key(key: &VirtualKey, classes: &Classes, output: Option<OutputChoice>) -> Value {
    let hash = |digest: &[u8; 32]| {
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        text(&format!("sha256:{hex}"))
    };
    let Value::Table(mut entry) = table([
        ("name", text(&key.name)),
        ("hash", hash(&key.digest)),
        ("heartbeats", Value::Boolean(key.heartbeats)),
        ("weight", int(key.weight.get())),
        ("revoked", Value::Boolean(key.revoked)),
    ]) else {
        return Value::Table(Table::new());
    };
    let mut add = |name: &str, value| entry.insert(name.to_owned(), value);
    if let Some(class) = key.class {
        add("class", text(&classes.all()[class].name));
    }
    if let Some(at) = key.expires {
        add("expires", instant(at));
    }
    if !key.previous.is_empty() {
        let previous = key.previous.iter();
        let previous = previous
            .map(|it| table([("hash", hash(&it.digest)), ("expires", instant(it.expires))]));
        add("previous", Value::Array(previous.collect()));
    }
    if let Some(terms) = &key.terms {
        if !terms.models.is_empty() {
            add("models", Value::Array(terms.models.iter().map(text).collect()));
        }
        if !terms.limits.is_empty() {
            add("limits", Value::Array(terms.limits.iter().map(limit).collect()));
        }
        if let Some(most) = terms.max_concurrent {
            add("max_concurrent", int(most.get()));
        }
    }
    let output = output.into_iter().flat_map(OutputChoice::entries);
    entry.extend(output.map(|(name, value)| (name.to_owned(), value)));
    Value::Table(entry)
}

/// Where a secret comes from; empty for none.
fn reference(secret: Option<&Secret>) -> &str {
    secret.map_or("", Secret::reference)
}

fn tls(section: Option<&Tls>) -> Value {
    table([
        ("cert", path(section.map(|it| it.cert.as_path()))),
        ("key", path(section.map(|it| it.key.as_path()))),
        ("client_ca", path(section.and_then(|it| it.client_ca.as_deref()))),
        ("admin", Value::Boolean(section.is_some_and(|it| it.admin))),
    ])
}

/// A URL that came from a reference is shown as that, and so is the login within it.
fn shared(section: &Shared) -> Value {
    let Shared { servers, timeout, grace, namespace, float, replicas } = section;
    let reference = servers.password.as_ref().map_or("", |it| it.reference());
    let apart = reference != servers.shown();
    let user = servers.user.as_deref().filter(|_| apart).unwrap_or_default();
    table([
        ("url", text(&servers.shown())),
        ("user", text(&user)),
        ("password", text(&if apart { reference } else { "" })),
        ("ca_file", text(&servers.ca_file())),
        ("timeout", span(*timeout)),
        ("grace", span(*grace)),
        ("namespace", text(namespace)),
        ("float", Value::Boolean(*float)),
        ("replicas", int(replicas.get())),
    ])
}

fn traces(section: &Traces) -> Value {
    table([
        ("endpoint", text(&section.endpoint)),
        ("headers", text(&section.headers_from())),
        ("service_name", text(&section.service_name)),
        ("resource", text(&section.resource_text())),
        ("provider", text(&section.provider)),
        ("sampler", text(&section.sampler.as_str())),
        ("sample_ratio", Value::Float(f64::from(section.sample_ratio) / 1_000_000.0)),
        ("timeout", span(section.timeout)),
        ("max_queued", int(section.max_queued.get())),
    ])
}

fn class(class: &Class) -> Value {
    let share = Value::Float(f64::from(class.rule.share) / 1_000.0);
    let paced = Value::Boolean(class.rule.paced);
    table([("rank", int(class.rule.rank)), ("share", share), ("paced", paced)])
}

fn profile(profile: &Profile) -> Value {
    let rule = &profile.estimate;
    let mut output = Table::new();
    output.insert("default".to_owned(), int(rule.output_default));
    if let Some(cap) = rule.output_cap {
        output.insert("cap".to_owned(), int(cap));
    }
    #[expect(clippy::cast_precision_loss, reason = "read from a number below a million")]
    let bytes_per_token = Value::Float(rule.prompt_bytes_per_token_milli.get() as f64 / 1_000.0);
    let prompt = table([
        ("bytes_per_token", bytes_per_token),
        ("per_message", int(rule.per_message)),
        ("per_request", int(rule.per_request)),
        ("per_part", int(rule.per_image)),
        ("calibrate", Value::Boolean(profile.calibrate)),
        ("margin_percent", int(profile.margin_percent)),
        ("tokenizer", text(&profile.tokenizer.as_ref().map_or("none", Tokenizer::as_str))),
    ]);
    let mut table = Table::new();
    if let Some(most) = profile.max_concurrent {
        table.insert("max_concurrent".to_owned(), int(most.get()));
    }
    table.insert("min_gap".to_owned(), span(profile.min_gap));
    let output_choice = OutputChoice::from(profile.output).entries();
    table.extend(output_choice.map(|(name, value)| (name.to_owned(), value)));
    table.insert("output_reservation".to_owned(), Value::Table(output));
    table.insert("prompt_estimate".to_owned(), prompt);
    table.insert("limits".to_owned(), Value::Array(profile.limits.iter().map(limit).collect()));
    Value::Table(table)
}

fn limit(quota: &Constraint) -> Value {
    let Value::Table(mut limit) = table([
        ("unit", text(&quota.unit().as_str())),
        ("limit", int(quota.limit())),
        ("per", span(quota.window())),
        ("name", text(&quota.name())),
        ("mode", text(&quota.mode().as_str())),
    ]) else {
        return Value::Table(Table::new());
    };
    let learn = match quota.learn() {
        Learn::Both => "both",
        Learn::Down => "down",
        Learn::Never => "never",
    };
    limit.insert("learn".to_owned(), text(&learn));
    let Spread { even, reserve } = quota.spread();
    for (key, part) in [("spread", even), ("reserve", reserve)] {
        limit.insert(key.to_owned(), Value::Float(f64::from(part) / 1_000.0));
    }
    if let Mode::Fixed { skew } = quota.mode() {
        limit.insert("skew".to_owned(), span(skew));
    }
    Value::Table(limit)
}

fn table<const N: usize>(entries: [(&str, Value); N]) -> Value {
    Value::Table(entries.into_iter().map(|(key, value)| (key.to_owned(), value)).collect())
}

fn text(value: &impl ToString) -> Value {
    Value::String(value.to_string())
}

fn path(value: Option<&Path>) -> Value {
    text(&value.map_or_else(String::new, |it| it.display().to_string()))
}

fn instant(at: Timestamp) -> Value {
    Value::String(String::from_utf8_lossy(&at.rfc3339()).into_owned())
}

fn int(value: impl Into<u64>) -> Value {
    Value::Integer(i64::try_from(value.into()).unwrap_or(i64::MAX))
}

fn span(value: Duration) -> Value {
    text(&humantime::format_duration(value))
}

fn cold_start(start: ColdStart) -> &'static str {
    match start {
        ColdStart::Full => "full",
        ColdStart::Empty => "empty",
        ColdStart::Probe => "probe",
    }
}
