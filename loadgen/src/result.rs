//! What a run measured: the shape of `--json`, of what `report` reads, and of what processes that
//! load together tell each other. Field names are stable: a field is added, never renamed.
//!
//! Times are nanoseconds (`_ns`), seconds (`_s`) or milliseconds since 1970 (`_unix_ms`).

use crate::host::{Host, Memory};
use serde::{Deserialize, Serialize};

/// The version of this shape; raised when a field's meaning changes.
pub const SCHEMA: u32 = 1;
/// Faults that are described one by one; the rest are only counted.
pub const MAX_NOTES: usize = 10;

/// One run of the program.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// [`SCHEMA`].
    pub schema: u32,
    /// `ringwire-loadgen` and its version.
    pub tool: String,
    /// When it began.
    pub started_unix_ms: u64,
    /// The command line.
    pub command: Vec<String>,
    /// The worst of its loads and thresholds.
    pub verdict: Verdict,
    /// What `--fail-if` asked, and what became of it.
    pub thresholds: Vec<Threshold>,
    /// Where the generator ran.
    pub host: Host,
    /// In the order in which they began. One, except for `scenario` and `demo`.
    pub loads: Vec<Load>,
}

/// How a load ended, better before worse.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// Every answer came and was right.
    #[default]
    Ok,
    /// The generator could not keep up: the figures say nothing about the server.
    Invalid,
    /// Something was lost, doubled, corrupted, reordered, closed or refused, or a threshold broken.
    Failed,
    /// The load could not be made to its end; what was measured until then is here.
    Broken,
}

/// One `--fail-if`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Threshold {
    /// As given, as `p99>2ms`.
    pub condition: String,
    /// The name of the load it was tried on.
    pub load: String,
    /// What was measured, in the condition's unit; `None` if that load does not measure it.
    pub measured: Option<f64>,
    /// Whether the condition came true: the run fails.
    pub fails: bool,
}

/// What one scenario did and measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Load {
    /// The scenario's, or the one that a scenario file gives.
    pub name: String,
    /// `echo`, `rate`, `idle`, `broadcast`, `churn`, `storm` or `attack`.
    pub scenario: String,
    /// See [`Verdict`].
    pub verdict: Verdict,
    /// Seconds from the run's beginning to this load's.
    pub began_s: f64,
    /// Servers, in turn per connection.
    pub urls: Vec<String>,
    /// The generator's driver: `uring` or `epoll`.
    pub driver: String,
    /// The generator's processes.
    pub processes: u32,
    /// The generator's threads, of all processes.
    pub workers: u32,
    /// Connections asked for.
    pub connections: u64,
    /// Bare TCP instead of WebSocket.
    pub raw: bool,
    /// What is sent, if anything is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<Message>,
    /// How the connections came about.
    pub ramp: Ramp,
    /// What went wrong.
    pub errors: Errors,
    /// Of the scenario `echo`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub echo: Option<Echo>,
    /// Of the scenario `rate`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<Rate>,
    /// Of the scenario `idle`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idle: Option<Idle>,
    /// Of the scenario `broadcast`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub broadcast: Option<Broadcast>,
    /// Of the scenario `churn`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub churn: Option<Churn>,
    /// Of the scenario `storm`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storm: Option<Storm>,
    /// Of the scenario `attack`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attack: Option<Attack>,
    /// CPU while the load was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// The server's memory, of the scenario `idle` if the server's process was named.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<MemoryGrowth>,
    /// The course of it.
    pub series: Vec<Point>,
}

impl Load {
    /// One of which nothing is known yet.
    pub fn blank(name: &str, scenario: &str, began_s: f64) -> Self {
        Self {
            name: name.to_owned(),
            scenario: scenario.to_owned(),
            began_s,
            verdict: Verdict::Ok,
            urls: Vec::new(),
            driver: String::new(),
            processes: 0,
            workers: 0,
            connections: 0,
            raw: false,
            message: None,
            ramp: Ramp::default(),
            errors: Errors::default(),
            echo: None,
            rate: None,
            idle: None,
            broadcast: None,
            churn: None,
            storm: None,
            attack: None,
            cpu: None,
            memory: None,
            series: Vec::new(),
        }
    }
}

