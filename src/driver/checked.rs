//! A driver that watches a driver: asserts the laws on every event that passes.
//!
//! [`Checked`] forwards each call and keeps a few words per slot. It touches nothing else. It asserts
//! laws 1 to 4 and 7 as far as the stream of events shows them (not the bytes themselves), and what
//! callers owe. For tests and for simulation; too dear for production.

use super::{Driver, DriverConfig, DriverStats, Event, Half, Lease, RecordKeys, SendBuf, Token, Waker};
use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Free,
    Open,
    Closing,
}

/// What is being sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InFlight {
    /// Its address and length.
    Buffer(usize, usize),
    /// Comes back as any buffer.
    Lease,
}

/// What the laws need to know of a slot.
#[derive(Debug, Default)]
struct Slot {
    state: State,
    generation: Option<u32>,
    sending: Option<InFlight>,
    eof: bool,
    failed: bool,
    /// Received in the turn with the number `turn`.
    bytes_in_turn: u64,
    turn: u64,
}

/// Wraps a driver and panics, with the token and the law, where a law is broken.
///
/// ```
/// use ringwire::driver::checked::Checked;
/// use ringwire::driver::sim::{Faults, Sim, SimNet};
/// use ringwire::driver::{Driver, DriverConfig};
/// let config = DriverConfig {
///     max_connections: 16,
///     receive_buffers: 8,
///     receive_buffer_bytes: 4096,
///     max_receive_bytes_per_turn: 65_536,
///     shards_per_core: 1,
///     busy_poll: false,
/// };
/// let net = SimNet::new(1, Faults::calm());
/// let mut driver = Checked::new(Sim::new(&net, &config), &config);
/// driver.turn(None).unwrap();
/// assert!(driver.next_event().is_none());
/// driver.assert_settled();
/// ```
#[derive(Debug)]
pub struct Checked<D> {
    inner: D,
    slots: Vec<Slot>,
    /// Sends on stale or closed tokens, each owed one `Sent` with `NotConnected`.
    stale_sends: BTreeMap<(u32, u32), u32>,
    /// Connects under way, by tag.
    connects: BTreeMap<u64, u32>,
    leases_out: u64,
    turn: u64,
    accept_failed: bool,
    max_connections: u32,
    max_bytes_per_turn: u64,
}

impl<D: Driver> Checked<D> {
    /// Watches `inner`, which was built with `config` and has not been used yet.
    pub fn new(inner: D, config: &DriverConfig) -> Self {
        Self {
            inner,
            slots: Vec::new(),
            stale_sends: BTreeMap::new(),
            connects: BTreeMap::new(),
            leases_out: 0,
            turn: 0,
            accept_failed: false,
            max_connections: config.max_connections,
            // A driver may notice the bound only after the buffer that crosses it.
            max_bytes_per_turn: u64::from(config.max_receive_bytes_per_turn)
                + u64::from(config.receive_buffer_bytes),
        }
    }

    /// The driver inside.
    pub fn inner(&self) -> &D {
        &self.inner
    }

    /// Leases handed out and not released.
    pub fn leases_out(&self) -> u64 {
        self.leases_out
    }

    /// Asserts that nothing is owed either way: every send has its `Sent`, every close its
    /// `Closed`, every connect its `Connected`, every lease came back, every slot is free.
    ///
    /// # Panics
    /// If anything is.
    pub fn assert_settled(&self) {
        assert_eq!(self.leases_out, 0, "leases were not released");
        assert!(self.connects.is_empty(), "connects without Connected: {:?}", self.connects);
        assert!(self.stale_sends.is_empty(), "stale sends without Sent: {:?}", self.stale_sends);
        for (index, slot) in self.slots.iter().enumerate() {
            assert!(slot.sending.is_none(), "slot {index}: a send without Sent (law 2)");
            assert_eq!(slot.state, State::Free, "slot {index} is not free");
        }
    }

    /// The slot of a token that is open or closing.
    fn tenant(&mut self, token: Token) -> Option<&mut Slot> {
        let slot = self.slots.get_mut(token.slot as usize)?;
        (slot.state != State::Free && slot.generation == Some(token.generation)).then_some(slot)
    }

