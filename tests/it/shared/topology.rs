//! Sentinel, cluster, TLS and access control.

use std::time::Duration;

use tempfile::TempDir;
use tokio::time::sleep;

use super::order::twins;
use super::server::{PATIENCE, Redis};
use super::twin::{Twin, agreed, assert_no_doubles, config};

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_keeps_a_pool_together() {
    let node = Redis::with(&["--cluster-enabled", "yes"]).await;
    node.ask::<()>(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    let ok = async {
        while !node.ask::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok") {
            sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, ok).await.expect("a cluster");
    let twins = twins(2, &format!("redis-cluster://127.0.0.1:{}", node.port)).await;
    for index in 0..20 {
        twins[index % 2].hold(&format!("{index}")).await;
    }
    let list = agreed(&twins, 20).await;
    assert_no_doubles(&list);
}

#[tokio::test(flavor = "multi_thread")]
async fn sentinels_say_who_took_over() {
    let master = Redis::start().await;
    let port = master.port.to_string();
    let replica = Redis::with(&["--replicaof", "127.0.0.1", &port]).await;
    let folder = TempDir::new().expect("a folder");
    let text = format!(
        "sentinel monitor main 127.0.0.1 {port} 1\nsentinel down-after-milliseconds main 500\n\
         sentinel failover-timeout main 3000\n"
    );
    std::fs::write(folder.path().join("sentinel.conf"), text).expect("a file");
    let sentinel = Redis::in_folder(folder, &["{dir}/sentinel.conf", "--sentinel"]).await;
    let knows = async {
        loop {
            let replicas: Vec<redis::Value> = sentinel.ask(&["SENTINEL", "REPLICAS", "main"]);
            if !replicas.is_empty() {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, knows).await.expect("a replica");
    let twins = twins(2, &format!("redis-sentinel://127.0.0.1:{}/main", sentinel.port)).await;
    let _beats: Vec<_> =
        twins.iter().map(|twin| twin.beating(Duration::from_millis(200))).collect();
    for index in 0..10 {
        twins[index % 2].hold(&format!("{index}")).await;
    }
    let before = agreed(&twins, 10).await;
    drop(master);
    twins[0].hold("after").await;
    let after = agreed(&twins, 11).await;
    assert!(after.starts_with(&before), "{before:#?}\n{after:#?}");
    let role: Vec<redis::Value> = replica.ask(&["ROLE"]);
    assert_eq!(role[0], redis::Value::BulkString(b"master".to_vec()));
}

/// A certificate for 127.0.0.1 that vouches for itself.
fn certificate(folder: &TempDir) {
    let key = rcgen::KeyPair::generate().expect("a key");
    let params = rcgen::CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    std::fs::write(folder.path().join("cert.pem"), certificate.pem()).expect("a file");
    std::fs::write(folder.path().join("key.pem"), key.serialize_pem()).expect("a file");
}

#[tokio::test(flavor = "multi_thread")]
async fn encrypted_and_with_a_login_of_few_rights() {
    let folder = TempDir::new().expect("a folder");
    certificate(&folder);
    let rights = super::manifests::rights();
    assert!(rights.contains("+evalsha") && rights.contains("-@all"), "{rights}");
    let acl = format!("user default off\nuser gateway on >pass-planted {rights}\n");
    std::fs::write(folder.path().join("users.acl"), acl).expect("a file");
    let port = super::server::free_port().to_string();
    let server = Redis::in_folder(
        folder,
        &[
            "--tls-port",
            &port,
            "--tls-cert-file",
            "{dir}/cert.pem",
            "--tls-key-file",
            "{dir}/key.pem",
            "--tls-ca-cert-file",
            "{dir}/cert.pem",
            "--tls-auth-clients",
            "no",
            "--aclfile",
            "{dir}/users.acl",
        ],
    )
    .await;
    let password = server.folder.path().join("password");
    std::fs::write(&password, "pass-planted\n").expect("a file");
    let more = |file: &str| {
        format!(
            "grace = \"100ms\"\nuser = \"gateway\"\npassword = \"file:{}\"\n{file}",
            password.display()
        )
    };
    let trusted = format!("ca_file = \"{}\"\n", server.folder.path().join("cert.pem").display());
    let config_of = |file: &str| config(&format!("rediss://127.0.0.1:{port}"), &more(file));
    let twins = vec![
        Twin::start(&config_of(&trusted)).ready().await,
        Twin::start(&config_of(&trusted)).ready().await,
    ];
    for index in 0..6 {
        twins[index % 2].hold(&format!("{index}")).await;
    }
    let position = twins[0].position();
    twins[0].log.beat(&position, "me".into()).await.expect("a heartbeat");
    twins[0].log.snapshot(&position, "all".into()).await.expect("a snapshot");
    assert_eq!(agreed(&twins, 6).await.len(), 6);
    // A server whose certificate nobody vouches for gets no password.
    let stranger = Twin::start(&config_of(""));
    let refused = stranger.within(stranger.log.flush(&stranger.position())).await;
    assert!(refused.is_err() && !stranger.shared.is_up());
    assert!(!format!("{:?}", config_of(&trusted)).contains("pass-planted"));
}
