//! The command line of the loads, and how it becomes a plan.

use crate::host;
use crate::pace::Arrivals;
use crate::payload::Sizes;
use crate::plan::{Plan, Seat, Shape, Traffic};
use crate::run::{Helpers, Output};
use crate::scenario::Times;
use crate::target::{Sources, Target};
use crate::trust::Trust;
use clap::{Args, Subcommand};
use ringwire::DriverChoice;
use std::path::PathBuf;
use std::time::Duration;

/// Connections on their way at once, per worker: within the smallest usual listen backlog.
const MAX_OPENING: u64 = 64;

/// The loads.
#[derive(Clone, Debug, Subcommand)]
pub enum LoadCommand {
    /// Closed loop: every connection sends a burst, waits for all of it, and sends the next.
    Echo(EchoArgs),
    /// Open loop: messages are due at a rate, whatever the answers do; latency counts from then.
    Rate(RateArgs),
    /// Opens connections and holds them.
    Idle(IdleArgs),
    /// What a few connections send, all others must get: how fast, and whether all of it.
    Broadcast(BroadcastArgs),
    /// Opens and closes connections, one handshake after the other.
    Churn(ChurnArgs),
    /// All connections leave and come back at once, several times.
    Storm(StormArgs),
}

/// How and where this process's workers run.
#[derive(Args, Clone, Debug)]
pub struct SeatArgs {
    /// Threads [default: one per core of --cores, or one; more if descriptors ask for it].
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=ringwire::MAX_SHARDS as i64))]
    workers: Option<u16>,
    /// Cores to pin the workers to in turn, as in 1,3 [default: not pinned].
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// The generator's own driver: auto, uring or epoll.
    #[arg(long, default_value = "auto")]
    driver: DriverChoice,
    /// After traffic, poll for so many microseconds before sleeping, so that the generator's own wake-up is
    /// not part of the latency: busy cores, best with --cores. Workers that share a core sleep at once.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    busy_poll_us: u32,
}

/// What all loads have.
#[derive(Args, Clone, Debug)]
pub struct Common {
    /// `ws://HOST[:PORT][/PATH]` or `wss://`; several, with commas between, are taken in turn.
    #[arg(required = true, value_delimiter = ',')]
    url: Vec<String>,
    /// Connections, of all processes.
    #[arg(long, short = 'n', default_value_t = 50, value_parser = clap::value_parser!(u64).range(1..1 << 24))]
    connections: u64,
    /// Connections opened per second [default: as fast as the server takes them].
    #[arg(long, value_parser = positive)]
    connect_rate: Option<f64>,
    /// A server that has not answered a handshake within this time has failed.
    #[arg(long, default_value = "10s", value_parser = time)]
    handshake_timeout: Duration,
    /// Source addresses, taken in turn: addresses, or a network as 127.0.0.0/8 of which as many are
    /// taken as ports are needed [default: the kernel's; of 127.0.0.0/8 if ports are short there].
    #[arg(long, value_delimiter = ',')]
    source: Vec<Sources>,
    /// For wss://: trust certificates that descend from those in this PEM file.
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// For wss://: believe whoever answers.
    #[arg(long, conflicts_with = "ca")]
    insecure: bool,
    #[command(flatten)]
    seat: SeatArgs,
    /// The server's process: its CPU time and memory are measured.
    #[arg(long)]
    pid: Option<u32>,
    /// The load's name in results [default: the scenario's].
    #[arg(long)]
    name: Option<String>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    helpers: Helpers,
}

/// What is sent.
#[derive(Args, Clone, Debug)]
struct MessageArgs {
    /// Bytes of a message: 20, from 16 to 1024 as 16..1024, or by shares as 16:70,1024:30.
    #[arg(long, default_value = "20")]
    size: Sizes,
    /// Text instead of binary messages.
    #[arg(long)]
    text: bool,
    /// Text that looks like JSON records, which compresses, instead of arbitrary characters.
    #[arg(long, requires = "text")]
    records: bool,
    /// Text of Chinese characters, three bytes each, instead of printable ASCII.
    #[arg(long, requires = "text", conflicts_with = "records")]
    cjk: bool,
    /// Frames of each message.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1 << 16))]
    fragments: u32,
    /// Offers permessage-deflate, without context takeover; the run fails if the server declines.
    #[arg(long)]
    deflate: bool,
}

