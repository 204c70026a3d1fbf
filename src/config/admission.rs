//! Who is let in, how fast a peer may speak, and which proxies are believed.
//!
//! Plain values, part of the configuration. The limits here are the server's, not a shard's; 0 turns
//! one off.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// How many connections a server takes, from whom, and how fast.
///
/// Beyond a limit a peer is answered 503 with `Retry-After` before its request is read, and the
/// connection ends; `ringwire_admission_refused_total` counts it by limit. While 256 such answers of a
/// shard are under way, further peers are closed without one, as answers would cost more than they
/// save (`ringwire_admission_unanswered_total`). Within TLS the answer takes a whole handshake: 64 of
/// them a second and shard are made, and peers beyond are closed. [`Limits::max_connections`](super::Limits) of the
/// shard is another matter: there peers wait in the backlog.
///
/// Connections that the server opens itself are not counted.
///
/// ```
/// use ringwire::{Admission, Server};
/// let admission = Admission { max_connections_per_address: 100, ..Admission::default() };
/// let builder = Server::builder().admission(admission);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Admission {
    /// Connections of all shards together. Default 0: as many as the shards take.
    pub max_connections: u32,
    /// Connections from one address, which for IPv6 is a network of 64 bits: what one host or household
    /// is given. Peers of Unix sockets are exempt; those behind a [`ProxyProtocol`] proxy count by
    /// the address it tells. Default 0, as one address may be a whole office.
    pub max_connections_per_address: u32,
    /// Connections accepted per second, of which one second's worth may come at once. Default 0.
    pub max_accepts_per_second: u32,
    /// Connections whose first request has not come whole. Default 65,536.
    pub max_handshakes: u32,
    /// Seconds in `Retry-After`. Default 5.
    pub retry_after_s: u16,
    /// Which peers tell the address of somebody else. Default none.
    pub proxies: ProxyProtocol,
}

impl Default for Admission {
    fn default() -> Self {
        Self {
            max_connections: 0,
            max_connections_per_address: 0,
            max_accepts_per_second: 0,
            max_handshakes: 65_536,
            retry_after_s: 5,
            proxies: ProxyProtocol::default(),
        }
    }
}

/// Load balancers that begin each connection with a PROXY protocol header, version 1 or 2
/// (haproxy's `proxy-protocol.txt`), so that the server knows who is behind them.
///
/// From these peers, and from nobody else, the header is awaited and must come, within
/// [`Deadlines::head_ms`](super::Deadlines); a connection without a valid one is closed and counted by
/// `ringwire_proxy_headers_invalid_total`. Whoever else sends one is answered 400, so nobody can
/// pretend to be somebody. [`Request::peer_addr`](crate::Request::peer_addr) is the address told; the
/// proxy's own for `LOCAL`, `UNKNOWN` and families other than IP.
///
/// ```
/// use ringwire::ProxyProtocol;
/// let proxies = ProxyProtocol { from: vec!["10.0.0.0/8".parse()?, "::1".parse()?], unix: true };
/// assert!(proxies.trusts(Some("10.1.2.3".parse()?)) && !proxies.trusts(Some("11.1.2.3".parse()?)));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProxyProtocol {
    /// Their addresses. Default none.
    pub from: Vec<Subnet>,
    /// Whether all peers of Unix sockets are such proxies. Default false.
    pub unix: bool,
}

impl ProxyProtocol {
    /// Whether a peer is one; `None` is the peer of a Unix socket.
    pub fn trusts(&self, peer: Option<IpAddr>) -> bool {
        peer.map_or(self.unix, |ip| self.from.iter().any(|subnet| subnet.contains(ip)))
    }
}

/// A range of addresses: `10.0.0.0/8`, `2001:db8::/32`, or one address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Subnet {
    address: IpAddr,
    bits: u8,
}