    /// The slot of an event that only an open connection may have.
    fn open(&mut self, token: Token, event: &str) -> &mut Slot {
        let slot = match self.tenant(token) {
            Some(slot) => slot,
            None => panic!("{event} on {token:?}, which is not attached (laws 3, 4)"),
        };
        assert!(slot.state == State::Open, "{event} on {token:?} after close");
        assert!(!slot.failed, "{event} on {token:?} after Failed");
        slot
    }

    fn check(&mut self, event: &Event<D::Socket>) {
        match event {
            Event::Received { token, lease } => {
                let (turn, most) = (self.turn, self.max_bytes_per_turn);
                self.leases_out += 1;
                assert!(lease.len > 0, "an empty lease on {token:?}");
                let slot = self.open(*token, "Received");
                assert!(!slot.eof, "Received on {token:?} after Eof (law 1)");
                if slot.turn != turn {
                    (slot.turn, slot.bytes_in_turn) = (turn, 0);
                }
                slot.bytes_in_turn += u64::from(lease.len);
                assert!(slot.bytes_in_turn <= most, "more than {most} bytes in a turn on {token:?} (law 7)");
            }
            Event::Eof(token) => {
                let slot = self.open(*token, "Eof");
                assert!(!slot.eof, "a second Eof on {token:?}");
                slot.eof = true;
            }
            Event::Record { token, .. } => {
                assert!(!self.open(*token, "Record").eof, "Record on {token:?} after Eof (law 1)");
            }
            Event::Failed { token, .. } => self.open(*token, "Failed").failed = true,
            Event::Sent { token, buf, result } => self.check_sent(*token, buf, result),
            Event::Closed(token) => {
                let slot = match self.tenant(*token) {
                    Some(slot) => slot,
                    None => panic!("Closed on {token:?}, which is not attached (laws 3, 4)"),
                };
                assert!(slot.state == State::Closing, "Closed on {token:?} unasked");
                assert!(slot.sending.is_none(), "Closed on {token:?} before its Sent (laws 2, 3)");
                slot.state = State::Free;
            }
            Event::Connected { tag, .. } => match self.connects.get_mut(tag) {
                Some(1) => drop(self.connects.remove(tag)),
                Some(count) => *count -= 1,
                None => panic!("Connected with tag {tag}, which nobody asked for"),
            },
            Event::AcceptFailed(error) => {
                assert!(!self.accept_failed, "AcceptFailed ({error}) again without resume_accept");
                self.accept_failed = true;
            }
            Event::Accepted { .. } | Event::Woken => {}
        }
    }

    fn check_send(&mut self, token: Token, buf: &SendBuf) {
        assert!(!buf.as_slice().is_empty(), "an empty send on {token:?}");
        self.begin_send(token, span(buf));
    }

    fn begin_send(&mut self, token: Token, sending: InFlight) {
        match self.tenant(token) {
            Some(slot) if slot.sending.is_some() => panic!("a send on {token:?} before the last one's Sent"),
            Some(slot) if slot.state == State::Open => slot.sending = Some(sending),
            _ => *self.stale_sends.entry((token.slot, token.generation)).or_default() += 1,
        }
    }

    fn check_sent(&mut self, token: Token, buf: &SendBuf, result: &io::Result<()>) {
        let same = Some(span(buf));
        if let Some(slot) = self.tenant(token)
            && slot.sending.is_some()
            && (slot.sending == same || slot.sending == Some(InFlight::Lease))
        {
            slot.sending = None;
            return;
        }
        match self.stale_sends.get_mut(&(token.slot, token.generation)) {
            Some(count) => {
                *count -= 1;
                if *count == 0 {
                    self.stale_sends.remove(&(token.slot, token.generation));
                }
                let kind = result.as_ref().err().map(io::Error::kind);
                assert_eq!(kind, Some(io::ErrorKind::NotConnected), "outcome of a stale send on {token:?}");
            }
            None => panic!("Sent on {token:?} without a send of that buffer (law 2)"),
        }
    }
}

/// Tells buffers apart.
fn span(buf: &SendBuf) -> InFlight {
    let bytes = buf.as_slice();
    InFlight::Buffer(bytes.as_ptr().addr(), bytes.len())
}

impl<D: Driver> Driver for Checked<D> {
    type Socket = D::Socket;

    const NAME: &'static str = D::NAME;

    fn sends_at_once(&self) -> bool {
        self.inner.sends_at_once()
    }

