//! Peers that others wrote, against the release binary on both drivers: Node's `ws`, Python's
//! `websockets`, Chromium on the page, and the Autobahn|Testsuite in both roles; and within TLS (`tls.rs`)
//! OpenSSL and curl as well.
//!
//! `tests/run` sets up what they need and runs these tests; by hand, after `tests/setup`:
//! `cargo test --all-features --test peers -- --ignored --show-output`. The environment may name the
//! binary under test (`RINGWIRE_BIN`, with the examples beside it) and skip one driver
//! (`RINGWIRE_SKIP_URING=1`). Of Autobahn's cases for permessage-deflate 12.* run as server on io_uring and 13.* as
//! client on epoll, with `RINGWIRE_AUTOBAHN=all` all of them everywhere.

use std::env;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Makes each function an ignored test per driver.
macro_rules! on_both_drivers {
    ($($test:ident),* $(,)?) => {
        mod on_uring { $(
            #[test]
            #[ignore = "tests/run sets up the peer and runs it"]
            fn $test() {
                if !super::uring_is_skipped(stringify!($test)) {
                    super::$test("uring");
                }
            }
        )* }
        mod on_epoll { $(
            #[test]
            #[ignore = "tests/run sets up the peer and runs it"]
            fn $test() { super::$test("epoll"); }
        )* }
    };
}

on_both_drivers!(
    node_ws,
    node_ws_compressed,
    python_websockets,
    python_websockets_compressed,
    ringwire_js,
    chromium_on_the_page,
    autobahn_server,
    autobahn_client,
    node_ws_within_tls,
    python_websockets_within_tls,
    chromium_within_tls,
    openssl_and_curl,
    autobahn_within_tls,
);

mod tls;
use tls::{
    autobahn_within_tls, chromium_within_tls, node_ws_within_tls, openssl_and_curl,
    python_websockets_within_tls,
};

fn node_ws(driver: &str) {
    Serve::start(driver, TALK).talked_to_by(node("tests/peers/node/peer.cjs"));
}

fn node_ws_compressed(driver: &str) {
    let server = Serve::start(driver, &[TALK, &["--compress"]].concat());
    server.talked_to_by_with(node("tests/peers/node/peer.cjs"), &["compressed"]);
}

fn python_websockets(driver: &str) {
    Serve::start(driver, TALK).talked_to_by(python("tests/peers/python/peer.py"));
}

fn python_websockets_compressed(driver: &str) {
    let server = Serve::start(driver, &[TALK, &["--compress"]].concat());
    server.talked_to_by_with(python("tests/peers/python/peer.py"), &["compressed"]);
}

fn ringwire_js(driver: &str) {
    let mut node = node("tests/peers/node/client.mjs");
    node.args([ringwire(), driver.into()]);
    assert_succeeds(node, 180);
}

fn chromium_on_the_page(driver: &str) {
    chromium(driver, &[]);
}

/// Runs the checks of the page; what follows the arguments is of TLS.
fn chromium(driver: &str, more: &[&str]) {
    let screens = root("target/screens");
    std::fs::create_dir_all(&screens).expect("target/screens can be made");
    let chromium = ["chromium", "chromium-browser", "google-chrome"].into_iter().find_map(in_path);
    let mut node = Command::new("node");
    node.env("NODE_PATH", test_env("node/node_modules")).arg(root("tests/peers/browser/page.cjs")).args([
        ringwire(),
        driver.into(),
        chromium.expect("tests/setup installs Chromium"),
        screens,
    ]);
    node.args(more);
    assert_succeeds(node, 180);
}

fn autobahn_server(driver: &str) {
    let server = Serve::start(driver, &["--compress"]);
    let (host, port) = server.base.trim_start_matches("http://").split_once(':').expect("HOST:PORT");
    autobahn(autobahn_cases("server", driver), |cases, outdir| {
        let mut suite = Command::new(root("tests/autobahn/server"));
        suite
            .env("AUTOBAHN_JOBS", "2")
            .env("AUTOBAHN_AGENT", format!("server on {driver}"))
            .args([host, port])
            .arg(root(&format!("target/autobahn/server-{driver}{outdir}")))
            .args(cases);
        suite
    });
    server.drains();
}

