//! A simulated peer that says little and hears much: the messages of text that it heard.

use ringwire::sim::SimPeer;

pub struct Listener {
    /// `None` once it has gone.
    pub peer: Option<SimPeer>,
    pub reads: bool,
    heard: Vec<u8>,
}

impl Listener {
    pub fn new(peer: SimPeer) -> Self {
        Self { peer: Some(peer), reads: true, heard: Vec::new() }
    }

    pub fn read(&mut self) {
        if let Some(peer) = &mut self.peer {
            self.heard.extend(peer.read());
        }
    }

    /// It stops reading, or reads again.
    pub fn toggle_reading(&mut self) {
        self.reads = !self.reads;
        match &mut self.peer {
            Some(peer) if self.reads => peer.start_reading(),
            Some(peer) => peer.stop_reading(),
            None => {}
        }
    }

    /// It goes.
    pub fn reset(&mut self) {
        self.read();
        if let Some(mut peer) = self.peer.take() {
            peer.reset();
        }
    }

    /// The messages it heard, and what came behind them: the beginning of one, or a Close frame.
    pub fn texts(&self) -> (Vec<&str>, &[u8]) {
        let Some(head) = self.heard.windows(4).position(|window| window == b"\r\n\r\n") else {
            return (Vec::new(), &[]);
        };
        let (mut rest, mut texts) = (&self.heard[head + 4..], Vec::new());
        loop {
            let (header, len) = match *rest {
                [0x81, len @ 0..=125, ..] => (2, usize::from(len)),
                [0x81, 126, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
                _ => return (texts, rest),
            };
            let Some(payload) = rest.get(header..header + len) else { return (texts, rest) };
            texts.push(std::str::from_utf8(payload).unwrap());
            rest = &rest[header + len..];
        }
    }

    /// Whether it is there and heard no end, of which `rest` would be the Close frame.
    pub fn heard_no_end(&self, rest: &[u8]) -> bool {
        rest.first() != Some(&0x88) && self.peer.as_ref().is_some_and(|peer| !peer.saw_reset())
    }
}
