//! The command `ringwire`: `serve` runs an echo server with a page, `doctor` tells what this host
//! offers. Uses the crate's public API only, so it is also a larger example of it.
//!
//! Exit codes: 0 for a drained server, 1 for one that could not start or failed, 2 for a command
//! line that makes no sense, 128 + n when a second signal n cut a drain short.

mod board;
mod bounds;
mod demo;
mod doctor;
mod serve;
mod site;
#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "tls_off.rs"]
mod tls;
mod topics;

use clap::{Parser, Subcommand};
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A WebSocket server engine: one pinned thread and one io_uring ring per core.
#[derive(Debug, Parser)]
#[command(name = "ringwire", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run an echo server: WebSockets at /echo, a page at /, /healthz, /metrics and /info.
    Serve(Box<serve::Options>),
    /// Tell what this kernel and CPU offer, which driver would run, and what to change to get more.
    Doctor(doctor::Options),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Serve(options) => serve::run(*options),
        Command::Doctor(options) => doctor::run(&options),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ringwire: {error}");
            ExitCode::FAILURE
        }
    }
}
