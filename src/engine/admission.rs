//! Who is let in: the counts that all cores of a server share.
//!
//! Touched when a connection comes, when its first request is whole and when it ends, never in
//! between. Addresses are counted in a table of many small ones, each behind a lock; it holds an entry
//! for each address that has a connection and no more.

use super::Core;
use super::common::Common;
use super::events::event;
use super::rates::Pace;
use super::slot::{Entry, Flags, Phase, Slot};
use crate::config::Admission;
use crate::driver::{Driver, PeerAddr};
use crate::handler::Handler;
use crate::http::Response;
use crate::ws::Role;
use std::collections::HashMap;
use std::collections::hash_map::{self, RandomState};
use std::hash::BuildHasher;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Answers of a core to peers that are not let in which may be under way.
pub const MAX_ANSWERS: u32 = 256;
/// Of these, how many a core gives within TLS in a second, and at once: each takes a whole handshake, some
/// 0.12 ms, so that whoever is not let in costs it 1 % of its time at most.
const TLS_ANSWERS_PER_SECOND: u32 = 64;
const TABLES: usize = 64;

/// Which limit kept a peer out. The order is that of [`Refusal::NAMES`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `max_connections`.
    Connections,
    /// `max_connections_per_address`.
    Address,
    /// `max_accepts_per_second`.
    Rate,
    /// `max_handshakes`.
    Handshakes,
}

impl Refusal {
    /// As metrics name them.
    pub const NAMES: [&str; 4] = ["connections", "address", "rate", "handshakes"];
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Gate {
    config: Admission,
    connections: AtomicU32,
    handshakes: AtomicU32,
    accepts: Mutex<Pace>,
    by_address: Vec<Mutex<HashMap<u64, u32>>>,
    hasher: RandomState,
}

impl Gate {
    /// A gate that nobody has passed.
    pub fn new(config: Admission) -> Self {
        Self {
            config,
            connections: AtomicU32::new(0),
            handshakes: AtomicU32::new(0),
            accepts: Mutex::default(),
            by_address: (0..TABLES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
        }
    }

    /// What it was made with.
    pub fn config(&self) -> &Admission {
        &self.config
    }

    /// Counts a connection in at `now`, which may differ by little between the cores: itself, its handshake
    /// and its address, if that counts.
    ///
    /// # Errors
    /// The limit that keeps it out; nothing is counted then.
    pub fn enter(&self, now: Duration, counted: Option<IpAddr>) -> Result<(), Refusal> {
        let Admission { max_connections, max_accepts_per_second: rate, max_handshakes, .. } = self.config;
        add_below(&self.connections, max_connections).map_err(|()| Refusal::Connections)?;
        if add_below(&self.handshakes, max_handshakes).is_err() {
            self.leave();
            return Err(Refusal::Handshakes);
        }
        let refusal = if rate > 0 && !self.paced(now, rate) {
            Refusal::Rate
        } else if counted.is_some_and(|ip| !self.enter_address(ip)) {
            Refusal::Address
        } else {
            return Ok(());
        };
        self.end_handshake();
        self.leave();
        Err(refusal)
    }

    fn paced(&self, now: Duration, rate: u32) -> bool {
        self.accepts.lock().unwrap_or_else(PoisonError::into_inner).take(now, 1, rate, rate)
    }

    /// A connection that was counted in has ended.
    pub fn leave(&self) {
        self.connections.fetch_sub(1, Ordering::Relaxed);
    }

    /// Its first request has come whole, or it has ended before.
    pub fn end_handshake(&self) {
        self.handshakes.fetch_sub(1, Ordering::Relaxed);
    }

    /// Whether connections are counted by address.
    pub fn counts_addresses(&self) -> bool {
        self.config.max_connections_per_address > 0
    }

    /// Counts a connection of an address; false if it has as many as it may.
    pub fn enter_address(&self, ip: IpAddr) -> bool {
        let (key, table) = self.entry(ip);
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        let count = table.entry(key).or_default();
        let room = *count < self.config.max_connections_per_address;
        *count += u32::from(room);
        room
    }

    /// A connection that was counted for an address has ended.
    pub fn leave_address(&self, ip: IpAddr) {
        let (key, table) = self.entry(ip);
        let mut table = table.lock().unwrap_or_else(PoisonError::into_inner);
        if let hash_map::Entry::Occupied(mut count) = table.entry(key) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }

    /// Connections that were let in, and of these the ones whose first request has not come whole.
    pub fn counts(&self) -> (usize, usize) {
        let count = |count: &AtomicU32| count.load(Ordering::Relaxed) as usize;
        (count(&self.connections), count(&self.handshakes))
    }

    /// Addresses that have a connection.
    pub fn addresses(&self) -> usize {
        let len = |table: &Mutex<HashMap<_, _>>| table.lock().unwrap_or_else(PoisonError::into_inner).len();
        self.by_address.iter().map(len).sum()
    }

    /// IPv4 whole, IPv6 its first 64 bits: a host has as many of the rest as it likes.
    fn entry(&self, ip: IpAddr) -> (u64, &Mutex<HashMap<u64, u32>>) {
        let key = match ip.to_canonical() {
            // The block 0000::/8 of IPv6 is reserved (RFC 4291 §4), so that nothing collides.
            IpAddr::V4(ip) => ip.to_bits().into(),
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
        };
        (key, &self.by_address[self.hasher.hash_one(key) as usize % TABLES])
    }
}

/// Adds one unless that would exceed the limit, which 0 turns off.
fn add_below(count: &AtomicU32, limit: u32) -> Result<(), ()> {
    let before = count.fetch_add(1, Ordering::Relaxed);
    if limit > 0 && before >= limit {
        count.fetch_sub(1, Ordering::Relaxed);
        return Err(());
    }
    Ok(())
}

/// The address that a peer counts for.
fn address(peer: PeerAddr) -> Option<IpAddr> {
    match peer {
        PeerAddr::Ip(addr) => Some(addr.ip()),
        PeerAddr::Unix => None,
    }
}

impl super::common::Common {
    /// A connection's first request has come whole.
    pub fn end_handshake(&self, slot: &mut Slot) {
        if slot.entry.take(Entry::SHAKING) {
            self.gate.end_handshake();
        }
    }

