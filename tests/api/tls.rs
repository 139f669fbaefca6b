//! The interface spoken over TLS.

use std::{fs, path::Path};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use serde_json::json;
use tempfile::TempDir;
use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::{
    COMPLETIONS, completion,
    server::{LIMIT, Server, run, wait_for},
    start,
};

/// A certificate of this machine's own, and its key.
fn write_certificate(folder: &Path) -> String {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    // The key first: a server that looks in between finds two that don't belong together, and keeps what it has.
    fs::write(folder.join("key.pem"), signing_key.serialize_pem()).expect("a file");
    fs::write(folder.join("chain.pem"), cert.pem()).expect("a file");
    cert.pem()
}

fn flags(folder: &Path) -> [String; 4] {
    let path = |name| folder.join(name).to_str().expect("UTF-8").to_owned();
    ["--ssl-certfile".into(), path("chain.pem"), "--ssl-keyfile".into(), path("key.pem")]
}

fn serve(folder: &TempDir) -> Server {
    start(&flags(folder.path()).each_ref().map(String::as_str))
}

/// Who trusts this certificate and no other, and keeps no connection.
fn trusting(pem: &str) -> ureq::Agent {
    let certificates = parse_pem(pem.as_bytes()).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let roots = RootCerts::from(certificates.collect::<Vec<Certificate>>());
    ureq::Agent::config_builder()
        .tls_config(TlsConfig::builder().root_certs(roots).build())
        .max_idle_connections(0)
        .timeout_global(Some(LIMIT))
        .build()
        .into()
}

#[test]
fn answers_and_streams_over_tls() {
    let folder = TempDir::new().expect("a temporary folder");
    let pem = write_certificate(folder.path());
    let server = serve(&folder);
    assert!(server.url("").starts_with("https://"), "{}", server.url(""));
    let ask = |body: serde_json::Value| {
        let mut answer = trusting(&pem).post(server.url(COMPLETIONS)).send(body.to_string()).expect("an answer");
        answer.body_mut().read_to_string().expect("text")
    };
    let whole: serde_json::Value = serde_json::from_str(&ask(completion(json!({})))).expect("JSON");
    let text = whole["choices"][0]["text"].as_str().expect("a text");
    let stream = ask(completion(json!({"stream": true})));
    let events = stream.lines().filter_map(|line| line.strip_prefix("data: {"));
    let chunks = events.map(|rest| serde_json::from_str::<serde_json::Value>(&format!("{{{rest}")).expect("JSON"));
    let streamed: String = chunks.map(|c| c["choices"][0]["text"].as_str().unwrap_or_default().to_owned()).collect();
    assert_eq!((streamed.as_str(), stream.ends_with("data: [DONE]\n\n")), (text, true));
    // Plain HTTP is not spoken there, nor is anybody believed who was not signed.
    let plain = server.url("/health").replace("https://", "http://");
    assert!(ureq::get(&plain).call().is_err());
    assert!(ureq::get(&server.url("/health")).call().is_err());
    assert_eq!(trusting(&pem).get(server.url("/health")).call().expect("an answer").status(), 200);
}

#[test]
fn a_renewed_certificate_is_shown_and_a_broken_one_is_not() {
    let folder = TempDir::new().expect("a temporary folder");
    let first = write_certificate(folder.path());
    let server = serve(&folder);
    let shows = |pem: &str| trusting(pem).get(server.url("/health")).call().is_ok();
    fs::write(folder.path().join("chain.pem"), "nothing").expect("a file");
    let told = || server.log("server.log").contains("the certificate before stays").then_some(());
    wait_for("the warning", || {
        assert!(shows(&first));
        told()
    });
    let second = write_certificate(folder.path());
    wait_for("the new certificate", || shows(&second).then_some(()));
    assert!(!shows(&first));
}

#[test]
fn what_cannot_be_shown_ends_the_start() {
    let folder = TempDir::new().expect("a temporary folder");
    let other = TempDir::new().expect("a temporary folder");
    write_certificate(folder.path());
    write_certificate(other.path());
    let refused = |flags: &[String], words: &str| {
        let model = crate::server::golden(crate::MODEL);
        let mut all = vec!["serve", "--port", "0", "--model", model.to_str().expect("UTF-8")];
        all.extend(flags.iter().map(String::as_str));
        let (code, _, stderr) = run(&all);
        assert!(code == 2 && stderr.contains(words), "{words}: {code}, {stderr}");
    };
    refused(&flags(folder.path())[..2], "--ssl-keyfile");
    let key = other.path().join("key.pem");
    fs::copy(&key, folder.path().join("key.pem")).expect("a copy");
    refused(&flags(folder.path()), "is not the key of the certificate");
    fs::write(folder.path().join("chain.pem"), "").expect("a file");
    refused(&flags(folder.path()), "has no certificate in it");
    fs::remove_file(folder.path().join("chain.pem")).expect("a file");
    refused(&flags(folder.path()), "--ssl-certfile");
}
