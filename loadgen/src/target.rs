//! Where the load goes: URLs, addresses, and what to do when they cannot be reached.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

/// A server to be loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// Where to connect.
    pub addr: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// Path and query.
    pub path: String,
    /// Within TLS.
    #[serde(default)]
    pub tls: bool,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.host, self.addr)
    }
}

impl Target {
    /// Where it is, as it may be given again.
    pub fn url(&self, raw: bool) -> String {
        match raw {
            true => format!("tcp://{}", self.host),
            false if self.tls => format!("wss://{}{}", self.host, self.path),
            false => format!("ws://{}{}", self.host, self.path),
        }
    }

    /// As [`resolve`](Self::resolve), for what speaks to plain ports only.
    ///
    /// # Errors
    /// As `resolve`, and for `wss://`.
    pub fn resolve_plain(url: &str) -> Result<Self, String> {
        match Self::resolve(url, false)? {
            target if target.tls => {
                Err(format!("{url}: this speaks no TLS; give the ws:// address behind it"))
            }
            target => Ok(target),
        }
    }

    /// Reads `ws://HOST[:PORT][/PATH]` or `wss://`, or with `raw` also `tcp://HOST:PORT`, and looks the host up.
    ///
    /// # Errors
    /// In words, for whoever typed it.
    pub fn resolve(url: &str, raw: bool) -> Result<Self, String> {
        let rest = match url.split_once("://") {
            Some(("ws", rest)) => rest,
            Some(("wss", rest)) if !raw => rest,
            Some(("tcp", rest)) if raw => rest,
            _ => return Err(format!("{url}: give ws://HOST[:PORT][/PATH]")),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if host.is_empty() || host.contains('@') {
            return Err(format!("{url}: give ws://HOST[:PORT][/PATH]"));
        }
        let tls = url.starts_with("wss://");
        let port = if tls { 443 } else { 80 };
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port { host.to_owned() } else { format!("{host}:{port}") };
        let mut addrs = with_port
            .to_socket_addrs()
            .map_err(|error| format!("{url}: the host cannot be looked up: {error}"))?;
        let addr = addrs.next().ok_or_else(|| format!("{url}: the host has no address"))?;
        Ok(Self { addr, host: host.to_owned(), path, tls })
    }
}

/// Where connections come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sources {
    /// One address.
    One(IpAddr),
    /// As many of an IPv4 network as are needed.
    Network(Ipv4Addr, u8),
}

impl FromStr for Sources {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let help = || format!("`{text}`: give an address, or an IPv4 network as 127.0.0.0/8");
        let Some((addr, bits)) = text.split_once('/') else {
            return text.parse().map(Self::One).map_err(|_| help());
        };
        match (addr.parse(), bits.parse()) {
            (Ok(addr), Ok(bits @ 1..=30)) => Ok(Self::Network(addr, bits)),
            _ => Err(help()),
        }
    }
}

impl Sources {
    /// The addresses that so many connections to `targets` come from; none leaves it to the kernel.
    ///
    /// # Errors
    /// If they have too few ports for all connections.
    pub fn choose(given: &[Self], targets: &[Target], connections: u64) -> Result<Vec<IpAddr>, String> {
        let ports = crate::host::source_ports();
        let per_source = ports * targets.len() as u64;
        let needed = connections.div_ceil(per_source.max(1));
        let is_local = |target: &Target| matches!(target.addr.ip(), IpAddr::V4(ip) if ip.is_loopback());
        let local = [Self::Network(Ipv4Addr::new(127, 0, 0, 0), 8)];
        let given = match given.is_empty() {
            true if needed > 1 && targets.iter().all(is_local) => &local,
            _ => given,
        };
        let mut sources = Vec::new();
        for source in given {
            match source {
                Self::One(addr) => sources.push(*addr),
                Self::Network(addr, bits) => {
                    let first = u32::from(*addr) & (u32::MAX << (32 - bits));
                    // Neither the network's own address nor the one for broadcasts.
                    let hosts = u64::from((1_u32 << (32 - bits)) - 2);
                    let taken = needed.saturating_sub(sources.len() as u64).clamp(1, hosts);
                    let addr = |host| IpAddr::V4(Ipv4Addr::from(first + host));
                    sources.extend((1..=taken as u32).map(addr));
                }
            }
        }
        let room = per_source * sources.len().max(1) as u64;
        if room < connections {
            return Err(format!(
                "{connections} connections need as many source ports, and there are {room}: give more \
                 addresses with --source, or `sysctl -w net.ipv4.ip_local_port_range='1024 65535'`"
            ));
        }
        Ok(sources)
    }
}