    /// A trusted proxy has told who is behind it, who counts from now on; false if that address has as
    /// many connections as it may.
    pub fn enter_behind_proxy(&mut self, slot: &mut Slot, source: SocketAddr) -> bool {
        self.peers.replace(slot, PeerAddr::Ip(source));
        if !self.gate.counts_addresses() {
            return true;
        }
        if !self.gate.enter_address(source.ip()) {
            self.stats.count_refusal(Refusal::Address);
            return false;
        }
        slot.entry.set(Entry::BY_ADDRESS);
        true
    }

    /// Undoes all that counts a connection.
    pub fn leave_gate(&mut self, slot: &mut Slot) {
        self.end_handshake(slot);
        if slot.entry.take(Entry::COUNTED) {
            self.gate.leave();
        } else if slot.session.role() == Role::Server {
            self.answers -= 1;
        }
        if slot.entry.take(Entry::BY_ADDRESS)
            && let Some(ip) = address(self.peers.get(slot))
        {
            self.gate.leave_address(ip);
        }
    }

    /// Why, and when to come back.
    pub fn refusal(&self) -> Response {
        let response = Response::text(503, "The server takes no more connections now.\n").closing();
        let seconds = self.gate.config().retry_after_s.to_string();
        // A number may stand in a header field.
        response.clone().try_header("Retry-After", seconds).unwrap_or(response)
    }
}

impl<D: Driver, H: Handler> Core<D, H> {
    /// Lets a peer in that has a slot to go to, or not.
    pub(super) fn admit(&mut self, socket: D::Socket, peer: PeerAddr, listener: u32) {
        let Common { gate, tls, limits, deadlines, stats, .. } = &self.common;
        let secured = tls.is_on(listener);
        if secured && tls.shaking() >= limits.max_tls_handshakes {
            stats.tls_refused.add(1);
            return self.driver.refuse(socket);
        }
        let proxied = gate.config().proxies.trusts(address(peer));
        let counts = gate.counts_addresses() && !proxied;
        if let Err(refusal) = gate.enter(self.clock.now(), address(peer).filter(|_| counts)) {
            event!(info, shard = self.common.shard, %peer, limit = ?refusal, "not let in");
            stats.count_refusal(refusal);
            return self.turn_away(socket, peer, secured.then_some((listener, proxied)));
        }
        let (phase, ms) =
            if secured { (Phase::Securing, deadlines.tls_ms) } else { (Phase::Head, deadlines.head_ms) };
        let token = self.insert(peer, phase, Role::Server);
        let Some((slot, _)) = self.table.get(token) else { return };
        slot.entry.set(Entry::COUNTED);
        slot.entry.set(Entry::SHAKING);
        if proxied {
            slot.entry.set(Entry::PROXY_DUE);
        } else if counts && matches!(peer, PeerAddr::Ip(_)) {
            slot.entry.set(Entry::BY_ADDRESS);
        }
        if secured {
            slot.flags.set(Flags::TLS);
            self.common.tls.accept(token.slot, listener);
        }
        self.driver.attach(token, socket);
        self.arm_within(token, ms);
        self.pause_accept_if_full();
    }

