//! The scenarios against servers that stall, drop, and come and go: what is measured, and how a run
//! ends. No test asserts a time that a busy host could miss; bounds come from what the server does.

mod support;

use ringwire::{
    CloseCode, Compression, Conn, DeflateConfig, Handler, Message, Prepared, Remote, Request, Server, Upgrade,
};
use serde_json::Value;
use std::io::Read;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};
use support::Running;

/// What a server does besides echoing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Conduct {
    Honest,
    /// Does nothing at all for 200 ms of each second.
    Stall,
    /// Sends every message to all.
    Broadcast,
    /// Sends every message but the fifth to all.
    BroadcastWithGap,
    /// Sends every message to all, the fifth twice.
    BroadcastTwice,
    /// Answers `subscribe`, and wraps what is published.
    Topics,
    /// Answers nothing.
    Silent,
    /// Closes every tenth connection after its handshake.
    Drop,
}

struct Service {
    conduct: Conduct,
    remote: Remote,
    began: Instant,
    messages: u64,
    connections: u64,
}

impl Service {
    fn publish(&mut self, text: &str) {
        self.messages += 1;
        let copies = match (self.conduct, self.messages) {
            (Conduct::BroadcastWithGap, 5) => 0,
            (Conduct::BroadcastTwice, 5) => 2,
            _ => 1,
        };
        for _ in 0..copies {
            self.remote.broadcast(&Prepared::text(text), 0).unwrap();
        }
    }
}

impl Handler for Service {
    type State = bool;

    fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<bool> {
        Upgrade::accept(false)
    }

    fn open(&mut self, conn: &mut Conn<'_, bool>) {
        self.connections += 1;
        if self.conduct == Conduct::Drop && self.connections.is_multiple_of(10) {
            conn.close(CloseCode::POLICY_VIOLATION, "you are the tenth");
        }
    }

    fn message(&mut self, conn: &mut Conn<'_, bool>, message: Message<'_>) {
        match (self.conduct, message) {
            (Conduct::Honest | Conduct::Stall | Conduct::Drop, message) => drop(conn.send(message)),
            (Conduct::Silent, _) => {}
            (Conduct::Topics, Message::Text("subscribe")) => {
                *conn.state_mut() = true;
                conn.send_text("subscribed");
            }
            (Conduct::Topics, Message::Text(text)) => {
                let data = text.strip_prefix("publish ").unwrap().to_owned();
                self.publish(&format!("{{\"topic\":1,\"data\":\"{data}\"}}"));
            }
            (_, Message::Text(text)) => self.publish(text),
            (_, Message::Binary(_)) => panic!("a broadcast is text"),
        }
    }

    fn broadcast(&mut self, conn: &mut Conn<'_, bool>, message: &Prepared, _tag: u64) {
        if self.conduct != Conduct::Topics || *conn.state() {
            conn.send_prepared(message);
        }
    }

    fn turn(&mut self, _shard: &mut ringwire::Shard<'_, bool>) -> Option<Duration> {
        if self.conduct == Conduct::Stall {
            let into = self.began.elapsed().subsec_millis();
            if into < 200 {
                thread::sleep(Duration::from_millis((200 - into).into()));
            }
            return Some(Duration::from_millis(1));
        }
        None
    }
}

fn serve(conduct: Conduct) -> Running {
    let builder = Server::builder().compression(Compression::Deflate(DeflateConfig::default()));
    let service = move |remote: &Remote| Service {
        conduct,
        remote: remote.clone(),
        began: Instant::now(),
        messages: 0,
        connections: 0,
    };
    Running::start(builder, service).unwrap()
}

fn spawn(line: &str, port: u16) -> Child {
    let line = line.replace("URL", &format!("ws://127.0.0.1:{port}/"));
    Command::new(env!("CARGO_BIN_EXE_ringwire-loadgen"))
        .args(line.split_whitespace())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// A file that is gone at the end of the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Self {
        Self(std::env::temp_dir().join(format!("loadgen-{}-{name}", std::process::id())))
    }

    fn path(&self) -> &str {
        self.0.to_str().unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

/// Runs the generator: its exit code, what it said, and its result.
fn run(line: &str, port: u16) -> (i32, String, Value) {
    let name = line.split_whitespace().next().unwrap();
    let scratch = Scratch::new(&format!("{name}-{port}.json"));
    let child = spawn(&format!("{line} --quiet --json {}", scratch.path()), port);
    ended(child, &scratch)
}

fn ended(child: Child, scratch: &Scratch) -> (i32, String, Value) {
    let output = child.wait_with_output().unwrap();
    let report = std::fs::read(&scratch.0).unwrap_or_default();
    let report = serde_json::from_slice(&report).unwrap_or_default();
    (output.status.code().unwrap_or(-1), said(&output), report)
}

fn said(output: &Output) -> String {
    (String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr)).into_owned()
}

