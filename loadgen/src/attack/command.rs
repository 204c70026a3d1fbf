//! The command line of `attack`, and what it prints.

use super::{Options, ROWS};
use crate::host::{self, CpuTime};
use crate::result::{Attack, AttackRow, Errors, Load, Verdict};
use crate::run::{self, Output, Runner};
use crate::target::Target;
use clap::Args;
use ringwire::DriverChoice;
use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// What may be asked of `attack`.
#[derive(Args, Debug)]
pub struct AttackArgs {
    /// `ws://HOST[:PORT][/PATH]` of a server that echoes
    #[arg(required_unless_present = "list")]
    url: Option<String>,
    /// Only these rows, as in zip-bomb,pings; see --list.
    #[arg(long, value_delimiter = ',', value_name = "NAME", value_parser = row_name)]
    only: Vec<String>,
    /// Prints the names of all rows with what they do, and ends.
    #[arg(long)]
    list: bool,
    /// Seconds that a deadline of the server's may take.
    #[arg(long, default_value = "15", value_parser = crate::cli::positive)]
    timeout: f64,
    /// The largest message that the server takes [default: found out].
    #[arg(long, value_name = "BYTES")]
    max_message_bytes: Option<u64>,
    /// Connections of the storms.
    #[arg(long, short = 'n', default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..1 << 20))]
    connections: u64,
    /// The server's process: its memory must stay, its CPU time is told.
    #[arg(long)]
    pid: Option<u32>,
    #[command(flatten)]
    output: Output,
}

fn row_name(text: &str) -> Result<String, String> {
    match ROWS.iter().any(|row| row.name == text) {
        true => Ok(text.to_owned()),
        false => Err("there is no such row; --list names them".to_owned()),
    }
}

/// Runs the scenario and prints what it saw.
///
/// # Errors
/// In words, if it could not be run or its result not be written.
pub fn attack(args: &AttackArgs) -> Result<ExitCode, String> {
    let mut out = io::stdout();
    if args.list {
        for row in ROWS {
            // Nobody may be reading.
            let _ = writeln!(out, "{:16} {}\n{:16} wanted: {}", row.name, row.attack, "", row.wanted);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let url = args.url.clone().unwrap_or_default();
    let target = Target::resolve_plain(&url)?;
    if let Some(pid) = args.pid.filter(|pid| CpuTime::of(&pid.to_string()).is_none()) {
        return Err(format!("--pid {pid}: there is no such process"));
    }
    // Blocking sockets are ordinary descriptors.
    host::reserve(args.connections, DriverChoice::Epoll, None)?;
    let options = Options {
        only: args.only.clone(),
        timeout: Duration::from_secs_f64(args.timeout),
        max_message_bytes: args.max_message_bytes,
        connections: args.connections as usize,
        pid: args.pid,
    };
    let runner = Runner::new(&args.output)?;
    let begin = Instant::now();
    let quiet = args.output.quiet;
    let attack = super::run(&target, &options, &mut |row| {
        if !quiet {
            // Nobody may be reading.
            let _ = print_row(&mut out, row);
        }
    })?;
    let count = |outcome: &str| attack.rows.iter().filter(|row| row.outcome == outcome).count();
    let (good, failed, skipped) = (count("ok"), count("failed"), count("skipped"));
    let took = begin.elapsed().as_secs_f64();
    let _ = writeln!(out, "{good} ok, {failed} failed, {skipped} skipped, in {took:.1} s");
    run::write_files(&runner.report(vec![load(&url, &options, attack)], &args.output.fail_if), &args.output)
}

/// The rows that take no time, for a tour.
const QUICK: &[&str] =
    &["handshake", "head-injection", "cross-origin", "framing", "masks", "control-frames", "utf8", "closing"];

/// Runs the quick rows.
///
/// # Errors
/// As [`attack`].
pub fn quick(url: &str) -> Result<Load, String> {
    let options = Options {
        only: QUICK.iter().map(|name| (*name).to_owned()).collect(),
        timeout: Duration::from_secs(15),
        max_message_bytes: None,
        connections: 100,
        pid: None,
    };
    let attack = super::run(&Target::resolve_plain(url)?, &options, &mut |_| {})?;
    Ok(load(url, &options, attack))
}

fn print_row(out: &mut impl Write, row: &AttackRow) -> io::Result<()> {
    writeln!(out, "{:8} {:16} {:6.1} s  {}", row.outcome, row.name, row.duration_s, row.seen)?;
    out.flush()
}

/// The result in the shape of all scenarios.
fn load(url: &str, options: &Options, attack: Attack) -> Load {
    let failed: Vec<&AttackRow> = attack.rows.iter().filter(|row| row.outcome == "failed").collect();
    let verdict = if failed.is_empty() { Verdict::Ok } else { Verdict::Failed };
    let notes = failed.iter().map(|row| format!("{}: {}", row.name, row.seen)).collect();
    Load {
        urls: vec![url.to_owned()],
        driver: "blocking sockets".to_owned(),
        processes: 1,
        workers: 1,
        connections: options.connections as u64,
        verdict,
        errors: Errors { notes, ..Errors::default() },
        attack: Some(attack),
        ..Load::blank("attack", "attack", 0.0)
    }
}
