//! From loads to a report: crews here and of those that joined, one conductor for each load, and
//! where results go.

use crate::cli::Spec;
use crate::conduct::{Conductor, Orders};
use crate::crew::{Crew, Local};
use crate::deaf;
use crate::host::Host;
use crate::join::Joined;
use crate::plan::Traffic;
use crate::progress::{self, Progress};
use crate::result::{Load, Report, SCHEMA, Verdict};
use crate::scenario;
use crate::threshold::{self, Condition};
use clap::Args;
use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What becomes of results.
#[derive(Args, Clone, Debug, Default)]
pub struct Output {
    /// Writes the result to a file.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Writes a page with the result's curves.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
    /// Fails the run on a condition, as in 'p99>2ms'; may be given several times.
    #[arg(long, value_name = "CONDITION", long_help = threshold::help())]
    pub fail_if: Vec<Condition>,
    /// Shows no progress.
    #[arg(long, short)]
    pub quiet: bool,
}

/// Who helps.
#[derive(Args, Clone, Debug)]
pub struct Helpers {
    /// Waits here for --processes others that are started with --join.
    #[arg(long, value_name = "ADDR", requires = "processes")]
    coordinate: Option<SocketAddr>,
    /// Processes that join this one.
    #[arg(long, value_name = "N", requires = "coordinate", value_parser = clap::value_parser!(u16).range(1..=256))]
    processes: Option<u16>,
}

impl Helpers {
    /// Whether there are to be any.
    pub fn are_wanted(&self) -> bool {
        self.coordinate.is_some() || self.processes.is_some()
    }
}

impl Output {
    /// Whether anything was asked for.
    pub fn is_used(&self) -> bool {
        let Self { json, html, fail_if, quiet } = self;
        json.is_some() || html.is_some() || !fail_if.is_empty() || *quiet
    }
}

/// Whoever runs loads.
pub struct Runner {
    progress: Arc<dyn Progress>,
    interrupted: Arc<AtomicBool>,
    began: Instant,
    began_unix_ms: u64,
    joined: Vec<Joined>,
}