/// The messages of a load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Message {
    /// Bytes, as given: `20`, or a distribution such as `16..1024`.
    pub size: String,
    /// Mean bytes of a message.
    pub mean_bytes: f64,
    /// `text`, `binary`, `records`: text that looks like JSON, or `cjk`: text of Chinese characters.
    pub kind: String,
    /// Frames of each message.
    pub fragments: u32,
    /// permessage-deflate was agreed on.
    pub deflate: bool,
}

/// How connections came about.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Ramp {
    /// From the first connection asked for to the last opened (and answered, with `--echo-once`).
    pub duration_s: f64,
    /// Opened.
    pub opened: u64,
    /// Could not be opened.
    pub failed: u64,
    /// Opened per second.
    pub opened_per_s: f64,
    /// From asking for a connection to its open WebSocket.
    pub latency: Latency,
}

/// What went wrong. All zero and no notes in a good run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Errors {
    /// Messages that did not come.
    pub lost: u64,
    /// Messages that came twice.
    pub doubled: u64,
    /// Messages that came behind later ones.
    pub reordered: u64,
    /// Messages that are not what was sent.
    pub corrupted: u64,
    /// Connections that ended before it was time.
    pub closed: u64,
    /// Connections that could not be opened.
    pub refused: u64,
    /// The first of them, in words.
    pub notes: Vec<String>,
}

impl Errors {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds another crew's.
    pub fn add(&mut self, other: &Self) {
        self.lost += other.lost;
        self.doubled += other.doubled;
        self.reordered += other.reordered;
        self.corrupted += other.corrupted;
        self.closed += other.closed;
        self.refused += other.refused;
        let room = MAX_NOTES.saturating_sub(self.notes.len());
        self.notes.extend(other.notes.iter().take(room).cloned());
    }
}

/// A distribution of times.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Latency {
    /// Values.
    pub count: u64,
    /// The shortest.
    pub min_ns: u64,
    /// Arithmetic mean.
    pub mean_ns: f64,
    /// Median.
    pub p50_ns: u64,
    /// 90th percentile.
    pub p90_ns: u64,
    /// 99th.
    pub p99_ns: u64,
    /// 99.9th.
    pub p999_ns: u64,
    /// 99.99th.
    pub p9999_ns: u64,
    /// The longest.
    pub max_ns: u64,
    /// All of it: an HdrHistogram in its V2 encoding, as base64.
    pub hdr: String,
}

/// A closed loop: each connection sends when its last burst is answered, so a slow server is asked
/// less. Its latencies are those at the load that the server sets itself, not at a given rate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Echo {
    /// `closed`.
    #[serde(rename = "loop")]
    pub loop_: String,
    /// Messages of a burst.
    pub depth: u64,
    /// Of the measurement.
    pub duration_s: f64,
    /// Answered in that time, all of them checked.
    pub messages: u64,
    /// Per second.
    pub messages_per_s: f64,
    /// Payload bytes per second, one way.
    pub bytes_per_s: f64,
    /// From sending a burst to its last answer.
    pub latency: Latency,
}

/// An open loop: messages are due at times that do not depend on the answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rate {
    /// `open`.
    #[serde(rename = "loop")]
    pub loop_: String,
    /// `poisson` or `even`.
    pub arrivals: String,
    /// Messages per second asked for.
    pub asked_per_s: f64,
    /// Sent per second.
    pub sent_per_s: f64,
    /// Answered per second.
    pub messages_per_s: f64,
    /// Of the measurement.
    pub duration_s: f64,
    /// Answered, all of them checked.
    pub messages: u64,
    /// From the time a message was due to be sent to its answer: free of coordinated omission.
    pub latency: Latency,
    /// From the time a message was due to the time it was sent: the generator's own lateness.
    pub send_lag: Latency,
    /// The lateness of the 99th percentile beyond which the run is invalid.
    pub max_send_lag_ns: u64,
}

/// Connections that are open and silent, but for heartbeats.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Idle {
    /// Whether each was used for one echo when it opened.
    pub echo_once: bool,
    /// How long they were held.
    pub hold_s: f64,
    /// Connections that were asked for an echo now and then.
    pub sampled: u64,
    /// Of those echoes, from the time they were due.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heartbeat: Option<Latency>,
}

