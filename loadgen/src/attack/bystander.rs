//! One who has nothing to do with the attack: its messages must come back all the time, in order and
//! at once. It works on a thread of its own, so that whatever an attack waits for, it looks on.

use super::peer::Peer;
use crate::target::Target;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// Between two messages.
const INTERVAL: Duration = Duration::from_millis(50);

/// What it saw since it was last asked.
#[derive(Debug)]
pub struct Seen {
    /// The longest it waited for an answer.
    pub slowest: Duration,
    /// The first thing that went wrong.
    pub fault: Option<String>,
}

/// The end of it that the attacker holds.
#[derive(Debug)]
pub struct Bystander {
    asks: Sender<Sender<Seen>>,
}

impl Bystander {
    /// Puts one in place; it waits at most `patience` for an answer.
    pub fn begin(target: &Target, patience: Duration) -> Result<Self, String> {
        let (asks, asked) = channel();
        let talk = Talk { target: target.clone(), patience, peer: None, messages: 0 };
        let thread = thread::Builder::new().name("bystander".to_owned());
        // It ends when `asks` is gone.
        let started = thread.spawn(move || look_on(talk, &asked));
        started.map_err(|error| format!("no thread could be started: {error}"))?;
        Ok(Self { asks })
    }

    /// Sends one more message, waits for its answer, and tells what was seen.
    pub fn ask(&self) -> Seen {
        let (reply, seen) = channel();
        let asked = self.asks.send(reply).is_ok();
        let gone = || Seen { slowest: Duration::ZERO, fault: Some("the bystander is gone".to_owned()) };
        if asked { seen.recv().unwrap_or_else(|_| gone()) } else { gone() }
    }
}

fn look_on(mut talk: Talk, asked: &Receiver<Sender<Seen>>) {
    let mut seen = Seen { slowest: Duration::ZERO, fault: None };
    loop {
        let reply = match asked.recv_timeout(INTERVAL) {
            Ok(reply) => Some(reply),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let begin = Instant::now();
        let spoken = talk.speak();
        seen.slowest = seen.slowest.max(begin.elapsed());
        seen.fault = seen.fault.or(spoken.err());
        if let Some(reply) = reply {
            let _ = reply.send(std::mem::replace(&mut seen, Seen { slowest: Duration::ZERO, fault: None }));
        }
    }
}

struct Talk {
    target: Target,
    patience: Duration,
    peer: Option<Peer>,
    messages: u64,
}

impl Talk {
    fn speak(&mut self) -> Result<(), String> {
        self.messages += 1;
        let mut peer = match self.peer.take() {
            Some(peer) => peer,
            None => {
                Peer::open(&self.target, "", self.patience).map_err(|why| format!("the bystander {why}"))?
            }
        };
        let message = format!("bystander's message {}", self.messages);
        peer.echo(&message, self.patience).map_err(|why| format!("the bystander gets {why}"))?;
        self.peer = Some(peer);
        Ok(())
    }
}