impl Runner {
    /// Takes over SIGINT and SIGTERM: the first one ends the run and keeps what was measured, a second
    /// one ends the process.
    ///
    /// # Errors
    /// In words, if a file cannot be written.
    pub fn new(output: &Output) -> Result<Self, String> {
        // Rather now than after the run.
        for path in [&output.json, &output.html].into_iter().flatten() {
            let file = OpenOptions::new().create(true).append(true).open(path);
            file.map_err(|error| format!("{}: {error}", path.display()))?;
        }
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
            signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, interrupted.clone())
                .and_then(|_| signal_hook::flag::register(signal, interrupted.clone()))
                .map_err(|error| format!("signals cannot be handled: {error}"))?;
        }
        Ok(Self {
            progress: progress::for_terminal(output.quiet),
            interrupted,
            began: Instant::now(),
            began_unix_ms: unix_ms(),
            joined: Vec::new(),
        })
    }

    /// Waits for processes to join, if any are to.
    ///
    /// # Errors
    /// In words, if somebody does not come.
    pub fn gather(&mut self, helpers: &Helpers) -> Result<(), String> {
        if let (Some(addr), Some(processes)) = (helpers.coordinate, helpers.processes) {
            self.joined = crate::join::gather(addr, processes.into())?;
        }
        self.began = Instant::now();
        Ok(())
    }

    /// Whether it is to end.
    pub fn is_interrupted(&self) -> bool {
        self.interrupted.load(Ordering::Relaxed)
    }

    /// Runs one load, with the help of those that joined.
    ///
    /// # Errors
    /// In words, if it cannot begin.
    pub fn run(&mut self, spec: &Spec) -> Result<Load, String> {
        let mut joined = std::mem::take(&mut self.joined);
        let load = self.conduct(spec, self.orders(spec), &mut joined);
        self.joined = joined;
        load
    }

    /// Runs one load in this process alone.
    ///
    /// # Errors
    /// In words, if it cannot begin.
    pub fn run_alone(&self, spec: &Spec) -> Result<Load, String> {
        self.conduct(spec, self.orders(spec), &mut [])
    }

    /// Runs one load in this process alone, for as long as others last: it sets `open` when its
    /// connections are, and ends when `until` is set.
    ///
    /// # Errors
    /// In words, if it cannot begin.
    pub fn run_behind(
        &self,
        spec: &Spec,
        until: Arc<AtomicBool>,
        open: Arc<AtomicBool>,
    ) -> Result<Load, String> {
        let orders = Orders { behind: Some((open, until)), expected: Duration::ZERO, ..self.orders(spec) };
        self.conduct(spec, orders, &mut [])
    }

    fn orders(&self, spec: &Spec) -> Orders {
        let times = &spec.times;
        Orders {
            name: spec.name.clone(),
            pid: spec.pid,
            interrupted: self.interrupted.clone(),
            behind: None,
            expected: times.warmup + times.duration + times.pause * times.waves,
        }
    }

    fn conduct(&self, spec: &Spec, orders: Orders, joined: &mut [Joined]) -> Result<Load, String> {
        let plan = &spec.plan;
        let greeting = match &plan.traffic {
            Traffic::Broadcast { subscribe, .. } => subscribe.as_deref(),
            _ => None,
        };
        // They are there until the load has ended.
        let _deaf = deaf::open(spec.deaf, plan.target(0), greeting)?;
        let lanes = (spec.seat.workers + joined.iter().map(Joined::workers).sum::<usize>()) as u64;
        let local = Local::start(&spec.plan, &spec.seat, 0, lanes, 0)?;
        let mut crews: Vec<Box<dyn Crew + '_>> = vec![Box::new(local)];
        let mut first_lane = spec.seat.workers as u64;
        for one in joined {
            let workers = one.workers() as u64;
            match one.start(&spec.plan, first_lane, lanes) {
                Ok(remote) => crews.push(Box::new(remote)),
                Err(why) => {
                    crews.into_iter().for_each(|crew| drop(crew.finish()));
                    return Err(why);
                }
            }
            first_lane += workers;
        }
        let began_s = self.began.elapsed().as_secs_f64();
        let conductor = Conductor::new(spec.plan.clone(), orders, crews, self.progress.clone());
        Ok(scenario::run(conductor, &spec.name, began_s, &spec.times))
    }

    /// What all loads together come to.
    pub fn report(&self, loads: Vec<Load>, conditions: &[Condition]) -> Report {
        let thresholds: Vec<_> =
            conditions.iter().flat_map(|condition| loads.iter().map(|load| condition.try_on(load))).collect();
        Report {
            schema: SCHEMA,
            tool: format!("ringwire-loadgen {}", env!("CARGO_PKG_VERSION")),
            started_unix_ms: self.began_unix_ms,
            command: std::env::args().collect(),
            verdict: threshold::verdict(&loads, &thresholds),
            thresholds,
            host: Host::look(),
            loads,
        }
    }
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}

/// Prints and writes a report, and says how the process is to end.
///
/// # Errors
/// In words, if a file cannot be written; the others are.
pub fn publish(report: &Report, output: &Output) -> Result<ExitCode, String> {
    print!("{}", crate::text::report(report));
    write_files(report, output)
}

/// Writes a report's files, and says how the process is to end.
///
/// # Errors
/// As [`publish`].
pub fn write_files(report: &Report, output: &Output) -> Result<ExitCode, String> {
    let mut failed = Vec::new();
    if let Some(path) = &output.json {
        failed.extend(write_json(path, report).err());
    }
    if let Some(path) = &output.html {
        let page = crate::html::render(&[("this run".to_owned(), report.clone())]);
        failed.extend(write(path, &page).err());
    }
    if !failed.is_empty() {
        return Err(failed.join("\n"));
    }
    Ok(exit_code(report.verdict))
}

/// 0: all as it should be; 1: the server, or a threshold, failed the run; 2: it could not be made to
/// its end; 3: the generator could not keep up.
pub fn exit_code(verdict: Verdict) -> ExitCode {
    ExitCode::from(match verdict {
        Verdict::Ok => 0,
        Verdict::Failed => 1,
        Verdict::Broken => 2,
        Verdict::Invalid => 3,
    })
}

/// Writes a report as JSON.
///
/// # Errors
/// In words.
pub fn write_json(path: &Path, report: &Report) -> Result<(), String> {
    let text = serde_json::to_string_pretty(report).map_err(|error| error.to_string())?;
    write(path, &(text + "\n"))
}

/// Writes a file.
///
/// # Errors
/// In words.
pub fn write(path: &Path, text: &str) -> Result<(), String> {
    let file = OpenOptions::new().create(true).write(true).truncate(true).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes()))
        .map_err(|error| format!("{}: {error}", path.display()))
}