/// Messages that one sends and all get.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Broadcast {
    /// Connections that receive.
    pub subscribers: u64,
    /// Connections that send.
    pub publishers: u64,
    /// Messages sent per second, of all publishers.
    pub published_per_s: f64,
    /// Messages sent.
    pub published: u64,
    /// Messages received, of all subscribers, all of them checked.
    pub delivered: u64,
    /// Per second.
    pub delivered_per_s: f64,
    /// Of the measurement.
    pub duration_s: f64,
    /// From the time a message was due to be sent to its first subscriber.
    pub first: Latency,
    /// To the subscriber in the middle of the order of arrival.
    pub median: Latency,
    /// To its last subscriber.
    pub last: Latency,
    /// Of every delivery.
    pub latency: Latency,
}

/// Connections that open and close at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Churn {
    /// Of the measurement.
    pub duration_s: f64,
    /// Whole handshakes, each with its close.
    pub handshakes: u64,
    /// Per second.
    pub handshakes_per_s: f64,
    /// From asking for a connection to its open WebSocket.
    pub latency: Latency,
}

/// Everybody is gone and comes back at once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Storm {
    /// In order.
    pub waves: Vec<Wave>,
}

/// One wave of a storm.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Wave {
    /// Connections that came back.
    pub reconnected: u64,
    /// From the first attempt to the last connection open.
    pub duration_s: f64,
    /// Attempts that failed and were made again.
    pub retries: u64,
    /// From the wave's beginning to an open WebSocket, per connection.
    pub latency: Latency,
}

/// What a server did under attack.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Attack {
    /// In order.
    pub rows: Vec<AttackRow>,
}

/// One attack or accident.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct AttackRow {
    /// A short name, for `--only`.
    pub name: String,
    /// What is done to the server, in words.
    pub attack: String,
    /// What a good server does.
    pub wanted: String,
    /// What this one did.
    pub seen: String,
    /// `ok`, `failed`, or `skipped` where the server does not offer what is attacked.
    pub outcome: String,
    /// How long it took.
    pub duration_s: f64,
}

/// CPU used while a load was measured. Where no messages are sent, a handshake counts as one.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cpu {
    /// CPUs the generator used, 1 for one core all the time.
    pub own_cpus: f64,
    /// The generator's CPU time per message.
    pub own_ns_per_message: f64,
    /// The server's CPUs, if its process was named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_cpus: Option<f64>,
    /// The server's CPU time per message, user and system.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_ns_per_message: Option<f64>,
    /// The user part: split by the scheduler's ticks, so it needs a second or more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_user_ns_per_message: Option<f64>,
    /// The system part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_system_ns_per_message: Option<f64>,
}

/// The server's memory before the first connection, when all were open, and at the end.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MemoryGrowth {
    /// Before.
    pub before: Memory,
    /// All open.
    pub open: Memory,
    /// At the end.
    pub held: Memory,
    /// Growth of all resident memory from `before` to `held`, per connection.
    pub rss_bytes_per_connection: f64,
    /// Growth of the anonymous part, per connection.
    pub anonymous_bytes_per_connection: f64,
    /// Growth of the kernel's slab per connection: both ends if both are on this host, and whatever
    /// else the host does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_bytes_per_connection: Option<f64>,
}

/// A moment of a load's course, and what happened since the moment before.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Point {
    /// Seconds since the load began.
    pub t_s: f64,
    /// `connect`, `warmup`, `measure`, `drain` or `close`.
    pub phase: String,
    /// Open now.
    pub connections: u64,
    /// Sent per second.
    pub sent_per_s: f64,
    /// Received and checked per second.
    pub received_per_s: f64,
    /// Handshakes per second.
    pub handshakes_per_s: f64,
    /// Median of the latencies since the last point; `None` if there were none.
    pub p50_ns: Option<u64>,
    /// 99th percentile.
    pub p99_ns: Option<u64>,
    /// 99.9th percentile.
    pub p999_ns: Option<u64>,
    /// Faults so far.
    pub errors: u64,
    /// The server's resident memory.
    pub server_rss_bytes: Option<u64>,
    /// CPUs the server used.
    pub server_cpus: Option<f64>,
    /// The kernel's slab.
    pub kernel_slab_bytes: Option<u64>,
}