    /// Answers a peer that is not let in; within TLS, with the listener and whether a proxy speaks first,
    /// when the handshake is done.
    fn turn_away(&mut self, socket: D::Socket, peer: PeerAddr, tls: Option<(u32, bool)>) {
        let (now, common) = (self.clock.now(), &mut self.common);
        let rate = TLS_ANSWERS_PER_SECOND;
        if common.answers >= MAX_ANSWERS || tls.is_some() && !common.tls_answers.take(now, 1, rate, rate) {
            common.stats.admission_unanswered.add(1);
            return self.driver.refuse(socket);
        }
        common.answers += 1;
        if let Some((listener, proxied)) = tls {
            return self.turn_away_later(socket, peer, listener, proxied);
        }
        let token = self.insert(peer, Phase::Head, Role::Server);
        self.driver.attach(token, socket);
        let response = self.common.refusal();
        let Some(mut party) = self.party(token) else { return };
        party.common.stats.http_errors.add(1);
        party.append_response(&response, false, false);
        self.finish(token);
        self.pause_accept_if_full();
    }

    fn turn_away_later(&mut self, socket: D::Socket, peer: PeerAddr, listener: u32, proxied: bool) {
        let token = self.insert(peer, Phase::Securing, Role::Server);
        let Some((slot, _)) = self.table.get(token) else { return };
        slot.flags.set(Flags::TLS);
        if proxied {
            slot.entry.set(Entry::PROXY_DUE);
        }
        self.common.tls.accept(token.slot, listener);
        self.driver.attach(token, socket);
        self.arm_within(token, self.common.deadlines.tls_ms);
        self.pause_accept_if_full();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(config: Admission) -> Gate {
        Gate::new(config)
    }

    #[test]
    fn an_address_has_so_many_and_ipv6_counts_by_network() {
        let gate = gate(Admission { max_connections_per_address: 2, ..Admission::default() });
        let enter = |ip: &str| gate.enter_address(ip.parse().unwrap());
        assert!(enter("192.0.2.1") && enter("::ffff:192.0.2.1") && !enter("192.0.2.1"));
        assert!(enter("192.0.2.2"));
        assert!(enter("2001:db8::1") && enter("2001:db8::2") && !enter("2001:db8::ffff:0:0:3"));
        assert!(enter("2001:db8:0:1::1"));
        gate.leave_address("2001:db8::7".parse().unwrap());
        assert!(enter("2001:db8::8"));
    }

    #[test]
    fn addresses_without_connections_are_forgotten() {
        let gate = gate(Admission { max_connections_per_address: 1, ..Admission::default() });
        for n in 0..10_000u32 {
            assert!(gate.enter_address(std::net::Ipv4Addr::from_bits(n).into()));
        }
        assert_eq!(gate.addresses(), 10_000);
        for n in 0..10_000u32 {
            gate.leave_address(std::net::Ipv4Addr::from_bits(n).into());
        }
        assert_eq!(gate.addresses(), 0);
    }

    #[test]
    fn a_refusal_counts_nothing() {
        let gate = gate(Admission {
            max_connections: 3,
            max_handshakes: 2,
            max_accepts_per_second: 4,
            ..Admission::default()
        });
        let now = Duration::from_secs(1);
        let enter = |now| gate.enter(now, None);
        assert_eq!((enter(now), enter(now)), (Ok(()), Ok(())));
        assert_eq!(enter(now), Err(Refusal::Handshakes));
        gate.end_handshake();
        assert_eq!(enter(now), Ok(()));
        assert_eq!(enter(now), Err(Refusal::Connections));
        for _ in 0..2 {
            gate.end_handshake();
            gate.leave();
        }
        assert_eq!(enter(now), Ok(()), "the fourth");
        assert_eq!(enter(now), Err(Refusal::Rate));
        assert_eq!(enter(now + Duration::from_millis(251)), Ok(()));
    }
}