    fn turn(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.turn += 1;
        self.inner.turn(wait)
    }

    fn has_news(&mut self) -> bool {
        self.inner.has_news()
    }

    fn next_event(&mut self) -> Option<Event<D::Socket>> {
        let event = self.inner.next_event()?;
        self.check(&event);
        Some(event)
    }

    fn bytes(&mut self, lease: &Lease) -> &mut [u8] {
        let len = lease.len();
        let bytes = self.inner.bytes(lease);
        assert_eq!(bytes.len(), len, "a lease of {len} bytes has {}", bytes.len());
        bytes
    }

    fn release(&mut self, lease: Lease) {
        assert!(self.leases_out > 0, "a lease this driver did not hand out");
        self.leases_out -= 1;
        self.inner.release(lease);
    }

    fn attach(&mut self, token: Token, socket: D::Socket) {
        let Token { slot, generation } = token;
        assert!(slot < self.max_connections, "attach to slot {slot} of {}", self.max_connections);
        if self.slots.len() <= slot as usize {
            self.slots.resize_with(slot as usize + 1, Slot::default);
        }
        let old = &self.slots[slot as usize];
        assert!(old.state == State::Free, "attach of {token:?} to a slot in use (law 4): {old:?}");
        assert!(old.generation != Some(generation), "attach of {token:?} with the last generation");
        self.slots[slot as usize] =
            Slot { state: State::Open, generation: Some(generation), ..Slot::default() };
        self.inner.attach(token, socket);
    }

    fn refuse(&mut self, socket: D::Socket) {
        self.inner.refuse(socket);
    }

    fn send(&mut self, token: Token, buf: SendBuf) {
        self.check_send(token, &buf);
        self.inner.send(token, buf);
    }

    fn send_unawaited(&mut self, token: Token, buf: SendBuf) -> Option<SendBuf> {
        self.check_send(token, &buf);
        let buf = self.inner.send_unawaited(token, buf)?;
        self.check_sent(token, &buf, &Ok(()));
        Some(buf)
    }

    fn send_lease(&mut self, token: Token, lease: Lease) {
        assert!(self.leases_out > 0, "a lease this driver did not hand out");
        self.leases_out -= 1;
        self.begin_send(token, InFlight::Lease);
        self.inner.send_lease(token, lease);
    }

    fn hand_over(&mut self, token: Token, half: Half, keys: &RecordKeys<'_>) -> io::Result<()> {
        if let (Half::Sending, Some(slot)) = (half, self.tenant(token)) {
            assert!(slot.sending.is_none(), "keys handed over on {token:?} during a send");
        }
        self.inner.hand_over(token, half, keys)
    }

    fn send_record(&mut self, token: Token, kind: u8, content: Vec<u8>) {
        let content = SendBuf::Owned(content);
        self.check_send(token, &content);
        if let SendBuf::Owned(content) = content {
            self.inner.send_record(token, kind, content);
        }
    }

    fn pause(&mut self, token: Token) {
        self.inner.pause(token);
    }

    fn resume(&mut self, token: Token) {
        self.inner.resume(token);
    }

    fn shutdown(&mut self, token: Token) {
        self.inner.shutdown(token);
    }

    fn close(&mut self, token: Token) {
        if let Some(slot) = self.tenant(token) {
            slot.state = State::Closing;
        }
        self.inner.close(token);
    }

    fn connect(&mut self, to: SocketAddr, source: Option<IpAddr>, tag: u64) {
        *self.connects.entry(tag).or_default() += 1;
        self.inner.connect(to, source, tag);
    }

    fn pause_accept(&mut self) {
        self.inner.pause_accept();
    }

    fn resume_accept(&mut self) {
        self.accept_failed = false;
        self.inner.resume_accept();
    }

    fn close_listeners(&mut self) {
        self.inner.close_listeners();
    }

    fn has_spare(&self) -> bool {
        self.inner.has_spare()
    }

    fn shed(&mut self) {
        self.inner.shed();
    }

    fn rest_silent(&mut self) {
        self.inner.rest_silent();
    }

    fn waker(&self) -> Waker {
        self.inner.waker()
    }

    fn stats(&self) -> DriverStats {
        self.inner.stats()
    }
}

#[cfg(test)]
mod tests;