fn autobahn_client(driver: &str) {
    autobahn(autobahn_cases("client", driver), |cases, outdir| {
        // One job listens on this port, the other on the next.
        let free = || TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr());
        let next_is_free = |port: &u16| TcpListener::bind(("127.0.0.1", port + 1)).is_ok();
        let mut ports = (0..100).filter_map(|_| Some(free().ok()?.port())).filter(|port| *port < u16::MAX);
        let port = ports.find(next_is_free).expect("two free ports");
        let mut suite = Command::new(root("tests/autobahn/client"));
        suite
            .env("AUTOBAHN_CASES", cases.join(" "))
            .env("AUTOBAHN_JOBS", "2")
            .arg(port.to_string())
            .arg(root(&format!("target/autobahn/client-{driver}{outdir}")))
            .arg(example("autobahn_client"))
            .arg(driver)
            .arg("compressed");
        suite
    });
}

/// What the scripts of `node/` and `python/` expect of the server they talk to.
const TALK: &[&str] = &["--max-message-bytes", "16777216", "--idle-ms", "400", "--pong-ms", "3000"];

/// A running `ringwire serve`. Killed when dropped.
struct Serve {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    /// `http://127.0.0.1:PORT`
    base: String,
}

impl Serve {
    fn start(driver: &str, args: &[&str]) -> Self {
        let mut child = Command::new(ringwire())
            .args(["serve", "--listen", "127.0.0.1:0", "--driver", driver])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut line = String::new();
        stdout.read_line(&mut line).expect("the server says where it listens");
        let said = line.split_once("listening on ").and_then(|(_, rest)| rest.split_once(' '));
        let (base, rest) = said.unwrap_or_else(|| panic!("not an address: {line:?}"));
        assert!(rest.contains(&format!("driver {driver}")), "another driver than {driver}: {line:?}");
        Self { child, base: base.to_owned(), _stdout: stdout }
    }

    /// Runs a script that is told the server's address and process, and ends it by SIGTERM at last.
    fn talked_to_by(self, script: Command) {
        self.talked_to_by_with(script, &[]);
    }

    fn talked_to_by_with(self, mut script: Command, args: &[&str]) {
        script.arg(&self.base).arg(self.child.id().to_string()).args(args);
        assert_succeeds(script, 300);
        self.ends();
    }

    /// Ends it by SIGTERM.
    fn drains(self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").arg(&pid).status().expect("kill runs").success());
        self.ends();
    }

