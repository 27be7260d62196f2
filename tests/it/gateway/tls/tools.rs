//! The program's own commands at an admin port that speaks TLS and asks for a token.

use tempfile::NamedTempFile;

use super::certificates::{Authority, Files};
use crate::support::process::{self, file, path, tidegate};
use crate::support::upstream::{Upstream, completion};
use crate::support::{Gateway, config_text, eventually};

const TOKEN: &str = "planted-admin-token";
const WRONG: &str = "planted-wrong-admin-token";

/// Exit code of a command, and all that it says.
async fn run(args: &[&str], variables: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut command = tidegate(args);
    command.envs(variables.iter().copied());
    let run = tokio::task::spawn_blocking(move || process::run(&mut command));
    let (code, out, error) = run.await.expect("no panic");
    (code, out + &error)
}

/// A gateway whose configuration is in a file, as `check` needs it.
fn start(upstream: &Upstream, changes: &str) -> (Gateway, NamedTempFile) {
    let text = config_text(&upstream.url(), &format!("{changes}\nstate.stateless = true"));
    (Gateway::start_in(&text, []), file(&text))
}

/// The three commands, as they ask the port at this address; what each says if all is well.
fn commands<'a>(
    url: &'a str,
    ready: &'a str,
    config: &'a str,
) -> [(Vec<&'a str>, &'static str); 3] {
    [
        (vec!["check", config, "--running", url], "nothing would change"),
        (vec!["top", "--once", url], "Tidegate"),
        (vec!["healthcheck", ready], "\"version\""),
    ]
}

#[tokio::test]
async fn commands_get_in_with_token_and_authority_and_say_what_they_lack() {
    let upstream = Upstream::answering(completion()).await;
    let (authority, files) = Files::fresh("localhost");
    let secret = file(TOKEN);
    let token = format!("server.admin_token = \"file:{}\"", path(&secret));
    let changes = files.config(&format!("server.tls.admin = true\n{token}"));
    let (gateway, config) = start(&upstream, &changes);
    let (own, other) = (file(&authority.pem()), file(&Authority::new().pem()));
    let port = gateway.admin.port();
    let (url, by_address) =
        (format!("https://localhost:{port}"), format!("https://{}", gateway.admin));
    let plain = format!("http://localhost:{port}");
    let status = |base: &str| format!("{base}/status");
    let (statuses, reference) =
        ([status(&url), status(&plain), status(&by_address)], format!("file:{}", path(&secret)));
    for (args, well) in commands(&url, &statuses[0], path(&config)) {
        let trusted = ("TIDEGATE_ADMIN_CA", path(&own));
        let known = [trusted, ("TIDEGATE_ADMIN_TOKEN", TOKEN)];
        let told = [&args[..], &["--ca", path(&own), "--token", &reference]].concat();
        let tries = [
            (run(&told, &[]).await, 0, well),
            (run(&args, &known).await, 0, well),
            (run(&args, &[trusted]).await, 1, "asks for a token"),
            (run(&args, &[trusted, ("TIDEGATE_ADMIN_TOKEN", WRONG)]).await, 1, "wrong token"),
            (run(&args, &[("TIDEGATE_ADMIN_TOKEN", TOKEN)]).await, 1, "is not trusted"),
            (run(&[&args[..], &["--ca", path(&other)]].concat(), &known).await, 1, "--ca"),
            (run(&[&args[..], &["--ca", "/no/such"]].concat(), &known).await, 2, "--ca: /no/such"),
            (run(&args, &[("TIDEGATE_ADMIN_CA", path(&secret))]).await, 2, "no certificate in it"),
        ];
        for (number, ((code, text), expected, part)) in tries.into_iter().enumerate() {
            assert!(
                code == Some(expected) && text.contains(part),
                "{args:?} {number}: {code:?} {text}"
            );
            assert!(!text.contains("planted"), "{args:?} {number}: {text}");
        }
    }
    let known = [("TIDEGATE_ADMIN_CA", path(&own)), ("TIDEGATE_ADMIN_TOKEN", TOKEN)];
    for (base, ready, part) in [
        (&plain, &statuses[1], "this port speaks TLS, https://"),
        (&by_address, &statuses[2], "is not valid: certificate not valid for name"),
    ] {
        for (args, _) in commands(base, ready, path(&config)) {
            let (code, text) = run(&args, &known).await;
            assert!(code == Some(1) && text.contains(part), "{args:?}: {code:?} {text}");
        }
    }
    files.write(&authority.issue("localhost", 2020));
    eventually("the new certificate, which has expired", async || {
        let (code, text) = run(&["healthcheck", &statuses[0]], &known).await;
        (code == Some(1) && text.contains("is not valid: certificate expired")).then_some(())
    })
    .await;
    gateway.stop.cancel();
    gateway.ended().await;
}

#[tokio::test]
async fn commands_get_in_without_tls_and_say_so_where_it_was_expected() {
    let upstream = Upstream::answering(completion()).await;
    let secret = file(TOKEN);
    let token = format!("server.admin_token = \"file:{}\"", path(&secret));
    let (gateway, config) = start(&upstream, &token);
    let (url, encrypted) = (gateway.admin.to_string(), format!("https://{}", gateway.admin));
    let statuses = [format!("{url}/status"), format!("{encrypted}/status")];
    let known = [("TIDEGATE_ADMIN_TOKEN", TOKEN)];
    for (args, well) in commands(&url, &statuses[0], path(&config)) {
        for (variables, code, part) in [
            (&known[..], 0, well),
            (&[], 1, "asks for a token"),
            (&[("TIDEGATE_ADMIN_TOKEN", WRONG)], 1, "wrong token"),
        ] {
            let (seen, text) = run(&args, variables).await;
            assert!(seen == Some(code) && text.contains(part), "{args:?}: {seen:?} {text}");
            assert!(!text.contains("planted"), "{args:?}: {text}");
        }
    }
    for (args, _) in commands(&encrypted, &statuses[1], path(&config)) {
        let (code, text) = run(&args, &known).await;
        let part = "this port speaks no TLS, http://";
        assert!(code == Some(1) && text.contains(part), "{args:?}: {code:?} {text}");
    }
    let (code, text) = run(&["healthcheck", "ftp://localhost"], &[]).await;
    assert!(code == Some(2) && text.contains("is not the address of an admin port"), "{text}");
    gateway.stop.cancel();
    gateway.ended().await;
}
