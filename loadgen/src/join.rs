//! Several processes under one conductor, on this host or others: each joins the one that has the
//! command line, gets its share of the plan, moves when it is told to, and says what it did.
//!
//! Lines of JSON over TCP, in clear and without a password: for loopback and networks of one's own.
//! The joined process's clock is compared with the conductor's first, so that times that begin in
//! one process and end in another mean something.

use crate::board::{Step, monotonic_ns};
use crate::crew::{Crew, Local, Snapshot, drain_ms};
use crate::plan::{Plan, Seat};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

/// What both sides must agree on.
const VERSION: &str = concat!("ringwire-loadgen ", env!("CARGO_PKG_VERSION"));
/// A line is a plan or a snapshot: some histograms at most.
const MAX_LINE_BYTES: u64 = 16 << 20;
/// How often a joined process says what it did.
const TELL: Duration = Duration::from_millis(50);
/// A joined process that is silent for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// How long the conductor waits for processes to join.
const GATHER: Duration = Duration::from_secs(120);
/// A joined process ends its workers so long after the time that these have, at most.
const FAREWELL: Duration = Duration::from_secs(60);
/// Comparisons of clocks, of which the quickest counts.
const CLOCK_LOOKS: u32 = 16;

/// From the conductor.
#[derive(Serialize, Deserialize)]
enum Order {
    /// What does your clock say?
    Clock,
    /// Start workers, and wait.
    Start { plan: Box<Plan>, first_lane: u64, lanes: u64, clock_offset_ns: i64 },
    /// Move on to a step, packed, that began at a time on the run's clock.
    Step(u64, u64),
    /// End the workers.
    Finish,
}

/// From a joined process.
#[derive(Serialize, Deserialize)]
enum Tale {
    Hello {
        version: String,
        workers: usize,
    },
    Clock {
        monotonic_ns: u64,
    },
    Started {
        driver: String,
    },
    Did(Box<Snapshot>),
    /// The workers are ending.
    Closing,
    /// The workers have ended, or could not start, or work no more.
    Ended(Result<(), String>),
}

fn write_line<T: Serialize>(stream: &mut TcpStream, line: &T) -> Result<(), String> {
    let mut text = serde_json::to_vec(line).map_err(|error| error.to_string())?;
    text.push(b'\n');
    stream.write_all(&text).map_err(|error| format!("the other process is gone: {error}"))
}

fn read_line<T: DeserializeOwned>(stream: &mut BufReader<TcpStream>) -> Result<T, String> {
    let mut text = Vec::new();
    let mut limited = stream.take(MAX_LINE_BYTES);
    let bytes = limited
        .read_until(b'\n', &mut text)
        .map_err(|error| format!("the other process is silent: {error}"))?;
    if bytes == 0 || text.last() != Some(&b'\n') {
        return Err("the other process is gone".to_owned());
    }
    serde_json::from_slice(&text).map_err(|error| format!("the other process speaks otherwise: {error}"))
}

/// A process that joined.
#[derive(Debug)]
pub struct Joined {
    name: String,
    reader: Option<BufReader<TcpStream>>,
    writer: TcpStream,
    workers: usize,
    clock_offset_ns: i64,
}