fn ms(latency: &Value, name: &str) -> f64 {
    latency[name].as_f64().unwrap() / 1e6
}

#[test]
fn an_open_loop_sees_what_a_closed_loop_hides() {
    let server = serve(Conduct::Stall);
    let (code, text, report) =
        run("rate URL -n 20 --rate 2000 --duration 4s --warmup 0s --max-send-lag 10s", server.port);
    assert_eq!(code, 0, "{text}");
    let rate = &report["loads"][0]["rate"];
    assert_eq!((&rate["loop"], &rate["arrivals"]), (&"open".into(), &"poisson".into()));
    // A fifth of the messages falls into a stall of 200 ms, the hundredth part into its first 10 ms.
    assert!(ms(&rate["latency"], "p99_ns") >= 180.0, "{text}");
    assert!(ms(&rate["latency"], "p90_ns") >= 90.0, "{text}");
    let messages = rate["messages"].as_f64().unwrap();
    assert!((7_000.0..9_000.0).contains(&messages), "2000/s for 4 s, stalls or not: {text}");

    let (code, text, report) = run("echo URL -n 20 --duration 4s --warmup 0s", server.port);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("closed-loop latency") && text.contains("closed loop"), "{text}");
    let echo = &report["loads"][0]["echo"];
    assert_eq!(echo["loop"], "closed");
    assert!(ms(&echo["latency"], "p99_ns") < 100.0, "it asks less while the server stalls: {text}");
}

#[test]
fn a_generator_that_cannot_keep_up_says_so() {
    let server = serve(Conduct::Honest);
    let (code, text, report) =
        run("rate URL -n 10 --rate 30000000 --duration 1s --warmup 0s --driver epoll", server.port);
    assert_eq!(code, 3, "{text}");
    assert_eq!(report["verdict"], "invalid");
    assert!(text.contains("INVALID") && text.contains("could not keep up"), "{text}");
    assert!(text.contains("--max-send-lag"), "{text}");
}

#[test]
fn every_subscriber_gets_every_message_in_order() {
    let server = serve(Conduct::Broadcast);
    let line = "broadcast URL -n 30 --publishers 3 --rate 200 --duration 2s --workers 2 --max-send-lag 10s";
    let (code, text, report) = run(line, server.port);
    assert_eq!(code, 0, "{text}");
    let broadcast = &report["loads"][0]["broadcast"];
    assert_eq!((&broadcast["subscribers"], &broadcast["publishers"]), (&30.into(), &3.into()));
    let [first, median, last] = ["first", "median", "last"].map(|name| &broadcast[name]);
    assert!(ms(first, "p50_ns") <= ms(median, "p50_ns") && ms(median, "p50_ns") <= ms(last, "p50_ns"));
    let published = first["count"].as_u64().unwrap();
    assert_eq!(last["count"].as_u64().unwrap(), published, "each message has a first and a last");
    assert_eq!(broadcast["latency"]["count"].as_u64().unwrap(), published * 30, "{text}");
}

#[test]
fn who_reads_nothing_keeps_nothing_from_the_others() {
    let server = serve(Conduct::Broadcast);
    let line = "broadcast URL -n 20 --deaf 5 --size 65536 --rate 20 --duration 2s --max-send-lag 10s";
    let (code, text, report) = run(line, server.port);
    assert_eq!(code, 0, "{text}");
    let broadcast = &report["loads"][0]["broadcast"];
    let published = broadcast["last"]["count"].as_u64().unwrap();
    assert!(published > 10, "{text}");
    assert_eq!(broadcast["latency"]["count"].as_u64().unwrap(), published * 20, "{text}");
}

#[test]
fn the_measurement_begins_for_all_workers_at_once() {
    let server = serve(Conduct::Broadcast);
    let line = "broadcast URL -n 60 --workers 6 --rate 100 --duration 500ms --warmup 0s --max-send-lag 10s";
    let (code, text, report) = run(line, server.port);
    assert_eq!(code, 0, "{text}");
    let broadcast = &report["loads"][0]["broadcast"];
    let published = broadcast["last"]["count"].as_u64().unwrap();
    assert!(published > 10, "{text}");
    assert_eq!(broadcast["latency"]["count"].as_u64().unwrap(), published * 60, "none is left out: {text}");
}

