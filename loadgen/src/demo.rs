//! `demo`: a short tour of the scenarios against a server of its own, which needs nothing and opens
//! nothing but a port on loopback. The server is this program in a second process, so that its CPU
//! time and memory can be told from the generator's.

use crate::cli::LoadCommand;
use crate::run::{self, Output, Runner};
use clap::{Args, Parser};
use ringwire::{
    CloseCode, Conn, Handler, ListenAddr, Message, Prepared, Remote, Request, SendResult, Server, Upgrade,
};
use std::io::{BufRead, BufReader, Read};
use std::path::PathBuf;
use std::process::{Child, Command, ExitCode, Stdio};

/// The hidden subcommand that is the server.
pub const SERVER: &str = "demo-server";

/// The tour, without URL and process.
const TOUR: &[&str] = &[
    "idle --name=idle --connections=500 --echo-once --sample=50 --heartbeat=250ms --hold=2s",
    "echo --name=echo --connections=50 --size=20 --duration=2s --warmup=500ms",
    "echo --name=bursts --connections=20 --size=16..512 --depth=64 --duration=2s --warmup=500ms",
    "rate --name=rate --connections=100 --rate=5000 --duration=3s --warmup=500ms --max-send-lag=50ms",
    "broadcast --name=broadcast --connections=500 --rate=20 --duration=3s --warmup=500ms --max-send-lag=50ms",
    "churn --name=churn --connections=20 --duration=2s --warmup=500ms",
    "storm --name=storm --connections=500 --waves=2 --pause=200ms",
];

/// What the tour may be told.
#[derive(Args, Debug)]
pub struct DemoArgs {
    /// Where the page goes.
    #[arg(long, value_name = "FILE", default_value = "ringwire-demo.html")]
    html: PathBuf,
    /// Writes the result to a file as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Shows no progress.
    #[arg(long, short)]
    quiet: bool,
}

#[derive(Debug, Parser)]
#[command(no_binary_name = true)]
struct OneLoad {
    #[command(subcommand)]
    load: LoadCommand,
}

/// The tour.
///
/// # Errors
/// In words, if the server cannot be started or a file not be written.
pub fn run(args: DemoArgs) -> Result<ExitCode, String> {
    let output =
        Output { json: args.json, html: Some(args.html.clone()), quiet: args.quiet, ..Output::default() };
    let mut runner = Runner::new(&output)?;
    let server = DemoServer::start()?;
    let mut loads = Vec::new();
    for line in TOUR {
        if runner.is_interrupted() {
            break;
        }
        let mut words = line.split(' ').map(str::to_owned);
        let scenario = words.next().unwrap_or_default();
        let path = if scenario == "broadcast" { "/broadcast" } else { "/" };
        let url = format!("ws://127.0.0.1:{}{path}", server.port);
        let pid = format!("--pid={}", server.child.id());
        let line = [scenario, url, pid].into_iter().chain(words);
        let load = OneLoad::try_parse_from(line).map_err(|error| error.to_string())?.load;
        loads.push(runner.run(&load.spec()?)?);
    }
    if !runner.is_interrupted() {
        loads.push(crate::attack::quick(&format!("ws://127.0.0.1:{}/", server.port))?);
    }
    drop(server);
    let code = run::publish(&runner.report(loads, &[]), &output)?;
    println!("the page        {}", std::path::absolute(&args.html).unwrap_or(args.html).display());
    Ok(code)
}

/// The server's process, which ends when its standard input does.
struct DemoServer {
    child: Child,
    port: u16,
}

impl DemoServer {
    fn start() -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("the demo's server cannot be started: {error}");
        let program = std::env::current_exe().map_err(failed)?;
        let mut child = Command::new(program)
            .arg(SERVER)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(failed)?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line).map_err(failed)?;
        }
        match line.trim().parse() {
            Ok(port) => Ok(Self { child, port }),
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                Err("the demo's server did not start; what it said stands above".to_owned())
            }
        }
    }
}

impl Drop for DemoServer {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The server: echoes, and on `/broadcast` sends each message to all there.
///
/// # Errors
/// In words.
pub fn serve() -> Result<ExitCode, String> {
    let loopback: ListenAddr = "127.0.0.1:0".parse().map_err(|error| format!("{error}"))?;
    let server = Server::builder().listen(loopback).shards(1).bind().map_err(|error| error.to_string())?;
    let Some(ListenAddr::Tcp(addr)) = server.local_addrs().first() else {
        return Err("no address was bound".to_owned());
    };
    println!("{}", addr.port());
    let handle = server.handle();
    std::thread::spawn(move || {
        // Whoever started it is gone, or done.
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        handle.stop();
    });
    let remote = server.remote();
    server.run(|_| Demo { remote: remote.clone() }).map_err(|error| error.to_string())?;
    Ok(ExitCode::SUCCESS)
}

struct Demo {
    remote: Remote,
}

impl Handler for Demo {
    /// Whether the connection is one of the broadcast's.
    type State = bool;

    fn upgrade(&mut self, request: &Request<'_>) -> Upgrade<bool> {
        Upgrade::accept(request.path() == "/broadcast")
    }

    fn message(&mut self, conn: &mut Conn<'_, bool>, message: Message<'_>) {
        let taken = match (*conn.state(), message) {
            (false, message) => conn.send(message) != SendResult::Dropped,
            (true, Message::Text(text)) => self.remote.broadcast(&Prepared::text(text), 0).is_ok(),
            (true, Message::Binary(bytes)) => {
                self.remote.broadcast(&Prepared::binary(bytes.to_vec()), 0).is_ok()
            }
        };
        if !taken {
            conn.close(CloseCode::TRY_AGAIN_LATER, "too much is waiting");
        }
    }

    fn broadcast(&mut self, conn: &mut Conn<'_, bool>, message: &Prepared, _tag: u64) {
        if *conn.state() && conn.send_prepared(message) == SendResult::Dropped {
            conn.close(CloseCode::TRY_AGAIN_LATER, "too much is waiting to be read");
        }
    }
}
