//! `ringwire serve`: from the command line to a running server, and from signals to its end.
//!
//! Two threads besides the shards: this one waits in [`Server::run`], the other for signals.

use crate::board::Board;
use crate::bounds::Bounds;
use crate::demo;
use crate::site::{MetricsPage, Site, info};
use crate::tls::{self, TlsOptions};
use bytes::Bytes;
use clap::{Args, ValueEnum};
use ringwire::{
    BusyPoll, Compression, Deadlines, DeflateConfig, DriverChoice, Limits, ListenAddr, Server, ServerBuilder,
    ServerHandle, ShardInfo, available_cores, simd,
};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::error::Error;
use std::io::{self, Write as _};
use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// An echo never drops: receiving pauses at 256 KiB queued, and what may still come then is one
/// turn's bytes and one whole message. This is the room beyond that one message.
const OUTBOX_BEYOND_MESSAGE_BYTES: u32 = 48 << 20;

#[derive(Debug, Args)]
pub struct Options {
    /// Address to listen on: IP:PORT, [IPv6]:PORT or unix:PATH; port 0 lets the kernel choose. Repeatable.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:9001")]
    listen: Vec<ListenAddr>,

    /// What carries the bytes. A driver asked for by name that cannot run is an error.
    #[arg(long, value_enum, default_value_t = Driver::Auto)]
    driver: Driver,

    /// Run on this many cores, the first of those available [default: all].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    cores: Option<u16>,

    /// Run on exactly these cores: a list such as 0,2,3.
    #[arg(long, value_name = "LIST", value_delimiter = ',', conflicts_with = "cores")]
    pin: Vec<usize>,

    /// Serve TCP connections on the core on which their first packet came in (Linux 6.2).
    #[arg(long)]
    incoming_cpu: bool,

    /// Threads with a ring each [default: one per core]. Several may share a core.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=ringwire::MAX_SHARDS as i64))]
    shards: Option<u16>,

    /// Largest message, in bytes; beyond it the peer gets 1009.
    #[arg(long, value_name = "BYTES", default_value_t = 16 << 20, value_parser = clap::value_parser!(u32).range(1..=1 << 30))]
    max_message_bytes: u32,

    /// Connections per shard; at the limit accepting pauses until one closes.
    #[arg(long, value_name = "N", default_value_t = Limits::default().max_connections, value_parser = clap::value_parser!(u32).range(1..=1 << 24))]
    max_connections: u32,

    /// Receive buffers a shard may have.
    #[arg(long, value_name = "N", default_value_t = Limits::default().receive_buffers, value_parser = clap::value_parser!(u16).range(1..=1 << 15))]
    receive_buffers: u16,

    /// Bytes of one of them. Smaller ones keep many shards small; large messages then come in more pieces.
    #[arg(long, value_name = "BYTES", default_value_t = Limits::default().receive_buffer_bytes, value_parser = clap::value_parser!(u32).range(1_024..=16 << 20))]
    receive_buffer_bytes: u32,

    /// How long a connection may take until its request is whole, in milliseconds; 0 waits for ever.
    #[arg(long, value_name = "MS", default_value_t = Deadlines::default().head_ms)]
    head_ms: u32,

    /// Silence on a connection before it is pinged, in milliseconds; 0 never pings.
    #[arg(long, value_name = "MS", default_value_t = Deadlines::default().idle_ms)]
    idle_ms: u32,

    /// How long a pinged connection may stay silent before it is cut, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = Deadlines::default().pong_ms)]
    pong_ms: u32,

    /// Compress messages with clients that offer it (permessage-deflate).
    #[arg(long)]
    compress: bool,