/// Waits for so many processes to join at `addr`.
///
/// # Errors
/// In words, if the address cannot be had, not all come in time, or one is of another version.
pub fn gather(addr: SocketAddr, processes: usize) -> Result<Vec<Joined>, String> {
    let listener = TcpListener::bind(addr).map_err(|error| format!("--coordinate {addr}: {error}"))?;
    let addr = listener.local_addr().map_err(|error| error.to_string())?;
    listener.set_nonblocking(true).map_err(|error| error.to_string())?;
    eprintln!("waiting for {processes} processes: ringwire-loadgen --join {addr}");
    let begin = Instant::now();
    let mut joined = Vec::new();
    while joined.len() < processes {
        match listener.accept() {
            Ok((stream, peer)) => joined.push(Joined::greet(stream, peer)?),
            Err(_) if begin.elapsed() > GATHER => {
                return Err(format!("{} of {processes} processes joined within {GATHER:?}", joined.len()));
            }
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
    Ok(joined)
}

impl Joined {
    fn greet(stream: TcpStream, peer: SocketAddr) -> Result<Self, String> {
        let failed = |error: std::io::Error| format!("{peer}: {error}");
        stream.set_nonblocking(false).map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        stream.set_read_timeout(Some(SILENCE)).map_err(failed)?;
        let mut writer = stream.try_clone().map_err(failed)?;
        let mut reader = BufReader::new(stream);
        let Tale::Hello { version, workers } = read_line(&mut reader)? else {
            return Err(format!("{peer} does not speak as a joined process does"));
        };
        if version != VERSION {
            return Err(format!("{peer} is {version}, this is {VERSION}: run the same on both"));
        }
        let mut best = (u64::MAX, 0);
        for _ in 0..CLOCK_LOOKS {
            let asked_ns = monotonic_ns();
            write_line(&mut writer, &Order::Clock)?;
            let Tale::Clock { monotonic_ns: theirs } = read_line(&mut reader)? else {
                return Err(format!("{peer} does not say what its clock says"));
            };
            let took_ns = monotonic_ns() - asked_ns;
            if took_ns < best.0 {
                best = (took_ns, (asked_ns + took_ns / 2) as i64 - theirs as i64);
            }
        }
        Ok(Self { name: peer.to_string(), reader: Some(reader), writer, workers, clock_offset_ns: best.1 })
    }

    /// Its workers.
    pub fn workers(&self) -> usize {
        self.workers
    }

    /// Starts its share of a load.
    ///
    /// # Errors
    /// In words.
    pub fn start(&mut self, plan: &Plan, first_lane: u64, lanes: u64) -> Result<Remote<'_>, String> {
        let order = Order::Start {
            plan: Box::new(plan.clone()),
            first_lane,
            lanes,
            clock_offset_ns: self.clock_offset_ns,
        };
        write_line(&mut self.writer, &order)?;
        let Some(mut reader) = self.reader.take() else { return Err("it is busy".to_owned()) };
        let driver = loop {
            match read_line(&mut reader).map_err(|why| format!("{}: {why}", self.name))? {
                Tale::Started { driver } => break driver,
                Tale::Ended(Err(why)) => return Err(format!("{}: {why}", self.name)),
                _ => {}
            }
        };
        let (sender, tales) = mpsc::channel();
        let thread = thread::spawn(move || {
            loop {
                let tale = read_line(&mut reader);
                let last = matches!(tale, Err(_) | Ok(Tale::Ended(_)));
                if sender.send(tale).is_err() || last {
                    return reader;
                }
            }
        });
        Ok(Remote {
            driver,
            tales,
            thread: Some(thread),
            latest: Snapshot::default(),
            heard: Instant::now(),
            farewell: FAREWELL + Duration::from_millis(drain_ms(plan).into()),
            joined: self,
        })
    }
}

/// The workers of a process that joined.
pub struct Remote<'a> {
    driver: String,
    tales: Receiver<Result<Tale, String>>,
    thread: Option<thread::JoinHandle<BufReader<TcpStream>>>,
    latest: Snapshot,
    heard: Instant,
    /// How long it may take to end.
    farewell: Duration,
    joined: &'a mut Joined,
}

impl Crew for Remote<'_> {
    fn driver(&self) -> &str {
        &self.driver
    }

    fn workers(&self) -> usize {
        self.joined.workers
    }

    fn set_step(&mut self, step: Step, began_ns: u64) {
        // That it is gone will be seen at the next look.
        let _ = write_line(&mut self.joined.writer, &Order::Step(step.pack(), began_ns));
    }

    fn look(&mut self) -> Result<Snapshot, String> {
        let name = &self.joined.name;
        loop {
            match self.tales.try_recv() {
                Ok(Ok(Tale::Did(snapshot))) => {
                    self.heard = Instant::now();
                    let mut times = std::mem::take(&mut self.latest.times);
                    crate::board::merge(&mut times, &snapshot.times)?;
                    self.latest = Snapshot { times, ..*snapshot };
                }
                Ok(Ok(Tale::Ended(Err(why)))) | Ok(Err(why)) => return Err(format!("{name}: {why}")),
                Ok(Ok(Tale::Ended(Ok(())))) => return Err(format!("{name} has ended")),
                Ok(Ok(_)) => {}
                Err(TryRecvError::Empty) if self.heard.elapsed() > SILENCE => {
                    return Err(format!("{name} has said nothing for {SILENCE:?}"));
                }
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Disconnected) => return Err(format!("{name} is gone")),
            }
        }
        let times = std::mem::take(&mut self.latest.times);
        Ok(Snapshot { times, ..self.latest.clone() })
    }

    fn finish(mut self: Box<Self>) -> Result<(), String> {
        write_line(&mut self.joined.writer, &Order::Finish)?;
        let begin = Instant::now();
        let end = loop {
            match self.tales.recv_timeout(self.farewell.saturating_sub(begin.elapsed())) {
                Ok(Ok(Tale::Ended(end))) => break end,
                Ok(Ok(_)) => {}
                Ok(Err(why)) => break Err(why),
                Err(_) => break Err(format!("did not end within {:?}", self.farewell)),
            }
        };
        if end.is_ok() {
            self.joined.reader = self.thread.take().and_then(|thread| thread.join().ok());
        }
        end.map_err(|why| format!("{}: {why}", self.joined.name))
    }
}

