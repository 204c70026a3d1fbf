//! What a load is to do, resolved and checked: what workers are built from, in this process and in
//! those that joined.

use crate::news::News;
use crate::pace::Arrivals;
use crate::payload::{Payload, Sizes};
use crate::target::Target;
use crate::trust::Trust;
use ringwire::DriverChoice;
use ringwire::ws::Kind;
use serde::{Deserialize, Serialize};
use std::net::IpAddr;

/// The messages.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Shape {
    /// Bytes.
    pub sizes: Sizes,
    /// Text instead of binary.
    pub text: bool,
    /// Text that looks like JSON records.
    pub records: bool,
    /// Text of Chinese characters.
    pub cjk: bool,
    /// Frames of a message.
    pub fragments: u32,
    /// Every connection must compress.
    pub deflate: bool,
}

impl Shape {
    /// Text or binary.
    pub fn kind(&self) -> Kind {
        if self.text { Kind::Text } else { Kind::Binary }
    }

    /// Whether messages leave as they are, in one frame: then they need not be joined before.
    pub fn joins(&self) -> bool {
        !self.text && self.fragments == 1 && !self.deflate
    }

    /// As results name it.
    pub fn kind_name(&self) -> &'static str {
        match (self.text, self.records, self.cjk) {
            (false, ..) => "binary",
            (true, true, _) => "records",
            (true, _, true) => "cjk",
            (true, ..) => "text",
        }
    }

    /// Messages of this shape.
    pub fn payload(&self) -> Payload {
        match (self.records, self.cjk) {
            (true, _) => Payload::records(self.sizes.clone()),
            (_, true) => Payload::cjk(self.sizes.clone()),
            _ => Payload::new(self.sizes.clone(), self.kind()),
        }
    }
}

/// What the connections do while the load is on.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Traffic {
    /// Nothing.
    Silent,
    /// Each sends a burst, waits for all of it, and sends the next.
    Closed {
        /// Messages of a burst.
        depth: u64,
    },
    /// Messages at times of their own.
    Open {
        /// Messages per second, of all connections.
        per_s: f64,
        /// How they are spread.
        arrivals: Arrivals,
        /// The first so many connections carry them.
        connections: u64,
    },
    /// The first connections send what all others get.
    Broadcast {
        /// Connections that send.
        publishers: u64,
        /// Messages per second, of all publishers.
        per_s: f64,
        /// How they are spread.
        arrivals: Arrivals,
        /// What each connection sends first.
        subscribe: Option<String>,
        /// A text with `{}` where the message is to stand.
        envelope: Option<String>,
    },
    /// As many connections as there may be are being opened, and closed when they are open.
    Churn {
        /// Handshakes per second; without, as many as the server takes.
        per_s: Option<f64>,
    },
}

impl Traffic {
    /// Connections that only receive, in a broadcast.
    pub fn subscribers(&self, connections: u64) -> Option<u64> {
        match self {
            Self::Broadcast { publishers, .. } => Some(connections - publishers),
            _ => None,
        }
    }

    /// The messages of a broadcast.
    pub fn news(&self, shape: &Shape) -> News {
        let envelope = match self {
            Self::Broadcast { envelope, .. } => envelope.as_deref(),
            _ => None,
        };
        News::new(shape.sizes.max(), envelope)
    }
}

/// A load.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// As results name it.
    pub scenario: String,
    /// Servers, taken in turn.
    pub targets: Vec<Target>,
    /// Source addresses, taken in turn; empty leaves them to the kernel.
    pub sources: Vec<IpAddr>,
    /// Connections of all processes.
    pub connections: u64,
    /// Connections opened per second, of all processes.
    pub connect_rate: Option<f64>,
    /// How long a handshake may take, in milliseconds.
    pub handshake_ms: u32,
    /// Connections on their way at once, per worker.
    pub max_opening: u64,
    /// Failed attempts are made again.
    pub retries: bool,
    /// What is sent.
    pub shape: Shape,
    /// When.
    pub traffic: Traffic,
    /// One burst when a connection opens.
    pub echo_on_open: bool,
    /// Bare TCP instead of WebSocket.
    pub raw: bool,
    /// Whose certificates are accepted.
    #[serde(default)]
    pub trust: Trust,
}

impl Plan {
    /// The target of a connection.
    pub fn target(&self, index: u32) -> &Target {
        &self.targets[index as usize % self.targets.len()]
    }

    /// The source of a connection: each target sees each source.
    pub fn source(&self, index: u32) -> Option<IpAddr> {
        let turn = index as usize / self.targets.len();
        (!self.sources.is_empty()).then(|| self.sources[turn % self.sources.len()])
    }

    /// Messages of a burst.
    pub fn depth(&self) -> u64 {
        match self.traffic {
            Traffic::Closed { depth } => depth,
            _ => 1,
        }
    }

    /// Of the first `count` connections, those of one worker of `lanes`.
    pub fn share(count: u64, lane: u64, lanes: u64) -> u64 {
        count / lanes + u64::from(lane < count % lanes)
    }
}

/// How and where one process's workers run.
#[derive(Clone, Debug)]
pub struct Seat {
    /// Workers of this process.
    pub workers: usize,
    /// Cores they are pinned to in turn; empty pins nothing.
    pub cores: Vec<usize>,
    /// io_uring or epoll.
    pub driver: DriverChoice,
    /// Microseconds after traffic for which they poll before they sleep.
    pub busy_poll_us: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_shared_out_whole() {
        for (count, lanes) in [(0, 1), (1, 3), (10, 3), (1_000_000, 60)] {
            let sum: u64 = (0..lanes).map(|lane| Plan::share(count, lane, lanes)).sum();
            assert_eq!(sum, count);
        }
    }
}