#[test]
fn messages_go_in_frames_compressed_or_not() {
    let server = serve(Conduct::Honest);
    for more in ["", "--deflate", "--deflate --depth 20", "--driver epoll --deflate"] {
        let line =
            format!("echo URL -n 3 --text --records --size 100..3000 --fragments 4 --duration 300ms {more}");
        let (code, text, report) = run(&line, server.port);
        assert_eq!(code, 0, "{text}");
        let message = &report["loads"][0]["message"];
        assert_eq!((&message["fragments"], &message["size"]), (&4.into(), &"100..3000".into()));
    }
}

#[test]
fn cjk_text_goes_out_and_comes_back() {
    let server = serve(Conduct::Honest);
    for more in ["", "--depth 20 --driver epoll", "--fragments 3"] {
        let line = format!("echo URL -n 3 --text --cjk --size 125 --duration 300ms {more}");
        let (code, text, report) = run(&line, server.port);
        assert_eq!(code, 0, "{text}");
        assert_eq!(report["loads"][0]["message"]["kind"], "cjk");
    }
}

#[test]
fn workers_that_poll_hear_all_and_end() {
    let server = serve(Conduct::Honest);
    for more in ["", "--driver epoll"] {
        for scenario in ["echo URL -n 3", "rate URL -n 3 --rate 200 --max-send-lag 10s"] {
            let line = format!("{scenario} --busy-poll-us 100000 --duration 300ms --warmup 100ms {more}");
            let (code, text, report) = run(&line, server.port);
            assert_eq!(code, 0, "{text}");
            let load = &report["loads"][0];
            assert!(
                load["echo"]["messages"].as_u64().or(load["rate"]["messages"].as_u64()) > Some(20),
                "{text}"
            );
        }
    }
}

#[test]
fn a_gap_or_a_double_in_a_broadcast_fails_the_run() {
    let line = "broadcast URL -n 7 --rate 100 --duration 1s --warmup 0s --max-send-lag 10s";
    let (code, text, report) = run(line, serve(Conduct::BroadcastWithGap).port);
    assert_eq!(code, 1, "{text}");
    assert_eq!(report["loads"][0]["errors"]["lost"], 7, "once per subscriber: {text}");
    let (code, text, report) = run(line, serve(Conduct::BroadcastTwice).port);
    assert_eq!(code, 1, "{text}");
    assert_eq!(report["loads"][0]["errors"]["doubled"], 7, "{text}");
}

#[test]
fn a_broadcast_finds_its_messages_in_the_servers_own_envelope() {
    let server = serve(Conduct::Topics);
    let addr = format!("ws://127.0.0.1:{}/", server.port);
    let scratch = Scratch::new("topics.json");
    let output = Command::new(env!("CARGO_BIN_EXE_ringwire-loadgen"))
        .args(["broadcast", &addr, "-n", "5", "--rate", "50", "--duration", "1s", "--warmup", "0s"])
        .args(["--subscribe", "subscribe", "--publish", "publish {}", "--max-send-lag", "10s", "--quiet"])
        .args(["--json", scratch.path()])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    let report: Value = serde_json::from_slice(&std::fs::read(&scratch.0).unwrap()).unwrap();
    let broadcast = &report["loads"][0]["broadcast"];
    let [published, delivered] = ["published", "delivered"].map(|name| broadcast[name].as_u64().unwrap());
    assert!(published > 10 && delivered > 0, "{published} {delivered}");
}

#[test]
fn handshakes_are_counted_and_timed() {
    for more in ["", "--driver epoll", "--rate 200"] {
        let server = serve(Conduct::Honest);
        let line = format!("churn URL -n 8 --duration 1s --warmup 100ms {more}");
        let (code, text, report) = run(&line, server.port);
        assert_eq!(code, 0, "{text}");
        let churn = &report["loads"][0]["churn"];
        let handshakes = churn["handshakes"].as_u64().unwrap();
        assert!(handshakes > 20 && (more != "--rate 200" || handshakes < 260), "{text}");
        assert!(churn["latency"]["count"].as_u64().unwrap() > 20, "{text}");
    }
}

#[test]
fn a_storm_brings_everybody_back() {
    let server = serve(Conduct::Honest);
    let (code, text, report) = run("storm URL -n 300 --waves 2 --pause 100ms --workers 2", server.port);
    assert_eq!(code, 0, "{text}");
    let waves = report["loads"][0]["storm"]["waves"].as_array().unwrap();
    assert_eq!(waves.len(), 2);
    for wave in waves {
        assert_eq!((&wave["reconnected"], &wave["latency"]["count"]), (&300.into(), &300.into()), "{text}");
    }
}

