//! `ringwire-loadgen`: loads a WebSocket server, checks every answer, and says what it measured.
//!
//! From the command line (`cli`) comes a plan (`plan`); a conductor (`conduct`) moves crews of
//! workers (`crew`, `join`) through the steps of a scenario (`scenario`); a worker (`worker`) decides
//! what its transport (`client`, `raw`) sends and checks what comes back; results have one shape
//! (`result`), shown as text and as a page.
//!
//! Exit code 0: all as it should be; 1: the server, or a threshold, failed the run; 2: the run could
//! not be made to its end; 3: the generator could not keep up.

mod attack;
mod board;
mod cli;
mod client;
mod compare;
mod conduct;
mod crew;
mod deaf;
mod demo;
mod file;
mod host;
mod html;
mod join;
mod news;
mod pace;
mod payload;
mod plan;
mod progress;
mod raw;
mod result;
mod run;
mod scenario;
mod target;
mod text;
mod threshold;
mod times;
mod trust;
mod worker;

use clap::{Args, Parser, Subcommand};
use cli::LoadCommand;
use run::{Output, Runner};
use std::path::PathBuf;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Loads a WebSocket server and checks every answer.
#[derive(Debug, Parser)]
#[command(
    version,
    after_help = "`ringwire-loadgen --join ADDR` helps a process started with --coordinate ADDR."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Load(Box<LoadCommand>),
    /// Runs phases of loads from a file, each phase's at once, one phase after the other.
    Scenario(ScenarioArgs),
    /// Does to a server what has brought others down, and says what it did.
    Attack(attack::AttackArgs),
    /// Reads what `--json` wrote: a table, and an HTML page. The first run is what others are compared with.
    Report(compare::ReportArgs),
    /// A short tour of the scenarios against a server of its own, and a page with the results.
    Demo(demo::DemoArgs),
    #[command(name = demo::SERVER, hide = true)]
    DemoServer,
    /// Helps a process that was started with --coordinate: the same as --join ADDR.
    Join(JoinArgs),
}

#[derive(Args, Debug)]
struct ScenarioArgs {
    /// TOML; see the documentation for an example.
    file: PathBuf,
    /// The server, in place of the file's own.
    #[arg(long)]
    url: Option<String>,
    #[command(flatten)]
    output: Output,
}

#[derive(Args, Debug)]
struct JoinArgs {
    /// Where the other process waits.
    addr: String,
    #[command(flatten)]
    seat: cli::SeatArgs,
}

fn main() -> ExitCode {
    let arguments = std::env::args_os().map(|argument| match argument == "--join" {
        true => "join".into(),
        false => argument,
    });
    let result = match Cli::parse_from(arguments).command {
        Command::Load(command) => load(&command),
        Command::Scenario(args) => scenario(&args),
        Command::Attack(args) => attack::attack(&args),
        Command::Report(args) => compare::report(&args),
        Command::Demo(args) => demo::run(args),
        Command::DemoServer => demo::serve(),
        Command::Join(args) => {
            let seat = args.seat.seat(args.seat.workers().unwrap_or(1));
            join::join(&args.addr, &seat).map(|()| ExitCode::SUCCESS)
        }
    };
    result.unwrap_or_else(|why| {
        eprintln!("ringwire-loadgen: {why}");
        ExitCode::from(2)
    })
}

fn load(command: &LoadCommand) -> Result<ExitCode, String> {
    let (spec, output) = (command.spec()?, command.output());
    let mut runner = Runner::new(output)?;
    runner.gather(command.helpers())?;
    let load = runner.run(&spec)?;
    run::publish(&runner.report(vec![load], &output.fail_if), output)
}

fn scenario(args: &ScenarioArgs) -> Result<ExitCode, String> {
    let text =
        std::fs::read_to_string(&args.file).map_err(|error| format!("{}: {error}", args.file.display()))?;
    let file = file::File::read(&text, args.url.as_deref())
        .map_err(|why| format!("{}: {why}", args.file.display()))?;
    let runner = Runner::new(&args.output)?;
    let (loads, end) = file.run(&runner);
    let code = run::publish(&runner.report(loads, &args.output.fail_if), &args.output)?;
    end.map(|()| code)
}