/// How long a load lasts.
#[derive(Args, Clone, Copy, Debug)]
struct Span {
    /// Seconds to measure, as 5, 500ms or 2m.
    #[arg(long, default_value = "5s", value_parser = time)]
    duration: Duration,
    /// Seconds of load before measuring.
    #[arg(long, default_value = "1s", value_parser = time)]
    warmup: Duration,
}

/// Bare TCP.
#[derive(Args, Clone, Copy, Debug)]
struct RawArgs {
    /// Bare TCP: the server throws back every byte, as it is.
    #[arg(long, conflicts_with_all = ["deflate", "fragments"])]
    raw: bool,
}

#[derive(Args, Clone, Debug)]
#[allow(missing_docs)]
pub struct EchoArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    message: MessageArgs,
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    raw: RawArgs,
    /// Messages of a burst, sent at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    depth: u64,
}

#[derive(Args, Clone, Debug)]
#[allow(missing_docs)]
pub struct RateArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    message: MessageArgs,
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    arrivals: ArrivalArgs,
    /// Messages per second, of all connections.
    #[arg(long, value_parser = positive)]
    rate: f64,
}

/// When messages are due.
#[derive(Args, Clone, Copy, Debug)]
struct ArrivalArgs {
    /// Gaps between messages: exponential, as of independent users, or equal.
    #[arg(long, value_enum, default_value = "poisson")]
    arrivals: Arrivals,
    /// If one message in a hundred leaves later than this, the generator could not keep up and the
    /// run is invalid.
    #[arg(long, default_value = "1ms", value_parser = time)]
    max_send_lag: Duration,
}

#[derive(Args, Clone, Debug)]
#[allow(missing_docs)]
pub struct IdleArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    message: MessageArgs,
    #[command(flatten)]
    raw: RawArgs,
    /// Seconds to hold the connections, as 5, 500ms or 2m.
    #[arg(long, default_value = "5s", value_parser = time)]
    hold: Duration,
    /// One echo on each connection when it opens.
    #[arg(long)]
    echo_once: bool,
    /// Connections that are asked for an echo now and then.
    #[arg(long, default_value_t = 0, conflicts_with = "raw")]
    sample: u64,
    /// How often each of these is.
    #[arg(long, default_value = "1s", value_parser = time, requires = "sample")]
    heartbeat: Duration,
}

#[derive(Args, Clone, Debug)]
#[allow(missing_docs)]
pub struct BroadcastArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    span: Span,
    #[command(flatten)]
    arrivals: ArrivalArgs,
    /// Connections that send, besides those that receive.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=256))]
    publishers: u64,
    /// Further connections, opened before the others, that are sent everything and read nothing.
    #[arg(long, default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=10_000))]
    deaf: u64,
    /// Messages per second, of all publishers.
    #[arg(long, default_value = "10", value_parser = positive)]
    rate: f64,
    /// Bytes of a message, at least 34.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(34..=1 << 24))]
    size: u32,
    /// Binary instead of text messages.
    #[arg(long, conflicts_with_all = ["subscribe", "publish"])]
    binary: bool,
    /// Text that every connection sends first, to get what is published.
    #[arg(long)]
    subscribe: Option<String>,
    /// Text that publishes, with {} where the message is to stand; it is found in whatever the server
    /// makes of it [default: the message alone].
    #[arg(long, value_parser = envelope)]
    publish: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[allow(missing_docs)]
pub struct ChurnArgs {
    #[command(flatten)]
    common: Common,
    #[command(flatten)]
    span: Span,
    /// Handshakes per second [default: as many as --connections at once allow].
    #[arg(long, value_parser = positive)]
    rate: Option<f64>,
}

#[derive(Args, Clone, Debug)]
#[allow(missing_docs)]
pub struct StormArgs {
    #[command(flatten)]
    common: Common,
    /// Times that all leave and come back.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    waves: u32,
    /// Seconds between leaving and coming back.
    #[arg(long, default_value = "500ms", value_parser = time)]
    pause: Duration,
}