#[test]
fn sampled_connections_are_asked_while_others_idle() {
    let server = serve(Conduct::Honest);
    let line = "idle URL -n 60 --hold 1s --sample 10 --heartbeat 100ms --echo-once --connect-rate 300";
    let (code, text, report) = run(&format!("{line} --pid {}", std::process::id()), server.port);
    assert_eq!(code, 0, "{text}");
    let load = &report["loads"][0];
    assert!(load["ramp"]["duration_s"].as_f64().unwrap() > 0.15, "60 at 300/s: {text}");
    let heartbeats = load["idle"]["heartbeat"]["count"].as_u64().unwrap();
    assert!((60..=300).contains(&heartbeats), "10 connections, every 100 ms: {heartbeats}");
    assert!(load["memory"]["held"]["rss"].as_u64().unwrap() > 0);
    let series = load["series"].as_array().unwrap();
    assert!(series.len() > 5 && series.iter().any(|point| point["connections"] == 60), "{series:?}");
}

#[test]
fn many_sources_and_targets_are_taken_in_turn() {
    let (one, two) = (serve(Conduct::Honest), serve(Conduct::Honest));
    let line = format!(
        "echo ws://127.0.0.1:{}/a,ws://127.0.0.1:{}/b -n 8 --source 127.0.0.5,127.9.0.0/16 --duration 300ms",
        one.port, two.port
    );
    let (code, text, report) = run(&line, 0);
    assert_eq!(code, 0, "{text}");
    assert_eq!(report["loads"][0]["urls"].as_array().unwrap().len(), 2);
}

#[test]
fn a_server_that_drops_connections_fails_an_idle_run_with_its_reason() {
    let server = serve(Conduct::Drop);
    let (code, text, report) = run("idle URL -n 25 --hold 1s", server.port);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("you are the tenth"), "{text}");
    assert!(report["loads"][0]["ramp"]["opened"].as_u64().unwrap() >= 10, "what was done is kept: {text}");
}

#[test]
fn thresholds_decide_the_exit_code() {
    let server = serve(Conduct::Honest);
    let line = "echo URL -n 2 --duration 300ms --warmup 0s";
    let (code, text, _) = run(&format!("{line} --fail-if p99>60s --fail-if lost>0"), server.port);
    assert_eq!(code, 0, "{text}");
    let (code, text, report) = run(&format!("{line} --fail-if p50>1ns"), server.port);
    assert_eq!(code, 1, "{text}");
    assert_eq!(report["thresholds"][0]["fails"], true);
    assert!(text.contains("p50>1ns") && text.contains("FAILS"), "{text}");
}

#[test]
fn processes_that_join_share_the_load_and_the_result() {
    let server = serve(Conduct::Broadcast);
    let echo = serve(Conduct::Honest);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    for (line, port) in [
        ("echo URL -n 31 --depth 3 --duration 1s", echo.port),
        ("broadcast URL -n 31 --rate 100 --duration 1s --max-send-lag 10s", server.port),
    ] {
        let scratch = Scratch::new(&format!("join-{port}.json"));
        let line =
            format!("{line} --quiet --json {} --coordinate 127.0.0.1:{free} --processes 2", scratch.path());
        let lead = spawn(&line, port);
        let others = ["--workers 2", "--driver epoll"]
            .map(|more| spawn(&format!("--join 127.0.0.1:{free} {more}"), 0));
        let (code, text, report) = ended(lead, &scratch);
        assert_eq!(code, 0, "{text}");
        for other in others {
            let output = other.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(0), "{}", said(&output));
        }
        let load = &report["loads"][0];
        assert_eq!((&load["processes"], &load["workers"]), (&3.into(), &4.into()), "{text}");
        assert_eq!(load["ramp"]["opened"].as_u64().unwrap(), load["connections"].as_u64().unwrap());
        assert!(load["ramp"]["latency"]["count"].as_u64().unwrap() >= 31, "all processes' times: {text}");
    }
}

#[test]
fn a_process_that_joined_and_died_ends_the_run() {
    let server = serve(Conduct::Honest);
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let scratch = Scratch::new("died.json");
    let line = format!(
        "idle URL -n 10 --hold 60s --quiet --json {} --coordinate 127.0.0.1:{free} --processes 1",
        scratch.path()
    );
    let lead = spawn(&line, server.port);
    let mut other = spawn(&format!("--join 127.0.0.1:{free}"), 0);
    thread::sleep(Duration::from_secs(2));
    other.kill().unwrap();
    other.wait().unwrap();
    let (code, text, report) = ended(lead, &scratch);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("gone") || text.contains("silent"), "{text}");
    assert_eq!(report["verdict"], "broken", "{text}");
}

