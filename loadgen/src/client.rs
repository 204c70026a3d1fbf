//! A worker over WebSocket: the engine's client role, driven by its handler.

use crate::plan::Plan;
use crate::worker::{Flow, Piece, Worker};
use ringwire::ws::Kind;
use ringwire::{
    ClientRequest, CloseCode, CloseReason, Conn, ConnId, ConnectError, Handler, Message, Request, SendResult,
    Shard, TlsClient, Upgrade,
};
use std::time::Duration;

/// Messages sent in a turn of an open loop: one that is far behind must still receive, and end.
const MAX_DUE_PER_TURN: u32 = 4_096;

/// The handler of one shard.
#[derive(Debug)]
pub struct Client {
    worker: Worker,
    /// By the connection's place; `None` if it is not open.
    ids: Vec<Option<ConnId>>,
    tls: Option<TlsClient>,
}

/// What a connection keeps; taken out while it is worked on. A box, since most are idle.
type State = Option<Box<Flow>>;

impl Client {
    /// A worker's handler.
    pub fn new(worker: Worker) -> Self {
        let tls = worker.plan.trust.client();
        Self { worker, ids: Vec::new(), tls }
    }

    fn on_each(
        &mut self,
        shard: &mut Shard<'_, State>,
        mut act: impl FnMut(&mut Worker, &mut Conn<'_, State>),
    ) {
        for id in self.ids.iter().flatten() {
            if let Some(mut conn) = shard.conn(*id) {
                act(&mut self.worker, &mut conn);
            }
        }
    }

    fn open_due(&mut self, shard: &mut Shard<'_, State>) {
        while let Some(flow) = self.worker.next_connect() {
            let plan: &Plan = &self.worker.plan;
            let target = plan.target(flow.index);
            let request = ClientRequest {
                host: target.host.clone(),
                path: target.path.clone(),
                source: plan.source(flow.index),
                tls: self.tls.clone().filter(|_| target.tls),
                ..ClientRequest::default()
            };
            let to = target.addr;
            shard.connect(to, request, Some(Box::new(flow)));
        }
    }

    fn send_due(&mut self, shard: &mut Shard<'_, State>) {
        for _ in 0..MAX_DUE_PER_TURN {
            let Some((place, due_ns)) = self.worker.take_due() else { return };
            // On a connection that has ended nothing is due any more; its end has been counted.
            let Some(id) = self.ids.get(place).copied().flatten() else { continue };
            let Some(mut conn) = shard.conn(id) else { continue };
            with_flow(&mut conn, |conn, flow| {
                let worker = &mut self.worker;
                let sender = Sender::of(&worker.plan);
                worker.send_due(flow, due_ns, |bytes| sender.send(conn, bytes));
            });
        }
    }
}

/// Lends the connection's state and the connection to `act` at once.
#[inline]
fn with_flow<R>(
    conn: &mut Conn<'_, State>,
    act: impl FnOnce(&mut Conn<'_, State>, &mut Flow) -> R,
) -> Option<R> {
    let mut flow = conn.state_mut().take()?;
    let result = act(conn, &mut flow);
    *conn.state_mut() = Some(flow);
    Some(result)
}

/// How messages leave.
#[derive(Clone, Copy)]
struct Sender {
    kind: Kind,
    fragments: u32,
}

impl Sender {
    fn of(plan: &Plan) -> Self {
        Self { kind: plan.shape.kind(), fragments: plan.shape.fragments }
    }

    /// False if there was no room.
    #[inline]
    fn send(self, conn: &mut Conn<'_, State>, bytes: &[u8]) -> bool {
        let message = match self.kind {
            Kind::Binary => Message::Binary(bytes),
            // What is sent is printable (see `payload`).
            Kind::Text => Message::Text(std::str::from_utf8(bytes).unwrap_or_default()),
        };
        let result = match self.fragments {
            1 => conn.send(message),
            // Rounded up, so that there are not more frames than asked for.
            frames => conn.send_in_frames(message, bytes.len().div_ceil(frames as usize).max(1)),
        };
        matches!(result, SendResult::Sent | SendResult::Queued)
    }
}

/// Queues a burst; it leaves as one send at the end of the turn.
#[inline]
fn send_burst(worker: &mut Worker, conn: &mut Conn<'_, State>, flow: &mut Flow, first: bool) {
    let sender = Sender::of(&worker.plan);
    // The outbox holds a whole burst (see `crew`), and without randomness the host is unusable.
    let send = |piece: Piece<'_>| match piece {
        Piece::Whole(bytes) => _ = sender.send(conn, bytes),
        Piece::Joined(stamp, body) => _ = conn.send_binary_joined(stamp, body),
    };
    match first {
        true => worker.first_burst(flow, send),
        false => worker.burst(flow, send),
    }
}

impl Handler for Client {
    type State = State;

    fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<State> {
        // Never asked: a load generator has no address of its own.
        Upgrade::accept(None)
    }

    fn open(&mut self, conn: &mut Conn<'_, State>) {
        let worker = &mut self.worker;
        let id = conn.id();
        let place = with_flow(conn, |conn, flow| {
            let sends = worker.opened(flow);
            if worker.plan.shape.deflate && !conn.compresses() {
                worker.declined(flow);
            }
            if let Some(text) = worker.greeting() {
                conn.send_text(text);
            }
            if worker.is_churning() {
                conn.close(CloseCode::NORMAL, "");
                return None;
            }
            if sends {
                send_burst(worker, conn, flow, true);
            }
            Some(worker.place_of(flow))
        });
        if let Some(place) = place.flatten() {
            self.ids.resize(self.ids.len().max(place + 1), None);
            self.ids[place] = Some(id);
        }
    }

    #[inline]
    fn message(&mut self, conn: &mut Conn<'_, State>, message: Message<'_>) {
        let (kind, bytes) = match message {
            Message::Text(text) => (Kind::Text, text.as_bytes()),
            Message::Binary(bytes) => (Kind::Binary, bytes),
        };
        let worker = &mut self.worker;
        with_flow(conn, |conn, flow| {
            if worker.message(flow, kind, bytes) {
                send_burst(worker, conn, flow, false);
            }
        });
    }

    fn drain(&mut self, conn: &mut Conn<'_, State>) {
        let worker = &mut self.worker;
        with_flow(conn, |conn, flow| {
            let sender = Sender::of(&worker.plan);
            worker.send_kept(flow, |bytes| sender.send(conn, bytes));
        });
    }

    fn close(&mut self, _id: ConnId, state: State, reason: CloseReason<'_>) {
        let Some(flow) = state else { return };
        if !self.worker.is_churning()
            && let Some(id) = self.ids.get_mut(self.worker.place_of(&flow))
        {
            *id = None;
        }
        let asked = matches!(reason, CloseReason::Local | CloseReason::Shutdown);
        self.worker.closed(&flow, asked, || describe(reason));
    }

    fn connect_failed(&mut self, state: State, error: ConnectError) {
        let Some(flow) = state else { return };
        let advice = match &error {
            ConnectError::Io(error) => crate::target::advice(error),
            _ => "",
        };
        let target = self.worker.plan.target(flow.index).clone();
        self.worker.connect_failed(&flow, || format!("{target}: {error}{advice}"));
    }

    fn turn(&mut self, shard: &mut Shard<'_, State>) -> Option<Duration> {
        let turn = self.worker.turn();
        self.open_due(shard);
        if turn.begins {
            self.on_each(shard, |worker, conn| {
                with_flow(conn, |conn, flow| send_burst(worker, conn, flow, true));
            });
        }
        if turn.leaves {
            self.on_each(shard, |_, conn| conn.close(CloseCode::GOING_AWAY, ""));
        }
        self.send_due(shard);
        self.worker.wait()
    }
}

fn describe(reason: CloseReason<'_>) -> String {
    match reason {
        CloseReason::Peer { code: Some(code), reason } => format!("the server closed it: {code} {reason}"),
        CloseReason::Peer { code: None, .. } => "the server closed it without a code".to_owned(),
        CloseReason::Violation(violation) => format!("the server broke the protocol: {violation}"),
        CloseReason::Timeout(deadline) => format!("the server is too slow: {deadline:?} deadline"),
        CloseReason::Disconnected => "the server dropped it without a Close frame".to_owned(),
        CloseReason::Local | CloseReason::Shutdown | CloseReason::RateLimit | CloseReason::Memory => {
            "closed here".to_owned()
        }
    }
}