    /// After traffic, poll for so many microseconds before sleeping: lower latency for a busy core. Shards that
    /// share a core sleep at once.
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=1_000_000))]
    busy_poll_us: u32,

    #[command(flatten)]
    tls: TlsOptions,
    /// Lets who sends `Authorization: Bearer TOKEN` publish by POST /topics/NAME; without it nobody can.
    #[arg(long, value_name = "TOKEN", env = "RINGWIRE_PUBLISH_TOKEN", hide_env_values = true, value_parser = clap::builder::NonEmptyStringValueParser::new())]
    publish_token: Option<String>,

    /// How long a shutdown waits for peers to answer 1001, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = Deadlines::default().drain_ms)]
    drain_ms: u32,

    #[command(flatten)]
    bounds: Bounds,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Driver {
    /// io_uring where the kernel offers and permits it, else epoll.
    Auto,
    /// io_uring or nothing.
    Uring,
    /// epoll.
    Epoll,
}

/// Runs the server until a signal has drained it.
pub fn run(mut options: Options) -> Result<(), Box<dyn Error>> {
    if let Err(error) = simd::forced() {
        eprintln!("ringwire: warning: RINGWIRE_SIMD is ignored: {error}; running {}", simd::level());
    }
    let prefers_uring = matches!(options.driver, Driver::Auto);
    let publish_token: Option<Arc<str>> = options.publish_token.as_deref().map(Into::into);
    let Options { tls, listen, .. } = &mut options;
    let (tls_options, addrs) = (std::mem::take(tls), std::mem::take(listen));
    let mut builder = tls_options.helped(builder(options)?);
    let tls = tls_options.config(&addrs)?;
    for addr in addrs {
        builder = match &tls {
            #[cfg(feature = "tls")]
            Some(tls) => builder.listen_tls(addr, tls.clone()),
            _ => builder.listen(addr),
        };
    }
    let server = builder.bind()?;
    let fallback = prefers_uring && server.driver() != "uring";
    if fallback {
        eprintln!("ringwire: warning: {}", server.driver_reason());
    }
    let scheme = if tls.is_some() { "https" } else { "http" };
    let forced = Arc::new(AtomicI32::new(0));
    obey_signals(server.handle(), forced.clone(), tls.map(|tls| move || tls::reload(&tls)))?;
    let remote = server.remote();
    let info = Bytes::from(info(&server, fallback));
    let opening = Opening::of(&server, scheme);
    let board = Arc::new(Board::new(remote.clone()));
    demo::start(board.clone())?;
    let metrics = MetricsPage::default();
    server.run(|shard| {
        opening.shard_started(shard);
        Site::new(remote.clone(), board.clone(), info.clone(), publish_token.clone(), metrics.clone())
    })?;
    match forced.load(Ordering::SeqCst) {
        0 => Ok(()),
        signal => std::process::exit(128 + signal),
    }
}

fn builder(options: Options) -> Result<ServerBuilder, Box<dyn Error>> {
    let limits = Limits {
        max_message_bytes: options.max_message_bytes,
        max_connections: options.max_connections,
        receive_buffers: options.receive_buffers,
        receive_buffer_bytes: options.receive_buffer_bytes,
        max_outbox_bytes: options.max_message_bytes + OUTBOX_BEYOND_MESSAGE_BYTES,
        ..Limits::default()
    };
    let deadlines = Deadlines {
        head_ms: options.head_ms,
        idle_ms: options.idle_ms,
        pong_ms: options.pong_ms,
        drain_ms: options.drain_ms,
        ..options.bounds.deadlines()
    };
    let (admission, rates) = (options.bounds.admission(), options.bounds.rates());
    let mut builder = Server::builder().limits(limits).deadlines(deadlines).driver(match options.driver {
        Driver::Auto => DriverChoice::Auto,
        Driver::Uring => DriverChoice::Uring,
        Driver::Epoll => DriverChoice::Epoll,
    });
    builder = builder.admission(admission).rates(rates).incoming_cpu(options.incoming_cpu);
    if options.compress {
        builder = builder.compression(Compression::Deflate(DeflateConfig::default()));
    }
    if options.busy_poll_us > 0 {
        builder = builder.busy_poll(BusyPoll { window_us: options.busy_poll_us, ..BusyPoll::default() });
    }
    if let Some(shards) = options.shards {
        builder = builder.shards(shards.into());
    }
    if let Some(cores) = options.cores {
        let available = available_cores();
        if available.len() < cores.into() {
            let available = available.len();
            return Err(format!("--cores {cores}: this process may use {available}; see --shards").into());
        }
        builder = builder.cores(available.into_iter().take(cores.into()));
    } else if !options.pin.is_empty() {
        builder = builder.cores(options.pin);
    }
    Ok(builder)
}

