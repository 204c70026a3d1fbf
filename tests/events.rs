//! Events of the feature `tracing`: those of a connection's life, and none of its messages.

use ringwire::sim::Simulation;
use ringwire::ws::{CloseCode, Kind, encode_close, encode_message};
use ringwire::{Admission, Conn, Handler, Message, Request, Upgrade};
use std::fmt::{Debug, Write as _};
use std::sync::{Arc, Mutex};
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

struct Echo;

impl Handler for Echo {
    type State = ();

    fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<()> {
        Upgrade::accept(())
    }

    fn message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        conn.send(message);
    }
}

/// Keeps each event as a line.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

struct Line<'a>(&'a mut String);

impl Visit for Line<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        write!(self.0, " {field}={value:?}").unwrap();
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.target() == "ringwire"
    }

    fn new_span(&self, _span: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _span: &Id, _values: &Record<'_>) {}

    fn record_follows_from(&self, _span: &Id, _follows: &Id) {}

    fn event(&self, event: &Event<'_>) {
        let mut line = event.metadata().level().to_string();
        event.record(&mut Line(&mut line));
        self.0.lock().unwrap().push(line);
    }

    fn enter(&self, _span: &Id) {}

    fn exit(&self, _span: &Id) {}
}

#[test]
fn a_connection_tells_of_its_life_and_not_of_its_messages() {
    let lines = Lines::default();
    tracing::subscriber::with_default(lines.clone(), || {
        let admission = Admission { max_connections: 1, ..Admission::default() };
        let mut simulation = Simulation::<Echo>::builder(1).admission(admission).build(|_| Echo);
        let mut peer = simulation.connect();
        peer.write(
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        );
        simulation.run();
        let mut frames = Vec::new();
        for _ in 0..100 {
            encode_message(&mut frames, Kind::Text, b"hello", Some([1, 2, 3, 4]));
        }
        peer.write(&frames);
        let other = simulation.connect();
        simulation.run();
        let mut frames = Vec::new();
        encode_close(&mut frames, Some(CloseCode::NORMAL), "done", Some([1, 2, 3, 4]));
        peer.write(&frames);
        simulation.run();
        simulation.shutdown();
        simulation.run();
        drop((peer, other));
    });
    let lines = lines.0.lock().unwrap();
    let expected = [("DEBUG", "open"), ("INFO", "not let in"), ("DEBUG", "close"), ("INFO", "drain")];
    assert_eq!(lines.len(), expected.len(), "{lines:#?}");
    for (line, (level, text)) in lines.iter().zip(expected) {
        assert!(line.starts_with(level) && line.contains(&format!("message={text}")), "{line}");
    }
    assert!(lines[1].contains("limit=Connections") && lines[2].contains("code=1000"), "{lines:#?}");
}