    /// Having had its SIGTERM, it ends with status 0.
    fn ends(mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        let status = loop {
            match self.child.try_wait().expect("a child") {
                Some(status) => break status,
                None if Instant::now() > deadline => panic!("still runs 10 s after SIGTERM"),
                None => thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut said = String::new();
        self.child.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
        assert!(status.success(), "after SIGTERM: {status}\n{said}");
    }
}

impl Drop for Serve {
    fn drop(&mut self) {
        // Does nothing to one that has been waited for.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command for at most `timeout_s`, and shows what it printed.
fn assert_succeeds(command: Command, timeout_s: u32) {
    let (status, _) = run(command, timeout_s);
    assert!(status.success(), "{status} (124 is the time limit)");
}

/// Returns the exit status and what stands on stdout, which it also prints, as it does stderr.
fn run(command: Command, timeout_s: u32) -> (ExitStatus, String) {
    let mut timed = Command::new("timeout");
    timed.args(["--kill-after=5", &timeout_s.to_string()]);
    timed.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        timed.env(name, value.expect("set, not removed"));
    }
    let output = timed.stdin(Stdio::null()).output().expect("timeout(1) runs");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    println!("{}{}", said.trim_end(), String::from_utf8_lossy(&output.stderr));
    (output.status, said)
}

/// Cases that may fail once. The suite gives a peer one second for some answers, and on a busy
/// machine a thread can wait that long for its core.
const AUTOBAHN_SECOND_CHANCES: usize = 3;

/// Runs the suite, by a command that `suite` makes of case patterns and an output folder's suffix.
fn autobahn(cases: &[&str], suite: impl Fn(&[&str], &str) -> Command) {
    let suite = |cases: &[&str], suffix: &str| {
        let mut command = suite(cases, suffix);
        command.env("AUTOBAHN_PREFIX", test_env("autobahn"));
        run(command, 1_800)
    };
    let (status, said) = suite(cases, "");
    let not_ok = |line| {
        ["  FAILED ", "  non-strict ", "  unimpl "]
            .iter()
            .find_map(|verdict| str::strip_prefix(line, verdict))
    };
    let failed: Vec<&str> =
        said.lines().filter_map(not_ok).filter_map(|rest| rest.split_whitespace().next()).collect();
    let few = (1..=AUTOBAHN_SECOND_CHANCES).contains(&failed.len());
    if status.code() == Some(1) && few && !said.contains("INCOMPLETE") {
        println!("AGAIN, by themselves: {}", failed.join(" "));
        let (status, _) = suite(&failed, "-again");
        assert!(status.success(), "failed twice: {status}");
    } else {
        assert!(status.success(), "{status} (124 is the time limit)");
    }
}

/// The cases within TLS, where compression is nothing of its own.
const AUTOBAHN_WITHIN_TLS: &[&str] = &["1.*", "2.*", "5.*", "7.*"];

/// Which cases a role runs on a driver. The 216 of compression take most of the time: each runs in one role on one
/// driver (on epoll where io_uring is skipped), and with `RINGWIRE_AUTOBAHN=all` everything in both roles on both.
fn autobahn_cases(role: &str, driver: &str) -> &'static [&'static str] {
    let of_server = if env_is("RINGWIRE_SKIP_URING", "1") { "epoll" } else { "uring" };
    match (role, driver) {
        _ if env_is("RINGWIRE_AUTOBAHN", "all") => &["*"],
        ("server", driver) if driver == of_server => &["-13.*"],
        ("client", "epoll") => &["-12.*"],
        _ => &["-12.*", "-13.*"],
    }
}

/// Whether this driver's tests are not to run. Says so past the capture of test output.
fn uring_is_skipped(test: &str) -> bool {
    let skipped = env_is("RINGWIRE_SKIP_URING", "1");
    if skipped {
        let _ = writeln!(std::io::stderr(), "SKIPPED {test} on uring: RINGWIRE_SKIP_URING=1");
    }
    skipped
}

fn env_is(name: &str, value: &str) -> bool {
    env::var_os(name).is_some_and(|set| set == value)
}

fn node(script: &str) -> Command {
    let mut node = Command::new("node");
    node.env("NODE_PATH", test_env("node/node_modules")).arg(root(script));
    node
}

fn python(script: &str) -> Command {
    let mut python = Command::new(test_env("python/bin/python"));
    python.arg(root(script));
    python
}

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Where `tests/setup` puts things.
fn test_env(path: &str) -> PathBuf {
    let base = env::var_os("RINGWIRE_TEST_ENV").map_or_else(|| root("target/test-env"), PathBuf::from);
    let path = base.join(path);
    assert!(path.exists(), "{} is missing: run tests/setup", path.display());
    path
}

fn ringwire() -> PathBuf {
    env::var_os("RINGWIRE_BIN").map_or_else(|| env!("CARGO_BIN_EXE_ringwire").into(), PathBuf::from)
}

/// An example, which cargo builds beside the binary.
fn example(name: &str) -> PathBuf {
    let path = ringwire().with_file_name("examples").join(name);
    assert!(path.exists(), "{} is missing: build the examples as the binary was built", path.display());
    path
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH")?;
    env::split_paths(&path).map(|folder| folder.join(program)).find(|file| file.is_file())
}
