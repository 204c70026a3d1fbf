//! Where the load goes: URLs, addresses, and what to do when they cannot be reached.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs};

/// A server to be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where to connect.
    pub addr: SocketAddr,
    /// The `Host` header.
    pub host: String,
    /// Path and query.
    pub path: String,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.host, self.addr)
    }
}

impl Target {
    /// Reads `ws://HOST[:PORT][/PATH]`, or with `raw` also `tcp://HOST:PORT`, and looks the host up.
    ///
    /// # Errors
    /// In words, for whoever typed it.
    pub fn resolve(url: &str, raw: bool) -> Result<Self, String> {
        let rest = match url.split_once("://") {
            Some(("ws", rest)) => rest,
            Some(("tcp", rest)) if raw => rest,
            Some(("wss" | "https", _)) => {
                return Err(format!("{url}: TLS is not supported; give the ws:// address behind it"));
            }
            _ => return Err(format!("{url}: give ws://HOST[:PORT][/PATH]")),
        };
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        if host.is_empty() || host.contains('@') {
            return Err(format!("{url}: give ws://HOST[:PORT][/PATH]"));
        }
        let has_port = host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
        let with_port = if has_port { host.to_owned() } else { format!("{host}:80") };
        let mut addrs = with_port
            .to_socket_addrs()
            .map_err(|error| format!("{url}: the host cannot be looked up: {error}"))?;
        let addr = addrs.next().ok_or_else(|| format!("{url}: the host has no address"))?;
        Ok(Self { addr, host: host.to_owned(), path })
    }
}

/// Reads a list of addresses, or a network whose addresses are all to be used.
///
/// # Errors
/// In words, for whoever typed it.
pub fn sources(text: &str) -> Result<Vec<IpAddr>, String> {
    let wrong = || format!("--source {text}: give addresses, as in 127.0.0.1,127.0.0.2 or 127.1.0.0/26");
    if let Some((first, bits)) = text.split_once('/') {
        let first: Ipv4Addr = first.parse().map_err(|_| wrong())?;
        let bits: u32 = bits.parse().ok().filter(|bits| (16..=32).contains(bits)).ok_or_else(wrong)?;
        // The first of a network names the network itself.
        let all = u32::from(first) + u32::from(bits < 31)..u32::from(first) + (1 << (32 - bits));
        return Ok(all.map(|bits| IpAddr::V4(Ipv4Addr::from(bits))).collect());
    }
    let list = text.split(',').filter(|part| !part.is_empty());
    list.map(|part| part.parse().map_err(|_| wrong())).collect()
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
    }

    #[test]
    fn refuses_what_it_cannot_reach() {
        for url in
            ["", "127.0.0.1:9001", "http://127.0.0.1", "tcp://127.0.0.1:1", "ws://", "ws://u@127.0.0.1"]
        {
            let error = Target::resolve(url, false).unwrap_err();
            assert!(error.contains("give ws://"), "{url}: {error}");
        }
        assert!(Target::resolve("wss://127.0.0.1", false).unwrap_err().contains("TLS"));
        assert!(Target::resolve("ws://127.0.0.1:99999", false).is_err());
        assert!(Target::resolve("tcp://127.0.0.1:1", true).is_ok());
    }
}
