//! One message to many sockets: processor time of the server per delivered message.
//!
//! `cargo bench --bench broadcast` compares a message to all that is shared with one that is copied for
//! each connection, with one published to a topic, and with a plain loop of `send_prepared`, on both
//! drivers. With `BASELINE_RAW=…/baseline-raw` (see `perf/baselines/raw`) the ceiling stands beside them: a
//! loop that sends the same bytes to the same number of sockets. Closed loop: the next message goes
//! out when every socket has been read, and every byte is compared.
//! `SUBSCRIBERS`, `ROUNDS` and `SENDS_PER_TURN` change what they say; with `DEAF=100` so many more connections
//! are sent everything and read nothing.

use ringwire::ws::{Kind, encode_message};
use ringwire::{
    Conn, DriverChoice, Handler, Limits, ListenAddr, Message, Prepared, Remote, Request, Server,
    ServerHandle, Shard, ShardInfo, Upgrade,
};
use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

const SIZES: [usize; 4] = [20, 100, 4 << 10, 16 << 10];
/// Times that every contestant is measured, in turn.
const PASSES: usize = 5;

/// How a message gets to the subscribers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Shared,
    Copied,
    Published,
    Looped,
}

/// Hears what is sent to all.
struct Subscriber {
    how: How,
    /// What the next turn is to send in a loop.
    to_loop: Arc<Mutex<Option<Prepared>>>,
}

impl Handler for Subscriber {
    type State = ();

    fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<()> {
        Upgrade::accept(())
    }

    fn open(&mut self, conn: &mut Conn<'_, ()>) {
        if self.how == How::Published {
            conn.subscribe("feed/1").expect("room");
        }
    }

    fn message(&mut self, _conn: &mut Conn<'_, ()>, _message: Message<'_>) {}

    fn broadcast(&mut self, conn: &mut Conn<'_, ()>, message: &Prepared, _tag: u64) {
        if self.how == How::Copied {
            conn.send(message.message());
        } else {
            conn.send_prepared(message);
        }
    }

    fn turn(&mut self, shard: &mut Shard<'_, ()>) -> Option<Duration> {
        if self.how == How::Looped
            && let Some(message) = self.to_loop.lock().expect("no panic").take()
        {
            shard.each_conn(|conn| {
                conn.send_prepared(&message);
            });
        }
        None
    }
}

enum Contestant {
    Ringwire {
        how: How,
        to_loop: Arc<Mutex<Option<Prepared>>>,
        remote: Remote,
        handle: ServerHandle,
        thread: JoinHandle<()>,
    },
    Raw {
        child: Child,
        publisher: TcpStream,
    },
}

struct Running {
    name: String,
    contestant: Contestant,
    /// Where the kernel counts the server's time.
    schedstat: String,
    sockets: Vec<TcpStream>,
    /// They are sent everything and read nothing.
    deaf: Vec<TcpStream>,
}

fn number(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

fn connect(addr: SocketAddr, count: usize) -> Vec<TcpStream> {
    let open = |_| {
        let stream = TcpStream::connect(addr).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
        stream
    };
    (0..count).map(open).collect()
}

fn ringwire(driver: DriverChoice, how: How, count: usize) -> Running {
    let listen: ListenAddr = "127.0.0.1:0".parse().expect("an address");
    let limits =
        Limits { max_broadcast_sends_per_turn: number("SENDS_PER_TURN", 256) as u32, ..Limits::default() };
    let server = Server::builder().listen(listen).driver(driver).shards(1).cores([0]).limits(limits);
    let server = server.bind().expect("a server");
    let ListenAddr::Tcp(addr) = server.local_addrs()[0] else { unreachable!() };
    let name = format!("ringwire {} {}", server.driver(), format!("{how:?}").to_lowercase());
    let (remote, handle) = (server.remote(), server.handle());
    let before = shards();
    let to_loop = Arc::<Mutex<Option<Prepared>>>::default();
    let for_handler = to_loop.clone();
    let subscriber = move |_: &ShardInfo| Subscriber { how, to_loop: for_handler.clone() };
    let thread = thread::spawn(move || server.run(subscriber).expect("a run"));
    let mut sockets = connect(addr, count + number("DEAF", 0));
    for stream in &mut sockets {
        stream
            .write_all(
                b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                  Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
            )
            .expect("a request");
    }
    for stream in &mut sockets {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("an answer");
            head.push(byte[0]);
        }
    }
    // They came first, and so each message goes to them before it goes to the others.
    let deaf = sockets.drain(..number("DEAF", 0)).collect();
    let started: Vec<String> = shards().into_iter().filter(|task| !before.contains(task)).collect();
    let schedstat = format!("/proc/self/task/{}/schedstat", started[0]);
    Running {
        name,
        contestant: Contestant::Ringwire { how, to_loop, remote, handle, thread },
        schedstat,
        sockets,
        deaf,
    }
}

/// The threads of this process that are shards.
fn shards() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").expect("procfs").flatten();
    let name = |task: &String| fs::read_to_string(format!("/proc/self/task/{task}/comm")).unwrap_or_default();
    let tasks = tasks.map(|entry| entry.file_name().to_string_lossy().into_owned());
    tasks.filter(|task| name(task).starts_with("ringwire-0")).collect()
}

