//! The flags of `serve` that bound what peers may do: who is let in, how fast they speak, how long they
//! stay, and which proxies are believed.

use clap::{Args, ValueEnum};
use ringwire::{Admission, Deadlines, Goodbye, OverRate, ProxyProtocol, Rates, Subnet};

#[derive(Debug, Args)]
pub struct Bounds {
    /// Connections of all shards together; beyond it peers are answered 503 [default: as many as shards take].
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_total_connections: u32,

    /// Connections from one IPv4 address or IPv6 /64; beyond it peers are answered 503 [default: any].
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_per_address: u32,

    /// Connections accepted per second; beyond it peers are answered 503 [default: any].
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_accepts_per_second: u32,

    /// Connections whose first request has not come whole; beyond it peers are answered 503.
    #[arg(long, value_name = "N", default_value_t = Admission::default().max_handshakes)]
    max_handshakes: u32,

    /// Messages per second of each connection, one second's worth at once [default: any].
    #[arg(long, value_name = "N", default_value_t = 0, hide_default_value = true)]
    max_messages_per_second: u32,

    /// Payload bytes per second of each connection, one second's worth at once [default: any].
    #[arg(long, value_name = "BYTES", default_value_t = 0, hide_default_value = true)]
    max_bytes_per_second: u32,

    /// What happens to who sends faster: closed with 1008, or made to wait.
    #[arg(long, value_enum, default_value_t = Over::Close)]
    over_rate: Over,

    /// Believe the PROXY protocol header of these peers, which must send one: ranges of addresses such as
    /// 10.0.0.0/8, and `unix` for all peers of Unix sockets. A list.
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    proxy_from: Vec<Proxy>,

    /// Close connections that have been open so long, in seconds, some of them up to a tenth earlier [default: never].
    #[arg(long, value_name = "S", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u32).range(..=2_592_000))]
    max_lifetime_s: u32,

    /// Spread the goodbyes of a shutdown over this time, in milliseconds.
    #[arg(long, value_name = "MS", default_value_t = Deadlines::default().drain_window_ms)]
    drain_window_ms: u32,

    /// Say 1012, service restart, instead of 1001 when the server ends connections.
    #[arg(long)]
    restarts: bool,

    /// Let the kernel probe hosts that have been silent so long, in seconds [default: off].
    #[arg(long, value_name = "S", default_value_t = 0, hide_default_value = true, value_parser = clap::value_parser!(u32).range(..=32_767))]
    tcp_keepalive_s: u32,

    /// Let the kernel give up connections whose bytes stay unacknowledged so long, in milliseconds [default: some
    /// 15 minutes].
    #[arg(long, value_name = "MS", default_value_t = 0, hide_default_value = true)]
    tcp_user_timeout_ms: u32,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Over {
    /// Closed with 1008.
    Close,
    /// Not received from until the rate is kept again.
    Pause,
}

#[derive(Clone, Debug)]
enum Proxy {
    Range(Subnet),
    Unix,
}

impl std::str::FromStr for Proxy {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "unix" => Ok(Self::Unix),
            range => range.parse().map(Self::Range),
        }
    }
}

impl Bounds {
    pub fn admission(&self) -> Admission {
        let mut proxies = ProxyProtocol::default();
        for proxy in &self.proxy_from {
            match proxy {
                Proxy::Range(range) => proxies.from.push(*range),
                Proxy::Unix => proxies.unix = true,
            }
        }
        Admission {
            max_connections: self.max_total_connections,
            max_connections_per_address: self.max_per_address,
            max_accepts_per_second: self.max_accepts_per_second,
            max_handshakes: self.max_handshakes,
            proxies,
            ..Admission::default()
        }
    }

    pub fn rates(&self) -> Rates {
        Rates {
            messages_per_second: self.max_messages_per_second,
            bytes_per_second: self.max_bytes_per_second,
            over: match self.over_rate {
                Over::Close => OverRate::Close,
                Over::Pause => OverRate::Pause,
            },
            ..Rates::default()
        }
    }

    /// Those of the deadlines that are given here.
    pub fn deadlines(&self) -> Deadlines {
        Deadlines {
            drain_window_ms: self.drain_window_ms,
            goodbye: if self.restarts { Goodbye::ServiceRestart } else { Goodbye::GoingAway },
            max_lifetime_ms: self.max_lifetime_s * 1_000,
            tcp_keepalive_s: self.tcp_keepalive_s,
            tcp_user_timeout_ms: self.tcp_user_timeout_ms,
            ..Deadlines::default()
        }
    }
}