/// What may help against an error of connect(2), to be put behind it.
pub fn advice(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::ConnectionRefused => "; is the server running, and on this port?",
        io::ErrorKind::AddrNotAvailable => {
            "; no source port is free: sysctl -w net.ipv4.ip_local_port_range='1024 65535'"
        }
        io::ErrorKind::TimedOut | io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => {
            "; is the address right, and nothing filtering it?"
        }
        _ => match error.raw_os_error() {
            // EMFILE and ENFILE (open(2)).
            Some(24) => "; raise the limit: ulimit -n",
            Some(23) => "; raise the host's limit: sysctl -w fs.file-max=",
            _ => "",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> Target {
        Target::resolve(url, false).unwrap()
    }

    #[test]
    fn reads_urls() {
        let whole = target("ws://127.0.0.1:9001/echo?a=b#c");
        assert_eq!(whole.addr, "127.0.0.1:9001".parse().unwrap());
        assert_eq!((&*whole.host, &*whole.path), ("127.0.0.1:9001", "/echo?a=b"));
        assert_eq!(target("ws://127.0.0.1").addr.port(), 80);
        assert_eq!(target("ws://[::1]:9001").addr, "[::1]:9001".parse().unwrap());
        assert_eq!(target("ws://[::1]").addr, "[::1]:80".parse().unwrap());
        assert_eq!(target("ws://127.0.0.1:1?x").path, "/?x");
        let within_tls = target("wss://127.0.0.1/a");
        assert_eq!((within_tls.tls, within_tls.addr.port()), (true, 443));
        assert_eq!(within_tls.url(false), "wss://127.0.0.1/a");
    }

    #[test]
    fn as_many_sources_as_ports_ask_for() {
        let there = [target("ws://127.0.0.1:9001/")];
        let ports = crate::host::source_ports();
        assert_eq!(Sources::choose(&[], &there, 10), Ok(vec![]));
        let two = Sources::choose(&[], &there, ports + 1).unwrap();
        assert_eq!(two, ["127.0.0.1", "127.0.0.2"].map(|addr| addr.parse::<IpAddr>().unwrap()));
        let given: Vec<Sources> = vec!["127.0.0.9".parse().unwrap(), "127.1.0.0/16".parse().unwrap()];
        let three = Sources::choose(&given, &there, 2 * ports + 1).unwrap();
        assert_eq!(three.len(), 3);
        assert_eq!(three[1..], ["127.1.0.1", "127.1.0.2"].map(|addr| addr.parse::<IpAddr>().unwrap()));
        let error = Sources::choose(&given[..1], &there, ports + 1).unwrap_err();
        assert!(error.contains("--source") && error.contains("ip_local_port_range"), "{error}");
        for wrong in ["x", "127.0.0.0/0", "127.0.0.0/31", "::/64"] {
            assert!(wrong.parse::<Sources>().unwrap_err().contains("127.0.0.0/8"), "{wrong}");
        }
    }

    #[test]
    fn refuses_what_it_cannot_reach() {
        for url in
            ["", "127.0.0.1:9001", "http://127.0.0.1", "tcp://127.0.0.1:1", "ws://", "ws://u@127.0.0.1"]
        {
            let error = Target::resolve(url, false).unwrap_err();
            assert!(error.contains("give ws://"), "{url}: {error}");
        }
        assert!(Target::resolve_plain("wss://127.0.0.1").unwrap_err().contains("TLS"));
        assert!(Target::resolve("wss://127.0.0.1", true).is_err());
        assert!(Target::resolve("ws://127.0.0.1:99999", false).is_err());
        assert!(Target::resolve("tcp://127.0.0.1:1", true).is_ok());
    }
}