/// A load, ready to run.
#[derive(Clone, Debug)]
pub struct Spec {
    /// As results name it.
    pub name: String,
    /// What is to be done.
    pub plan: Plan,
    /// By whom here.
    pub seat: Seat,
    /// How long.
    pub times: Times,
    /// The server's process.
    pub pid: Option<u32>,
    /// Connections of a broadcast that read nothing.
    pub deaf: u64,
}

impl LoadCommand {
    fn common(&self) -> &Common {
        match self {
            Self::Echo(args) => &args.common,
            Self::Rate(args) => &args.common,
            Self::Idle(args) => &args.common,
            Self::Broadcast(args) => &args.common,
            Self::Churn(args) => &args.common,
            Self::Storm(args) => &args.common,
        }
    }

    /// What becomes of its result.
    pub fn output(&self) -> &Output {
        &self.common().output
    }

    /// Who helps.
    pub fn helpers(&self) -> &Helpers {
        &self.common().helpers
    }

    /// Resolves names, and checks limits before anything is opened.
    ///
    /// # Errors
    /// In words, with the command that would help.
    pub fn spec(&self) -> Result<Spec, String> {
        let common = self.common();
        let (plan, times) = self.plan()?;
        let alive = common.pid.is_none_or(|pid| host::CpuTime::of(&pid.to_string()).is_some());
        if !alive {
            return Err(format!("--pid {}: there is no such process", common.pid.unwrap_or_default()));
        }
        let deaf = match self {
            Self::Broadcast(args) => args.deaf,
            _ => 0,
        };
        if deaf > 0 && plan.targets.iter().any(|target| target.tls) {
            return Err("--deaf speaks no TLS; give the ws:// address behind it".to_owned());
        }
        let seat = common.seat(&plan, deaf)?;
        Ok(Spec {
            name: common.name.clone().unwrap_or(plan.scenario.clone()),
            plan,
            seat,
            times,
            pid: common.pid,
            deaf,
        })
    }

    fn plan(&self) -> Result<(Plan, Times), String> {
        let plain = Shape {
            sizes: Sizes::Fixed(0),
            text: false,
            records: false,
            cjk: false,
            fragments: 1,
            deflate: false,
        };
        match self {
            Self::Echo(args) => {
                let traffic = Traffic::Closed { depth: args.depth };
                let plan = args.common.plan("echo", args.message.shape(), traffic, args.raw.raw)?;
                Ok((plan, args.span.times()))
            }
            Self::Rate(args) => {
                let ArrivalArgs { arrivals, max_send_lag } = args.arrivals;
                let traffic =
                    Traffic::Open { per_s: args.rate, arrivals, connections: args.common.connections };
                let plan = args.common.plan("rate", args.message.shape(), traffic, false)?;
                Ok((plan, Times { max_send_lag, ..args.span.times() }))
            }
            Self::Idle(args) => Ok((args.plan()?, Times { duration: args.hold, ..Times::default() })),
            Self::Broadcast(args) => {
                let ArrivalArgs { arrivals, max_send_lag } = args.arrivals;
                let traffic = Traffic::Broadcast {
                    publishers: args.publishers,
                    per_s: args.rate,
                    arrivals,
                    subscribe: args.subscribe.clone(),
                    envelope: args.publish.clone(),
                };
                let shape = Shape { sizes: Sizes::Fixed(args.size as usize), text: !args.binary, ..plain };
                let mut plan = args.common.plan("broadcast", shape, traffic, false)?;
                plan.connections += args.publishers;
                Ok((plan, Times { max_send_lag, ..args.span.times() }))
            }
            Self::Churn(args) => {
                let plan = args.common.plan("churn", plain, Traffic::Churn { per_s: args.rate }, false)?;
                Ok((plan, args.span.times()))
            }
            Self::Storm(args) => {
                let mut plan = args.common.plan("storm", plain, Traffic::Silent, false)?;
                plan.retries = true;
                if plan.connect_rate.is_none() {
                    plan.max_opening = u64::MAX;
                }
                Ok((plan, Times { waves: args.waves, pause: args.pause, ..Times::default() }))
            }
        }
    }
}

impl IdleArgs {
    fn plan(&self) -> Result<Plan, String> {
        let sample = self.sample.min(self.common.connections);
        let traffic = match sample {
            0 => Traffic::Silent,
            _ => Traffic::Open {
                per_s: sample as f64 / self.heartbeat.as_secs_f64().max(1e-3),
                arrivals: Arrivals::Even,
                connections: sample,
            },
        };
        let plan = self.common.plan("idle", self.message.shape(), traffic, self.raw.raw)?;
        Ok(Plan { echo_on_open: self.echo_once, ..plan })
    }
}

