//! `ringwire serve` within TLS, run as its users run it: certificates made, given, renewed and wrong.

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::CertificateDer;
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

fn ringwire(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ringwire"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Killed when the test ends, however it ends.
struct Server {
    child: Child,
    addr: String,
}

impl Server {
    fn start(more: &[&str]) -> Self {
        let args =
            [&["serve", "--listen", "127.0.0.1:0", "--driver", "epoll", "--shards", "1"], more].concat();
        let mut child = ringwire(&args).spawn().expect("the binary starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
        let url = line.split(' ').find_map(|word| word.strip_prefix("https://"));
        let addr = url.unwrap_or_else(|| panic!("no https: {line:?}")).to_owned();
        Self { child, addr }
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().expect("kill runs").success());
    }

    /// The certificate shown to a client that trusts these, which is answered over HTTP.
    fn shows(&self, trusted: &[&Files]) -> CertificateDer<'static> {
        let mut stream = self.connect(trusted);
        stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer that ends in order");
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nok\n"), "{answer}");
        stream.conn.peer_certificates().unwrap()[0].clone()
    }

    fn connect(&self, trusted: &[&Files]) -> StreamOwned<ClientConnection, TcpStream> {
        let mut roots = RootCertStore::empty();
        trusted.iter().for_each(|files| roots.add(files.certificate.clone()).unwrap());
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_root_certificates(roots).with_no_client_auth();
        let connection = ClientConnection::new(Arc::new(config), "localhost".try_into().unwrap()).unwrap();
        let stream = TcpStream::connect(&self.addr).expect("the printed address answers");
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        StreamOwned::new(connection, stream)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A certificate and its key in files of their own.
struct Files {
    certificate: CertificateDer<'static>,
    cert: PathBuf,
    key: PathBuf,
}

impl Files {
    fn new(name: &str, years: (i32, i32)) -> Self {
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let (cert, key) = (folder.join(format!("{name}.cert.pem")), folder.join(format!("{name}.key.pem")));
        let pair = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(years.0, 1, 1);
        params.not_after = rcgen::date_time_ymd(years.1, 1, 1);
        let certificate = params.self_signed(&pair).unwrap();
        std::fs::write(&cert, certificate.pem()).unwrap();
        std::fs::write(&key, pair.serialize_pem()).unwrap();
        Self { certificate: certificate.der().clone(), cert, key }
    }

    fn args(&self) -> [&str; 4] {
        ["--cert", self.cert.to_str().unwrap(), "--key", self.key.to_str().unwrap()]
    }
}

const VALID: (i32, i32) = (2000, 4000);

#[test]
fn makes_a_certificate_for_loopback_on_the_spot() {
    let server = Server::start(&["--tls"]);
    // Which nobody trusts.
    let mut stream = server.connect(&[]);
    let error = stream.write_all(b"GET /").unwrap_err();
    assert!(error.to_string().contains("invalid peer certificate"), "{error}");
    // Who does not know of TLS is told.
    let mut plain = TcpStream::connect(&server.addr).unwrap();
    plain.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    let mut answer = String::new();
    plain.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("https://"), "{answer}");
}

#[test]
fn reads_certificates_again_at_sighup() {
    let mut server = {
        let first = Files::new("first", VALID);
        let server = Server::start(&first.args());
        assert_eq!(server.shows(&[&first]), first.certificate);
        server
    };
    let mut said = BufReader::new(server.child.stderr.take().unwrap()).lines();
    // In the same files.
    let second = Files::new("first", VALID);
    server.signal("HUP");
    assert!(said.next().unwrap().unwrap().contains("read again"));
    assert_eq!(server.shows(&[&second]), second.certificate);
    // What makes no sense changes nothing.
    std::fs::write(&second.key, "no key").unwrap();
    server.signal("HUP");
    let line = said.next().unwrap().unwrap();
    assert!(line.contains("stay as they are") && line.contains("first.key.pem"), "{line}");
    assert_eq!(server.shows(&[&second]), second.certificate);
    server.signal("TERM");
    let deadline = Instant::now() + PATIENCE;
    while server.child.try_wait().unwrap().is_none() {
        assert!(Instant::now() < deadline, "still runs after SIGTERM");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn fails(args: &[&str], code: i32) -> String {
    let Output { status, stderr, .. } = ringwire(&[&["serve"], args].concat()).output().unwrap();
    let said = String::from_utf8(stderr).unwrap();
    assert_eq!(status.code(), Some(code), "{args:?}: {said}");
    said
}

#[test]
fn what_cannot_be_used_names_the_file_and_the_reason() {
    let good = Files::new("good", VALID);
    let [_, cert, _, key] = good.args();
    let old = Files::new("old", (2000, 2001));
    let said = fails(&old.args(), 1);
    assert!(said.contains("old.cert.pem: the certificate expired"), "{said}");
    let said = fails(&["--cert", cert, "--key", old.args()[3]], 1);
    assert!(said.contains("old.key.pem: the key does not belong to the certificate in"), "{said}");
    let said = fails(&["--cert", "nowhere.pem", "--key", key], 1);
    assert!(said.contains("nowhere.pem: No such file"), "{said}");
    let said = fails(&["--tls", "--listen", "0.0.0.0:0"], 1);
    assert!(said.contains("0.0.0.0:0: give --cert and --key"), "{said}");
    assert!(fails(&["--cert", cert], 2).contains("--key"));
}