impl Subnet {
    /// Whether an address lies in it. An IPv4 address mapped into IPv6 counts as IPv4.
    pub fn contains(&self, ip: IpAddr) -> bool {
        match (self.address, ip.to_canonical()) {
            (IpAddr::V4(net), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.bits)).unwrap_or(0);
                (net.to_bits() ^ ip.to_bits()) & mask == 0
            }
            (IpAddr::V6(net), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.bits)).unwrap_or(0);
                (net.to_bits() ^ ip.to_bits()) & mask == 0
            }
            _ => false,
        }
    }
}

impl FromStr for Subnet {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong =
            || format!("`{text}` is not a range of addresses: give IP or IP/BITS, such as 10.0.0.0/8");
        let (address, bits) = text.split_once('/').map_or((text, None), |(ip, bits)| (ip, Some(bits)));
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let most = if address.is_ipv4() { Ipv4Addr::BITS } else { Ipv6Addr::BITS } as u8;
        let bits = bits.map_or(Ok(most), |bits| bits.parse().map_err(|_| wrong()))?;
        if bits > most {
            return Err(wrong());
        }
        Ok(Self { address, bits })
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.bits)
    }
}

/// How fast each accepted connection may send data messages. Each rate is a token bucket; control
/// frames are bounded elsewhere and do not count.
///
/// ```
/// use ringwire::{OverRate, Rates};
/// // A chat: ten messages a second, thirty at once; who sends more is slowed down.
/// let chat = Rates { messages_per_second: 10, burst_messages: 30, over: OverRate::Pause, ..Rates::default() };
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rates {
    /// Messages per second; a message counts when it begins. Default 0: any number.
    pub messages_per_second: u32,
    /// Messages that may come at once. Default 0: one second's worth.
    pub burst_messages: u32,
    /// Payload bytes per second, as they come: compressed ones before they are inflated. Default 0.
    pub bytes_per_second: u32,
    /// Bytes that may come at once; should be no less than the largest message. Default 0: one
    /// second's worth.
    pub burst_bytes: u32,
    /// What happens beyond. Default [`OverRate::Close`].
    pub over: OverRate,
}

/// What happens to a peer that exceeds its [`Rates`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OverRate {
    /// The message is not delivered and the connection is closed with 1008, for the handler
    /// [`CloseReason::RateLimit`](crate::CloseReason::RateLimit); `ringwire_rate_closes_total`.
    #[default]
    Close,
    /// The message is delivered, and then nothing more is taken from the peer until it has paid for it by
    /// waiting; nothing is lost. What was on its way already is held meanwhile, up to
    /// [`Limits::max_receive_bytes_per_turn`](super::Limits); `ringwire_rate_pauses_total`.
    Pause,
}

/// What peers are told when the server ends their connection for its own reasons.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Goodbye {
    /// 1001: the server is going away.
    #[default]
    GoingAway,
    /// 1012: it restarts, and the client should come back.
    ServiceRestart,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn subnets_hold_what_is_in_them() {
        for (subnet, inside, outside) in [
            ("10.0.0.0/8", "10.255.0.1", "11.0.0.0"),
            ("192.0.2.7", "192.0.2.7", "192.0.2.6"),
            ("192.0.2.128/25", "192.0.2.200", "192.0.2.127"),
            ("10.0.0.0/8", "::ffff:10.0.0.1", "::10.0.0.1"),
            ("2001:db8::/32", "2001:db8:ffff::1", "2001:db9::1"),
            ("::1", "::1", "127.0.0.1"),
        ] {
            let parsed: Subnet = subnet.parse().unwrap();
            assert!(parsed.contains(inside.parse().unwrap()), "{subnet} {inside}");
            assert!(!parsed.contains(outside.parse().unwrap()), "{subnet} {outside}");
        }
        let all: Subnet = "0.0.0.0/0".parse().unwrap();
        assert!(all.contains([1, 2, 3, 4].into()));
        assert_eq!(all.to_string(), "0.0.0.0/0");
    }

    #[test]
    fn what_is_no_subnet_says_what_to_give() {
        for text in ["", "10.0.0.0/33", "::/129", "localhost", "10.0.0/8", "10.0.0.0/-1", "10.0.0.0/"] {
            assert!(text.parse::<Subnet>().unwrap_err().contains("IP/BITS"), "{text}");
        }
    }
}