/// Joins the conductor at `addr` and does what it says until it ends.
///
/// # Errors
/// In words.
pub fn join(addr: &str, seat: &Seat) -> Result<(), String> {
    let Seat { workers, driver, .. } = *seat;
    let begin = Instant::now();
    let stream = loop {
        match TcpStream::connect(addr) {
            Ok(stream) => break stream,
            Err(error) if begin.elapsed() > GATHER => return Err(format!("--join {addr}: {error}")),
            Err(_) => thread::sleep(Duration::from_millis(100)),
        }
    };
    stream.set_nodelay(true).map_err(|error| error.to_string())?;
    let mut writer = stream.try_clone().map_err(|error| error.to_string())?;
    write_line(&mut writer, &Tale::Hello { version: VERSION.to_owned(), workers })?;
    let orders = listen(BufReader::new(stream));
    loop {
        match orders.recv() {
            Ok(Ok(Order::Clock)) => write_line(&mut writer, &Tale::Clock { monotonic_ns: monotonic_ns() })?,
            Ok(Ok(Order::Start { plan, first_lane, lanes, clock_offset_ns })) => {
                let own =
                    crate::host::reserve(plan.connections * workers as u64 / lanes, driver, Some(workers));
                let local = own.and_then(|_| Local::start(&plan, seat, first_lane, lanes, clock_offset_ns));
                let end = local.and_then(|local| work(Box::new(local), &orders, &mut writer));
                write_line(&mut writer, &Tale::Ended(end))?;
            }
            Ok(Ok(Order::Step(..) | Order::Finish)) => {}
            // The conductor is done.
            Ok(Err(_)) | Err(_) => return Ok(()),
        }
    }
}

fn listen(mut reader: BufReader<TcpStream>) -> Receiver<Result<Order, String>> {
    let (sender, orders) = mpsc::channel();
    thread::spawn(move || {
        loop {
            let order = read_line(&mut reader);
            let last = order.is_err();
            if sender.send(order).is_err() || last {
                return;
            }
        }
    });
    orders
}

fn work(
    mut local: Box<Local>,
    orders: &Receiver<Result<Order, String>>,
    writer: &mut TcpStream,
) -> Result<(), String> {
    write_line(writer, &Tale::Started { driver: local.driver().to_owned() })?;
    loop {
        match orders.recv_timeout(TELL) {
            Ok(Ok(Order::Step(bits, began_ns))) => local.set_step(Step::unpack(bits), began_ns),
            Ok(Ok(Order::Finish)) => return close(local, writer),
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(mpsc::RecvTimeoutError::Disconnected) => {
                // Nobody is there to tell any more.
                return local.finish();
            }
            Err(mpsc::RecvTimeoutError::Timeout) => {}
        }
        match local.look() {
            Ok(snapshot) => write_line(writer, &Tale::Did(Box::new(snapshot)))?,
            Err(why) => {
                let _ = local.finish();
                return Err(why);
            }
        }
    }
}

/// Ends the workers, and is heard of meanwhile.
fn close(local: Box<Local>, writer: &mut TcpStream) -> Result<(), String> {
    let (sender, ends) = mpsc::channel();
    thread::spawn(move || sender.send(local.finish()));
    loop {
        match ends.recv_timeout(TELL) {
            Ok(end) => return end,
            // If the conductor is gone, they close in good order all the same.
            Err(mpsc::RecvTimeoutError::Timeout) => drop(write_line(writer, &Tale::Closing)),
            Err(mpsc::RecvTimeoutError::Disconnected) => return Err("its end panicked".to_owned()),
        }
    }
}
