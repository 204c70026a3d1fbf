//! A worker over WebSocket: the engine's client role, driven by its handler.

use crate::flow::{Flow, Worker};
use crate::target::Target;
use ringwire::ws::Kind;
use ringwire::{
    ClientRequest, CloseReason, Conn, ConnId, ConnectError, Handler, Message, Request, Shard, Upgrade,
};
use std::net::IpAddr;
use std::time::Duration;

/// The longest a worker waits before it looks at the phase again.
const MAX_WAIT: Duration = Duration::from_millis(5);

/// The handler of one shard.
#[derive(Debug)]
pub struct Client {
    worker: Worker,
    target: Target,
    sources: Vec<IpAddr>,
    ids: Vec<ConnId>,
}

impl Client {
    /// A worker that connects to `target`.
    pub fn new(worker: Worker, target: Target, sources: Vec<IpAddr>) -> Self {
        Self { worker, target, sources, ids: Vec::new() }
    }

    fn begin(&mut self, shard: &mut Shard<'_, Flow>) {
        for id in &self.ids {
            if let Some(mut conn) = shard.conn(*id) {
                send_burst(&mut self.worker, &mut conn, true);
            }
        }
    }
}

/// Queues a burst; it leaves as one send at the end of the turn.
#[inline]
fn send_burst(worker: &mut Worker, conn: &mut Conn<'_, Flow>, first: bool) {
    let mut flow = std::mem::replace(conn.state_mut(), Flow::new(0));
    let kind = worker.plan.kind;
    // The outbox holds a whole burst (see `run`), and without randomness the host is unusable.
    let send = |bytes: &[u8]| match kind {
        Kind::Binary => drop(conn.send_binary(bytes)),
        Kind::Text => drop(conn.send_text(std::str::from_utf8(bytes).unwrap_or_default())),
    };
    if first {
        worker.burst(&mut flow, send)
    } else {
        worker.next_burst(&mut flow, send)
    }
    *conn.state_mut() = flow;
}

impl Handler for Client {
    type State = Flow;

    fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<Flow> {
        // Never asked: a load generator has no address of its own.
        Upgrade::accept(Flow::new(0))
    }

    fn open(&mut self, conn: &mut Conn<'_, Flow>) {
        if self.worker.plan.deflate && !conn.compresses() {
            self.worker.connect_failed(format!("{}: the server declines permessage-deflate", self.target));
            return;
        }
        self.ids.push(conn.id());
        if self.worker.opened() {
            send_burst(&mut self.worker, conn, true);
        }
    }

    #[inline]
    fn message(&mut self, conn: &mut Conn<'_, Flow>, message: Message<'_>) {
        let (kind, bytes) = match message {
            Message::Text(text) => (Kind::Text, text.as_bytes()),
            Message::Binary(bytes) => (Kind::Binary, bytes),
        };
        if self.worker.answer(conn.state_mut(), kind, bytes) {
            send_burst(&mut self.worker, conn, false);
        }
    }

    fn close(&mut self, _id: ConnId, flow: Flow, reason: CloseReason<'_>) {
        self.worker.closed(&flow, &describe(reason));
    }

    fn connect_failed(&mut self, _flow: Flow, error: ConnectError) {
        let advice = match &error {
            ConnectError::Io(error) => crate::target::advice(error),
            _ => "",
        };
        let text = format!("{}: {error}{advice}", self.target);
        self.worker.connect_failed(text);
    }

    fn turn(&mut self, shard: &mut Shard<'_, Flow>) -> Option<Duration> {
        let turn = self.worker.turn(shard.now());
        for _ in 0..turn.open {
            let index = self.worker.next_index();
            let request = ClientRequest {
                host: self.target.host.clone(),
                path: self.target.path.clone(),
                source: self.sources.get(index as usize % self.sources.len().max(1)).copied(),
                ..ClientRequest::default()
            };
            shard.connect(self.target.addr, request, Flow::new(index));
        }
        if turn.begins {
            self.begin(shard);
        }
        Some(MAX_WAIT)
    }
}

fn describe(reason: CloseReason<'_>) -> String {
    match reason {
        CloseReason::Peer { code: Some(code), reason } => format!("the server closed it: {code} {reason}"),
        CloseReason::Peer { code: None, .. } => "the server closed it without a code".to_owned(),
        CloseReason::Violation(violation) => format!("the server broke the protocol: {violation}"),
        CloseReason::Timeout(deadline) => format!("the server is too slow: {deadline:?} deadline"),
        CloseReason::Disconnected => "the server dropped it without a Close frame".to_owned(),
        CloseReason::Local | CloseReason::Shutdown => "closed here".to_owned(),
    }
}
