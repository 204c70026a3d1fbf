//! `ringwire-loadgen`: loads a WebSocket server, checks every answer, and says what it measured.
//!
//! The command line and the scenarios as sequences of phases; see `run` for who does the work.
//! Exit code 0: all as it should be; 1: the server failed the run; 2: the run could not be made.

mod attack;
mod board;
mod client;
mod flow;
mod host;
mod payload;
mod raw;
mod report;
mod result;
mod run;
mod target;

use board::Phase;
use clap::{Args, Parser, Subcommand};
use flow::Plan;
use host::{CpuTime, Host, Memory};
use report::{Echo, Errors, Idle, IdleMemory, Report};
use ringwire::DriverChoice;
use ringwire::ws::Kind;
use run::{Run, Sample, Setup};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;
use target::Target;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The largest message that can be sent.
const MAX_SIZE: u64 = 1 << 30;

/// Loads a WebSocket server and checks every answer.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// Closed loop: every connection sends a burst, waits for all of it, and sends the next.
    Echo(EchoArgs),
    /// Opens connections and holds them.
    Idle(IdleArgs),
    /// Does to a server what has brought others down, and says what it did.
    Attack(attack::AttackArgs),
}

#[derive(Args, Debug)]
struct Common {
    /// `ws://HOST[:PORT][/PATH]`
    url: String,
    /// Connections.
    #[arg(long, short = 'n', value_parser = clap::value_parser!(u64).range(1..1 << 24))]
    connections: u64,
    /// Bytes of a message.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(0..=MAX_SIZE))]
    size: u64,
    /// Text instead of binary messages.
    #[arg(long)]
    text: bool,
    /// Text that looks like JSON records, which compresses, instead of arbitrary characters.
    #[arg(long, requires = "text")]
    records: bool,
    /// Offers permessage-deflate, without context takeover; the run fails if the server declines.
    #[arg(long, conflicts_with = "raw")]
    deflate: bool,
    /// Connections opened per second [default: as fast as the server takes them].
    #[arg(long, value_parser = positive)]
    rate: Option<f64>,
    /// The server's process: its CPU time and memory are measured.
    #[arg(long)]
    pid: Option<u32>,
    /// Writes the result to a file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The generator's own driver: auto, uring or epoll.
    #[arg(long, default_value = "auto")]
    driver: DriverChoice,
    /// Cores to run on, one worker each, as in 1,3 [default: one worker, not pinned].
    #[arg(long, value_delimiter = ',')]
    cores: Vec<usize>,
    /// Bare TCP: the server throws back every byte, as it is.
    #[arg(long)]
    raw: bool,
}

#[derive(Args, Debug)]
struct EchoArgs {
    #[command(flatten)]
    common: Common,
    /// Messages of a burst, sent at once.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1 << 20))]
    depth: u64,
    /// Seconds to measure.
    #[arg(long, default_value = "5", value_parser = positive)]
    duration: f64,
    /// Seconds of load before measuring.
    #[arg(long, default_value = "1", value_parser = not_negative)]
    warmup: f64,
}

#[derive(Args, Debug)]
struct IdleArgs {
    #[command(flatten)]
    common: Common,
    /// Seconds to hold the connections.
    #[arg(long, default_value = "5", value_parser = not_negative)]
    hold: f64,
    /// One echo on each connection when it opens.
    #[arg(long)]
    echo_once: bool,
}

fn not_negative(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if (0.0..=1e9).contains(&number) { Ok(number) } else { Err("give 0 to 1e9".to_owned()) }
}

fn positive(text: &str) -> Result<f64, String> {
    let number = not_negative(text)?;
    if number > 0.0 { Ok(number) } else { Err("give more than 0".to_owned()) }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let (json, result) = match cli.scenario {
        Scenario::Echo(args) => (args.common.json.clone(), echo(&args)),
        Scenario::Idle(args) => (args.common.json.clone(), idle(&args)),
        Scenario::Attack(args) => {
            return match attack::attack(&args) {
                Ok(ok) => ExitCode::from(u8::from(!ok)),
                Err(why) => {
                    eprintln!("ringwire-loadgen: {why}");
                    ExitCode::from(2)
                }
            };
        }
    };
    let report = match result {
        Ok(report) => report,
        Err(why) => {
            eprintln!("ringwire-loadgen: {why}");
            return ExitCode::from(2);
        }
    };
    print!("{}", report.to_text());
    if let Some(Err(why)) = json.map(|path| write_json(&path, &report)) {
        eprintln!("ringwire-loadgen: {why}");
        return ExitCode::from(2);
    }
    ExitCode::from(u8::from(!report.ok))
}