fn raw(binary: &str, how: &str, count: usize) -> Running {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr()).expect("a port").port();
    let mut command = Command::new("taskset");
    let child = command.args(["-c", "0", binary, how, &port.to_string()]).spawn().expect("baseline-raw");
    thread::sleep(Duration::from_millis(300));
    let mut sockets = connect(SocketAddr::from(([127, 0, 0, 1], port)), count + 1);
    let publisher = sockets.remove(0);
    // Whoever is not accepted yet would miss the first message.
    thread::sleep(Duration::from_millis(500));
    let schedstat = format!("/proc/{}/schedstat", child.id());
    Running {
        name: format!("raw {how}"),
        contestant: Contestant::Raw { child, publisher },
        schedstat,
        sockets,
        deaf: Vec::new(),
    }
}

impl Running {
    fn cpu_ns(&self) -> u64 {
        // The time of a thread that runs is brought up to date when it is put to sleep.
        thread::sleep(Duration::from_millis(3));
        let text = fs::read_to_string(&self.schedstat).expect("schedstat");
        text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("nanoseconds")
    }

    fn publish(&mut self, payload: &[u8], frame: &[u8]) {
        match &mut self.contestant {
            Contestant::Ringwire { how, to_loop, remote, .. } => {
                let message = Prepared::binary(payload.to_vec());
                match how {
                    How::Shared | How::Copied => remote.broadcast(&message, 0).expect("room"),
                    How::Published => remote.publish("feed/1", &message).expect("room"),
                    How::Looped => {
                        *to_loop.lock().expect("no panic") = Some(message);
                        remote.wake();
                    }
                }
            }
            Contestant::Raw { publisher, .. } => publisher.write_all(frame).expect("taken"),
        }
    }

    /// CPU nanoseconds per delivered message, and microseconds to the last one.
    fn measure(&mut self, size: usize, rounds: usize) -> (f64, f64) {
        let payload: Vec<u8> = (0..size).map(|at| at as u8).collect();
        let (mut frame, mut answer) = (Vec::new(), vec![0; size + 10]);
        encode_message(&mut frame, Kind::Binary, &payload, None);
        answer.truncate(frame.len());
        let mut before = 0;
        let mut to_last = Duration::ZERO;
        for round in 0..rounds + 2 {
            if round == 2 {
                before = self.cpu_ns();
                to_last = Duration::ZERO;
            }
            let begin = Instant::now();
            self.publish(&payload, &frame);
            // The last one first: meanwhile the server is alone, and nobody wakes it or is woken.
            for (read, socket) in self.sockets.iter_mut().rev().enumerate() {
                socket.read_exact(&mut answer).expect("the message");
                assert!(answer == frame, "something else was sent");
                if read == 0 {
                    to_last += begin.elapsed();
                }
            }
        }
        if let Contestant::Raw { publisher, .. } = &mut self.contestant {
            // It is a socket as the others, and hears itself.
            let mut echo = vec![0; frame.len()];
            (0..rounds + 2).for_each(|_| publisher.read_exact(&mut echo).expect("the message"));
        }
        let cpu_ns = self.cpu_ns() - before;
        let delivered = (rounds * self.sockets.len()) as f64;
        (cpu_ns as f64 / delivered, to_last.as_micros() as f64 / rounds as f64)
    }

    fn stop(self) {
        drop((self.sockets, self.deaf));
        match self.contestant {
            Contestant::Ringwire { handle, thread, .. } => {
                handle.stop();
                thread.join().expect("the server's thread");
            }
            Contestant::Raw { mut child, .. } => {
                child.kill().expect("it runs");
                child.wait().expect("its end");
            }
        }
    }
}

/// The servers run on core 0.
fn on_core_1<T: Send>(act: impl FnOnce() -> T + Send) -> T {
    let pinned = || {
        core_affinity::set_for_current(core_affinity::CoreId { id: 1 });
        act()
    };
    thread::scope(|scope| scope.spawn(pinned).join().expect("a measurement"))
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn main() {
    let (count, rounds) = (number("SUBSCRIBERS", 2_000), number("ROUNDS", 10));
    let baseline = std::env::var("BASELINE_RAW").ok();
    let start: Vec<Box<dyn Fn() -> Running>> = [DriverChoice::Uring, DriverChoice::Epoll]
        .into_iter()
        .flat_map(|driver| {
            let raw = baseline.clone().map(|binary| {
                let how = if driver == DriverChoice::Uring { "broadcast-uring" } else { "broadcast-epoll" };
                Box::new(move || raw(&binary, how, count)) as Box<dyn Fn() -> Running>
            });
            let ours = [How::Shared, How::Copied, How::Published, How::Looped]
                .map(|how| Box::new(move || ringwire(driver, how, count)) as Box<dyn Fn() -> Running>);
            raw.into_iter().chain(ours)
        })
        .collect();
    let mut names = vec![String::new(); start.len()];
    let mut figures = vec![[const { (Vec::new(), Vec::new()) }; SIZES.len()]; start.len()];
    for _ in 0..PASSES {
        for (which, start) in start.iter().enumerate() {
            let mut running = start();
            names[which].clone_from(&running.name);
            for (size, (cpu, last)) in SIZES.iter().zip(&mut figures[which]) {
                let (cpu_ns, to_last_us) = on_core_1(|| running.measure(*size, rounds));
                cpu.push(cpu_ns);
                last.push(to_last_us);
            }
            running.stop();
        }
    }
    println!(
        "{count} subscribers; CPU ns of the server per delivered message (least; ms to the last one), median of {PASSES}"
    );
    for (name, figures) in names.iter().zip(&mut figures) {
        print!("{name:24}");
        for (size, (cpu, last)) in SIZES.iter().zip(figures) {
            let (cpu_ns, last_us) = (median(cpu), median(last));
            print!("  {size} B: {cpu_ns:5.0} ({:5.0}; {:5.1})", cpu[0], last_us / 1_000.0);
        }
        println!();
    }
}
