//! Requests and answers over a WebSocket: ids, slow work on other threads, timeouts.
//! `cargo run --release --example rpc`, then send `{"id":1,"method":"add","params":[1,2]}`.
//!
//! Fast methods are answered at once; slow ones go to workers, and the handler answers when they are
//! done or their time is over, whichever comes first. So each request has exactly one answer, in any
//! order. What limits a client: [`MAX_PENDING`] of its requests may be out.

use ringwire::{
    CloseReason, Conn, ConnId, Handler, ListenAddr, Message, Remote, Request, Server, Shard, Upgrade,
};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

const TIMEOUT: Duration = Duration::from_secs(2);
/// Requests of one connection that are not answered yet.
const MAX_PENDING: usize = 16;
const WORKERS: usize = 4;
/// Jobs that wait for a worker.
const MAX_WAITING: usize = 1_000;

/// One request, on any connection. Ids are the client's: two connections may use the same.
type Call = (ConnId, u64);

struct Job {
    call: Call,
    milliseconds: u64,
    done: Sender<(Call, Value)>,
}

struct Rpc {
    jobs: SyncSender<Job>,
    done: Sender<(Call, Value)>,
    finished: Receiver<(Call, Value)>,
    /// When the time of each is over, on the shard's clock.
    pending: HashMap<Call, Duration>,
    now: Duration,
}

impl Handler for Rpc {
    /// How many requests are out.
    type State = usize;

    fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<usize> {
        Upgrade::accept(0)
    }

    fn message(&mut self, conn: &mut Conn<'_, usize>, message: Message<'_>) {
        let Message::Text(text) = message else { return };
        let request: Value = serde_json::from_str(text).unwrap_or_default();
        let Some(id) = request["id"].as_u64() else {
            conn.send_text(&json!({ "error": "send {\"id\":1,\"method\":…,\"params\":[…]}" }).to_string());
            return;
        };
        if let Some(outcome) = self.call(conn, id, &request) {
            conn.send_text(&answer(id, outcome));
        }
    }

    fn close(&mut self, id: ConnId, _pending: usize, _reason: CloseReason<'_>) {
        self.pending.retain(|(conn, _), _| *conn != id);
    }

    /// Answers what workers have finished, and what has taken too long. Runs when a worker wakes the
    /// shard, and in time for the next timeout.
    fn turn(&mut self, shard: &mut Shard<'_, usize>) -> Option<Duration> {
        self.now = shard.now();
        while let Ok((call, result)) = self.finished.try_recv() {
            // One that has timed out was answered then.
            if self.pending.remove(&call).is_some() {
                reply(shard, call, Ok(result));
            }
        }
        let now = self.now;
        for (call, _) in self.pending.extract_if(|_, until| *until <= now) {
            reply(shard, call, Err("timed out"));
        }
        self.pending.values().min().map(|until| *until - now)
    }
}

impl Rpc {
    /// The outcome, unless it comes later.
    fn call(
        &mut self,
        conn: &mut Conn<'_, usize>,
        id: u64,
        request: &Value,
    ) -> Option<Result<Value, &'static str>> {
        let params = &request["params"];
        match request["method"].as_str() {
            Some("add") => {
                let numbers = params.as_array().into_iter().flatten();
                Some(Ok(json!(numbers.filter_map(Value::as_f64).sum::<f64>())))
            }
            Some("sleep") => {
                let call = (conn.id(), id);
                let Some(milliseconds) = params[0].as_u64() else {
                    return Some(Err("sleep takes [milliseconds]"));
                };
                if *conn.state() >= MAX_PENDING {
                    return Some(Err("too many requests are out: wait for an answer"));
                }
                if self.pending.contains_key(&call) {
                    return Some(Err("this id is out already"));
                }
                if self.jobs.try_send(Job { call, milliseconds, done: self.done.clone() }).is_err() {
                    return Some(Err("the server is busy: try again"));
                }
                self.pending.insert(call, self.now + TIMEOUT);
                *conn.state_mut() += 1;
                None
            }
            _ => Some(Err("the methods are add and sleep")),
        }
    }
}

fn reply(shard: &mut Shard<'_, usize>, (conn, id): Call, outcome: Result<Value, &'static str>) {
    let Some(mut conn) = shard.conn(conn) else { return };
    *conn.state_mut() -= 1;
    conn.send_text(&answer(id, outcome));
}

fn answer(id: u64, outcome: Result<Value, &'static str>) -> String {
    match outcome {
        Ok(result) => json!({ "id": id, "result": result }),
        Err(error) => json!({ "id": id, "error": error }),
    }
    .to_string()
}

/// Does slow work; a database would be asked here.
fn work(jobs: &Mutex<Receiver<Job>>, remote: &Remote) {
    loop {
        let job = jobs.lock().ok().and_then(|jobs| jobs.recv().ok());
        let Some(Job { call, milliseconds, done }) = job else { return };
        std::thread::sleep(Duration::from_millis(milliseconds.min(10_000)));
        if done.send((call, json!(milliseconds))).is_ok() {
            remote.wake();
        }
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addr: ListenAddr = std::env::args().nth(1).as_deref().unwrap_or("127.0.0.1:9001").parse()?;
    let server = Server::builder().listen(addr).bind()?;
    println!("ws://{}: send {{\"id\":1,\"method\":\"add\",\"params\":[1,2]}}", server.local_addrs()[0]);
    println!("or {{\"id\":2,\"method\":\"sleep\",\"params\":[500]}}; from 2000 on it times out");

    let (jobs, queue) = sync_channel(MAX_WAITING);
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..WORKERS {
        let (queue, remote) = (queue.clone(), server.remote());
        std::thread::spawn(move || work(&queue, &remote));
    }
    server.run(|_shard| {
        let (done, finished) = channel();
        Rpc { jobs: jobs.clone(), done, finished, pending: HashMap::new(), now: Duration::ZERO }
    })?;
    Ok(())
}