impl MessageArgs {
    fn shape(&self) -> Shape {
        Shape {
            sizes: self.size.clone(),
            text: self.text,
            records: self.records,
            cjk: self.cjk,
            fragments: self.fragments,
            deflate: self.deflate,
        }
    }
}

impl Default for Times {
    fn default() -> Self {
        Self {
            warmup: Duration::ZERO,
            duration: Duration::ZERO,
            waves: 0,
            pause: Duration::ZERO,
            max_send_lag: Duration::MAX,
        }
    }
}

impl Span {
    fn times(self) -> Times {
        Times { warmup: self.warmup, duration: self.duration, ..Times::default() }
    }
}

impl Common {
    fn plan(&self, scenario: &str, shape: Shape, traffic: Traffic, raw: bool) -> Result<Plan, String> {
        if raw && !matches!(shape.sizes, Sizes::Fixed(_)) {
            return Err("--raw takes one --size: without frames nothing tells messages apart".to_owned());
        }
        let targets = self.url.iter().map(|url| Target::resolve(url, raw)).collect::<Result<Vec<_>, _>>()?;
        let any_tls = targets.iter().any(|target| target.tls);
        let trust = Trust::choose(any_tls, self.insecure, self.ca.as_deref())?;
        let sources = Sources::choose(&self.source, &targets, self.connections)?;
        Ok(Plan {
            scenario: scenario.to_owned(),
            targets,
            sources,
            connections: self.connections,
            connect_rate: self.connect_rate,
            handshake_ms: u32::try_from(self.handshake_timeout.as_millis().max(1)).unwrap_or(u32::MAX),
            max_opening: MAX_OPENING,
            retries: false,
            shape,
            traffic,
            echo_on_open: false,
            raw,
            trust,
        })
    }

    fn seat(&self, plan: &Plan, deaf: u64) -> Result<Seat, String> {
        let most = plan.connections as usize;
        let workers =
            host::reserve(plan.connections + deaf, self.seat.driver, self.seat.workers())?.min(most);
        Ok(self.seat.seat(workers))
    }
}

impl SeatArgs {
    /// Workers asked for, if any were.
    pub fn workers(&self) -> Option<usize> {
        self.workers.map(usize::from).or((!self.cores.is_empty()).then_some(self.cores.len()))
    }

    /// With that many workers.
    pub fn seat(&self, workers: usize) -> Seat {
        let (cores, driver, busy_poll_us) = (self.cores.clone(), self.driver, self.busy_poll_us);
        Seat { workers, cores, driver, busy_poll_us }
    }
}

/// A number above 0.
pub fn positive(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if number > 0.0 && number <= 1e9 { Ok(number) } else { Err("give more than 0, to 1e9".to_owned()) }
}

fn envelope(text: &str) -> Result<String, String> {
    match text.matches("{}").count() {
        1 => Ok(text.to_owned()),
        _ => Err("give a text with {} in one place".to_owned()),
    }
}

/// Seconds, or a number with `ms`, `s`, `m` or `h`.
pub fn time(text: &str) -> Result<Duration, String> {
    let digits = text.find(|sign: char| !sign.is_ascii_digit() && sign != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| "give a time as 5, 500ms, 2m or 1h".to_owned())?;
    let seconds = match unit.trim() {
        "us" => 1e-6,
        "ms" => 1e-3,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3_600.0,
        _ => return Err("give a time as 5, 500ms, 2m or 1h".to_owned()),
    } * number;
    if seconds <= 1e9 { Ok(Duration::from_secs_f64(seconds)) } else { Err("too long".to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_and_without_a_unit() {
        for (text, ms) in [("5", 5_000), ("0.5", 500), ("500ms", 500), ("2m", 120_000), ("1h", 3_600_000)] {
            assert_eq!(time(text), Ok(Duration::from_millis(ms)), "{text}");
        }
        for wrong in ["", "x", "5x", "-1", "1e30s", "9999999999"] {
            assert!(time(wrong).is_err(), "{wrong}");
        }
    }
}
