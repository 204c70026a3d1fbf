//! The peers within TLS: each with its own library, OpenSSL's or BoringSSL, against ours.

use super::{AUTOBAHN_WITHIN_TLS, Serve, TALK, autobahn, chromium, env_is, node, python, root};
use rcgen::{CertificateParams, KeyPair};
use std::env;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A certificate of this host's for itself, and its key, as files.
fn certificate(name: &str) -> (PathBuf, PathBuf) {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let paths = (folder.join(format!("{name}.cert.pem")), folder.join(format!("{name}.key.pem")));
    let key = KeyPair::generate().expect("a key");
    let hosts = ["localhost", "127.0.0.1"].map(str::to_owned);
    let certificate = CertificateParams::new(hosts).and_then(|params| params.self_signed(&key));
    std::fs::write(&paths.0, certificate.expect("a certificate").pem()).expect("a file");
    std::fs::write(&paths.1, key.serialize_pem()).expect("a file");
    paths
}

fn serve(driver: &str, name: &str, args: &[&str]) -> (Serve, PathBuf) {
    let (cert, key) = certificate(&format!("{name}-{driver}"));
    let path = |path: &Path| path.to_str().expect("UTF-8").to_owned();
    let tls = ["--cert".to_owned(), path(&cert), "--key".to_owned(), path(&key)];
    let tls: Vec<&str> = tls.iter().map(String::as_str).collect();
    let server = Serve::start(driver, &[args, &tls].concat());
    assert!(server.base.starts_with("https://"), "{}", server.base);
    (server, cert)
}

pub fn node_ws_within_tls(driver: &str) {
    let (server, cert) = serve(driver, "node", TALK);
    let mut script = node("tests/peers/node/peer.cjs");
    script.env("NODE_EXTRA_CA_CERTS", cert);
    server.talked_to_by(script);
}

pub fn python_websockets_within_tls(driver: &str) {
    let (server, cert) = serve(driver, "python", TALK);
    let mut script = python("tests/peers/python/peer.py");
    script.env("SSL_CERT_FILE", cert);
    server.talked_to_by(script);
}

pub fn chromium_within_tls(driver: &str) {
    chromium(driver, &["tls"]);
}

pub fn openssl_and_curl(driver: &str) {
    let (server, cert) = serve(driver, "openssl", &[]);
    let mut script = Command::new("python3");
    script.arg(root("tests/peers/openssl/scan.py"));
    server.talked_to_by_with(script, &[cert.to_str().expect("UTF-8")]);
}

/// The suite through a carrier that speaks TLS for it: the cases about frames, or all of them.
pub fn autobahn_within_tls(driver: &str) {
    let all = env_is("RINGWIRE_AUTOBAHN", "all");
    let (server, cert) = serve(driver, "autobahn", if all { &["--compress"] } else { &[] });
    let (host, port) = server.base.trim_start_matches("https://").split_once(':').expect("HOST:PORT");
    let mut carrier = Command::new("python3");
    carrier.arg(root("tests/autobahn/within_tls.py")).args([host, port]).arg(cert);
    let mut carrier = carrier.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("python3 runs");
    let mut plain_port = String::new();
    let said = carrier.stdout.take().expect("a pipe");
    BufReader::new(said).read_line(&mut plain_port).expect("the carrier says where it listens");
    let cases = if all { &["*"] } else { AUTOBAHN_WITHIN_TLS };
    autobahn(cases, |cases, outdir| {
        let mut suite = Command::new(root("tests/autobahn/server"));
        suite
            .env("AUTOBAHN_JOBS", "2")
            .env("AUTOBAHN_AGENT", format!("server within TLS on {driver}"))
            .args(["127.0.0.1", plain_port.trim()])
            .arg(root(&format!("target/autobahn/server-tls-{driver}{outdir}")))
            .args(cases);
        suite
    });
    // Its input ends.
    drop(carrier.stdin.take());
    carrier.wait().expect("a child");
    server.drains();
}