#[test]
fn an_interrupted_run_keeps_what_it_measured() {
    let server = serve(Conduct::Honest);
    let scratch = Scratch::new("interrupted.json");
    let line = format!("echo URL -n 3 --duration 60s --warmup 0s --quiet --json {}", scratch.path());
    let lead = spawn(&line, server.port);
    thread::sleep(Duration::from_secs(2));
    let pid = rustix::process::Pid::from_child(&lead);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let (code, text, report) = ended(lead, &scratch);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("interrupted"), "{text}");
    assert!(report["loads"][0]["echo"]["messages"].as_u64().unwrap() > 0, "{text}");
}

#[test]
fn a_server_that_goes_away_ends_the_run_and_what_was_measured_stays() {
    let server = serve(Conduct::Honest);
    let scratch = Scratch::new("gone.json");
    let line = format!("echo URL -n 3 --duration 60s --warmup 0s --quiet --json {}", scratch.path());
    let lead = spawn(&line, server.port);
    thread::sleep(Duration::from_secs(2));
    drop(server);
    let (code, text, report) = ended(lead, &scratch);
    assert_eq!(code, 1, "{text}");
    assert!(report["loads"][0]["echo"]["messages"].as_u64().unwrap() > 0, "{text}");
    assert!(report["loads"][0]["errors"]["closed"].as_u64().unwrap() > 0, "{text}");
}

#[test]
fn a_scenario_file_runs_its_phases() {
    let server = serve(Conduct::Honest);
    let file = Scratch::new("phases.toml");
    let text = r#"
        url = "ws://127.0.0.1:1/"
        [[background]]
        scenario = "idle"
        connections = 20
        [[phase]]
        name = "day"
        [[phase.load]]
        scenario = "rate"
        rate = 200
        duration = "1s"
        max_send_lag = "10s"
        [[phase.load]]
        scenario = "churn"
        connections = 2
        duration = "1s"
        [[phase]]
        name = "night"
        [[phase.load]]
        scenario = "storm"
        connections = 10
        waves = 1
    "#;
    std::fs::write(&file.0, text).unwrap();
    let line = format!("scenario {} --url URL", file.path());
    let (code, text, report) = run(&line, server.port);
    assert_eq!(code, 0, "{text}");
    let names: Vec<&str> =
        report["loads"].as_array().unwrap().iter().map(|load| load["name"].as_str().unwrap()).collect();
    assert_eq!(names[0], "background/idle", "{names:?}");
    let mut day = [names[1], names[2]];
    day.sort_unstable();
    assert_eq!((day, names[3]), (["day/churn", "day/rate"], "night/storm"));
    assert!(report["loads"][0]["idle"]["hold_s"].as_f64().unwrap() > 1.9, "it lasts as long as the phases");
}

#[test]
fn the_demo_needs_nothing_and_leaves_a_page() {
    let page = Scratch::new("demo.html");
    let output = Command::new(env!("CARGO_BIN_EXE_ringwire-loadgen"))
        .args(["demo", "--quiet", "--html", page.path()])
        .output()
        .unwrap();
    let text = said(&output);
    // On a host as busy as this one may be, the generator may be late.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{text}");
    assert!(text.contains(page.path()), "{text}");
    let mut html = String::new();
    std::fs::File::open(&page.0).unwrap().read_to_string(&mut html).unwrap();
    for name in ["idle", "echo", "rate", "broadcast", "churn", "storm", "attack"] {
        assert!(text.contains(&format!("\n{name}")) || text.starts_with(name), "{name}: {text}");
        assert!(html.contains(name), "{name}");
    }
    assert!(html.starts_with("<!DOCTYPE html>") || html.starts_with("<!doctype html>"));
}

#[test]
fn a_server_that_never_answers_is_given_up() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    // Held open, and not a word.
    thread::spawn(move || listener.incoming().collect::<Vec<_>>());
    let (code, text, report) = run("echo URL -n 3 --duration 1s --handshake-timeout 500ms", port);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("did not answer the handshake in time"), "{text}");
    assert_eq!((&report["verdict"], &report["loads"][0]["ramp"]["opened"]), (&"broken".into(), &0.into()));
}

#[test]
fn messages_that_never_come_back_are_lost_and_the_run_ends() {
    let server = serve(Conduct::Silent);
    for line in
        ["rate URL -n 3 --rate 10 --duration 1s --warmup 0s", "echo URL -n 3 --duration 1s --warmup 0s"]
    {
        let (code, text, report) = run(line, server.port);
        assert_eq!(code, 1, "{text}");
        assert!(report["loads"][0]["errors"]["lost"].as_u64().unwrap() >= 3, "{text}");
        assert!(text.contains("no answer came"), "{text}");
    }
}
