use std::fs;

use rcgen::{CertifiedKey, KeyPair, generate_simple_self_signed};
use tempfile::TempDir;

use crate::config::{Config, DEFAULT_FILE, Overrides, Tls};

/// A directory with `cert.pem` and its `key.pem`.
fn directory() -> (TempDir, CertifiedKey<KeyPair>) {
    let directory = tempfile::tempdir().expect("a directory");
    let made = generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(directory.path().join("cert.pem"), made.cert.pem()).expect("room");
    fs::write(directory.path().join("key.pem"), made.signing_key.serialize_pem()).expect("room");
    (directory, made)
}

fn parse(directory: &TempDir, lines: &str) -> Result<Config, String> {
    let file = directory.path().join("tidegate.toml");
    fs::write(&file, format!("{DEFAULT_FILE}\n[server.tls]\n{lines}\n")).expect("room");
    Config::load(Some(&file), [], &Overrides::default()).map_err(|problems| problems.to_string())
}

const BOTH: &str = "cert = \"cert.pem\"\nkey = \"key.pem\"\n";

#[test]
fn files_are_found_beside_the_configuration_and_named_in_full_by_the_effective_one() {
    let (directory, _) = directory();
    let config = parse(&directory, BOTH).expect("valid");
    let expected = Tls {
        cert: directory.path().join("cert.pem"),
        key: directory.path().join("key.pem"),
        client_ca: None,
        admin: false,
    };
    assert_eq!(config.server.tls, Some(expected));
    // Of a text there is no file.
    let again = |config: &Config| {
        let again = Config::parse(&config.to_toml(), [], &Overrides::default()).expect("valid");
        Config { files: config.files.clone(), ..again }
    };
    assert_eq!(again(&config), config);
    let more = parse(&directory, &format!("{BOTH}client_ca = \"cert.pem\"\nadmin = true"));
    let more = more.expect("valid");
    assert_eq!(again(&more), more);
    let tls = more.server.tls.expect("it is there");
    assert!(tls.admin && tls.client_ca.is_some());
    let certified = tls.read().expect("valid");
    assert_eq!(certified.api.alpn_protocols, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert_eq!(certified.api.max_early_data_size, 0);
    assert!(parse(&directory, "").expect("valid").server.tls.is_none());
}

#[test]
fn what_is_wrong_names_the_key_and_the_file_and_shows_nothing_of_it() {
    let (directory, made) = directory();
    let other = KeyPair::generate().expect("a key");
    let write =
        |name: &str, text: &str| fs::write(directory.path().join(name), text).expect("room");
    write("other.pem", &other.serialize_pem());
    write("nothing.pem", "planted-text");
    write("broken.pem", "-----BEGIN CERTIFICATE-----\nplanted!\n-----END CERTIFICATE-----\n");
    write("no-der.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    fs::create_dir(directory.path().join("folder")).expect("room");
    for (lines, path, file, part) in [
        ("cert = \"no.pem\"\nkey = \"key.pem\"", "cert", "no.pem", "No such file"),
        ("cert = \"folder\"\nkey = \"key.pem\"", "cert", "folder", "is no file"),
        ("cert = \"nothing.pem\"\nkey = \"key.pem\"", "cert", "nothing.pem", "no certificate"),
        ("cert = \"broken.pem\"\nkey = \"key.pem\"", "cert", "broken.pem", "is no PEM"),
        ("cert = \"no-der.pem\"\nkey = \"key.pem\"", "cert", "no-der.pem", "certificate"),
        ("cert = \"key.pem\"\nkey = \"key.pem\"", "cert", "key.pem", "no certificate"),
        ("cert = \"cert.pem\"\nkey = \"cert.pem\"", "key", "cert.pem", "no private key"),
        ("cert = \"cert.pem\"\nkey = \"no.pem\"", "key", "no.pem", "No such file"),
        ("cert = \"cert.pem\"\nkey = \"other.pem\"", "key", "other.pem", "is not the key of"),
        (
            "cert = \"cert.pem\"\nkey = \"key.pem\"\nclient_ca = \"nothing.pem\"",
            "client_ca",
            "nothing.pem",
            "no certificate",
        ),
        (
            "cert = \"cert.pem\"\nkey = \"key.pem\"\nclient_ca = \"no-der.pem\"",
            "client_ca",
            "no-der.pem",
            "certificate",
        ),
    ] {
        let problems = parse(&directory, lines).expect_err(lines);
        assert!(problems.contains(&format!("server.tls.{path} (line")), "{lines}: {problems}");
        assert!(problems.contains(&format!("{file}: ")), "{lines}: {problems}");
        assert!(problems.contains(part), "{lines}: {problems}");
        assert!(!problems.contains("planted"), "{problems}");
    }
    for (lines, missing) in [
        ("cert = \"cert.pem\"", "server.tls.key"),
        ("key = \"key.pem\"", "server.tls.cert"),
        ("client_ca = \"cert.pem\"", "server.tls.cert"),
        ("admin = true", "server.tls.key"),
    ] {
        let problems = parse(&directory, lines).expect_err(lines);
        assert!(problems.contains(missing) && problems.contains("is missing"), "{problems}");
    }
    // A chain may hold more than its own certificate, and the key may stand in the same file.
    let both =
        format!("{}{}{}", made.signing_key.serialize_pem(), made.cert.pem(), made.cert.pem());
    write("both.pem", &both);
    parse(&directory, "cert = \"both.pem\"\nkey = \"both.pem\"").expect("valid");
}