/// How long a server that was told twice may take to clean up behind itself.
const CLEAN_UP: Duration = Duration::from_millis(500);

/// The first SIGINT or SIGTERM drains the server, a second one cuts its connections: its number is in
/// `forced` then. Should even that hang, the process ends where it stands. SIGHUP reloads, where there is
/// something to.
fn obey_signals(
    handle: ServerHandle,
    forced: Arc<AtomicI32>,
    reload: Option<impl Fn() + Send + 'static>,
) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    if reload.is_some() {
        signals.add_signal(SIGHUP)?;
    }
    let wait = move || {
        let mut drains = false;
        for signal in signals.forever() {
            match (signal, &reload) {
                (SIGHUP, Some(reload)) => reload(),
                (signal, _) if drains => {
                    forced.store(signal, Ordering::SeqCst);
                    handle.stop();
                    thread::sleep(CLEAN_UP);
                    std::process::exit(128 + signal);
                }
                _ => {
                    handle.shutdown();
                    // Who read stderr may be gone, and eprintln! would end this thread.
                    let _ = writeln!(io::stderr(), "ringwire: draining; a second signal stops at once");
                    drains = true;
                }
            }
        }
    };
    thread::Builder::new().name("signals".into()).spawn(wait)?;
    Ok(())
}

/// Announces the addresses once every shard runs, with the cores they really got.
struct Opening {
    urls: Vec<String>,
    driver: String,
    cores: Mutex<Vec<Option<usize>>>,
    shards: usize,
}

impl Opening {
    fn of(server: &Server, scheme: &str) -> Self {
        let url = |addr: &ListenAddr| match addr {
            ListenAddr::Tcp(addr) => format!("{scheme}://{addr}"),
            unix @ ListenAddr::Unix(_) => unix.to_string(),
        };
        Self {
            urls: server.local_addrs().iter().map(url).collect(),
            driver: format!("driver {}: {}", server.driver(), server.driver_reason()),
            cores: Mutex::default(),
            shards: server.shards(),
        }
    }

    fn shard_started(&self, shard: &ShardInfo) {
        let Ok(mut cores) = self.cores.lock() else { return };
        cores.push(shard.core);
        if cores.len() == self.shards {
            cores.sort_unstable();
            let mut out = io::stdout().lock();
            for url in &self.urls {
                // Nobody may be reading; that is no reason not to serve.
                let _ = writeln!(
                    out,
                    "ringwire listening on {url} ({}; {}; SIMD {})",
                    self.driver,
                    placement(&cores),
                    simd::level()
                );
            }
        }
    }
}

/// `2 shards on cores 0, 1`. A shard that could not be pinned has no core.
fn placement(cores: &[Option<usize>]) -> String {
    let shards = match cores.len() {
        1 => "1 shard".to_owned(),
        n => format!("{n} shards"),
    };
    let mut pinned: Vec<usize> = cores.iter().copied().flatten().collect();
    pinned.dedup();
    let list = pinned.iter().map(usize::to_string).collect::<Vec<_>>().join(", ");
    match pinned.len() {
        0 => format!("{shards}, not pinned"),
        1 => format!("{shards} on core {list}"),
        _ => format!("{shards} on cores {list}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn placement_reads_as_a_sentence() {
        assert_eq!(placement(&[Some(0), Some(1)]), "2 shards on cores 0, 1");
        assert_eq!(placement(&[Some(3), Some(3)]), "2 shards on core 3");
        assert_eq!(placement(&[Some(7)]), "1 shard on core 7");
        assert_eq!(placement(&[None, None]), "2 shards, not pinned");
    }
}