fn write_json(path: &Path, report: &Report) -> Result<(), String> {
    let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
    std::fs::write(path, text + "\n").map_err(|error| format!("{}: {error}", path.display()))
}

impl Common {
    fn setup(&self, depth: u64, echo_on_open: bool) -> Result<Setup, String> {
        if let Some(path) = &self.json {
            // Rather now than after the run.
            let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
            file.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let alive = self.pid.is_none_or(|pid| CpuTime::of(&pid.to_string()).is_some());
        if !alive {
            return Err(format!("--pid {}: there is no such process", self.pid.unwrap_or_default()));
        }
        host::reserve(self.connections)?;
        Ok(Setup {
            target: Target::resolve(&self.url, self.raw)?,
            plan: Plan {
                connections: self.connections,
                rate: self.rate,
                size: self.size as usize,
                kind: if self.text { Kind::Text } else { Kind::Binary },
                records: self.records,
                deflate: self.deflate,
                depth,
                echo_on_open,
            },
            raw: self.raw,
            workers: self.cores.len().clamp(1, self.connections as usize),
            cores: self.cores.clone(),
            driver: self.driver,
        })
    }

    fn report(&self, scenario: &'static str, setup: &Setup, run: &Run, ramp: Duration) -> Report {
        Report {
            tool: format!("ringwire-loadgen {}", env!("CARGO_PKG_VERSION")),
            scenario,
            ok: false,
            url: self.url.clone(),
            raw: self.raw,
            driver: run.driver,
            workers: setup.workers,
            connections: self.connections,
            size_bytes: setup.plan.size,
            kind: match (self.text, self.records) {
                (false, _) => "binary",
                (true, false) => "text",
                (true, true) => "records",
            },
            deflate: self.deflate,
            ramp_s: ramp.as_secs_f64(),
            errors: Errors::default(),
            echo: None,
            idle: None,
            host: Host::look(),
        }
    }
}

/// Connects; if that fails the workers are ended all the same.
fn connect(setup: &Setup) -> Result<(Run, Duration), String> {
    let run = Run::start(setup)?;
    match run.connect() {
        Ok(ramp) => Ok((run, ramp)),
        Err(why) => {
            let ended = run.finish();
            Err(ended.err().unwrap_or(why))
        }
    }
}

fn echo(args: &EchoArgs) -> Result<Report, String> {
    let common = &args.common;
    let setup = common.setup(args.depth, false)?;
    let (run, ramp) = connect(&setup)?;
    run.pass(Phase::WarmUp, Duration::from_secs_f64(args.warmup))?;
    let before = Sample::take(&run.board, common.pid);
    run.pass(Phase::Measure, Duration::from_secs_f64(args.duration))?;
    let measured = Sample::take(&run.board, common.pid).since(&before);
    let unanswered = run.drain();
    let mut report = common.report("echo", &setup, &run, ramp);
    report.echo = Some(Echo::new(&run.board, &measured, setup.plan.size, args.depth, args.warmup));
    report.errors = Errors::new(&run.board.faults(), unanswered);
    if measured.messages == 0 {
        report.errors.notes.push("no answer came in the time that was measured".to_owned());
    }
    report.ok = report.errors.is_empty();
    run.finish()?;
    Ok(report)
}

fn idle(args: &IdleArgs) -> Result<Report, String> {
    let common = &args.common;
    let setup = common.setup(1, args.echo_once)?;
    let memory = || common.pid.and_then(Memory::of);
    let (before, slab_before) = (memory(), host::kernel_slab());
    let (run, ramp) = connect(&setup)?;
    let (open, slab_open) = (memory(), host::kernel_slab());
    let start = Sample::take(&run.board, common.pid);
    // The connections are open and silent: nothing begins.
    run.pass(Phase::Connect, Duration::from_secs_f64(args.hold))?;
    let held_for = Sample::take(&run.board, common.pid).since(&start);
    let held = memory();
    let unanswered = run.drain();
    let mut report = common.report("idle", &setup, &run, ramp);
    report.idle = Some(Idle {
        echo_once: args.echo_once,
        hold_s: held_for.seconds,
        opened_per_s: common.connections as f64 / ramp.as_secs_f64(),
        memory: before
            .zip(open)
            .zip(held)
            .map(|((before, open), held)| IdleMemory::new(before, open, held, common.connections)),
        kernel_slab_bytes_per_connection: slab_before
            .zip(slab_open)
            .map(|(before, open)| (open as f64 - before as f64) / common.connections as f64),
        server_cpus: held_for.server.map(|cpu| cpu.total_ns as f64 / 1e9 / held_for.seconds),
    });
    report.errors = Errors::new(&run.board.faults(), unanswered);
    report.ok = report.errors.is_empty();
    run.finish()?;
    Ok(report)
}
