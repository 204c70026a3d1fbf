//! Market data: 50,000 prices a second, of which everyone gets as many as it can take.
//! `cargo run --release --example ticker`, then open ws://127.0.0.1:9001.
//!
//! Who keeps up gets every price. Who does not has at most the latest one of each instrument waiting
//! ([`Overflow::Conflate`]): what it reads next is the newest, not what it missed, and the server holds
//! little for it. How many it missed is told once a second.

use ringwire::{
    CloseCode, Conn, Dropped, Handler, Limits, ListenAddr, Message, Overflow, Prepared, Publication, Remote,
    Request, Server, Subscribe, TopicError, Upgrade,
};
use std::time::{Duration, Instant};

const INSTRUMENTS: u64 = 500;
const PRICES_PER_S: u64 = 50_000;
/// Prices are published in bursts of this many.
const BURST: u64 = 500;
/// Bytes that may wait for one connection: some ten times the latest prices of all instruments.
const MAX_OUTBOX_BYTES: u32 = 512 << 10;

struct Ticker;

/// What a connection has missed, and when it was last told.
struct Missed {
    prices: u64,
    told: Instant,
}

impl Handler for Ticker {
    type State = Missed;

    fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<Missed> {
        Upgrade::accept(Missed { prices: 0, told: Instant::now() })
    }

    fn open(&mut self, conn: &mut Conn<'_, Missed>) {
        let how = Subscribe::new().overflow(Overflow::Conflate);
        if let Err(error) = conn.subscribe_with("prices", how) {
            conn.close(CloseCode::TRY_AGAIN_LATER, &error.to_string());
        }
    }

    fn message(&mut self, _conn: &mut Conn<'_, Missed>, _message: Message<'_>) {
        // A ticker listens to nobody.
    }

    fn dropped(&mut self, conn: &mut Conn<'_, Missed>, dropped: Dropped) {
        let missed = conn.state_mut();
        missed.prices += dropped.total();
        if missed.told.elapsed() >= Duration::from_secs(1) {
            let text = format!("{{\"missed\":{}}}", missed.prices);
            *missed = Missed { prices: 0, told: Instant::now() };
            conn.send_text(&text);
        }
    }
}

/// Makes prices up until the server has stopped.
fn publish(remote: &Remote) {
    let begin = Instant::now();
    let mut published = 0;
    loop {
        for number in published..published + BURST {
            let instrument = number % INSTRUMENTS;
            let price = 100.0 + ((number / INSTRUMENTS) as f64 / 50.0 + instrument as f64).sin();
            let text = format!("{{\"n\":{number},\"instrument\":{instrument},\"price\":{price:.4}}}");
            let price = Prepared::text(text);
            let publication = Publication::new("prices", &price).key(instrument);
            match remote.publish_with(publication) {
                Ok(()) => {}
                // The shards are busy: a later price will do.
                Err(TopicError::Full) => {}
                Err(TopicError::Stopped) if begin.elapsed() < Duration::from_secs(5) => {}
                Err(_) => return,
            }
        }
        published += BURST;
        let due = Duration::from_micros(published * 1_000_000 / PRICES_PER_S);
        std::thread::sleep(due.saturating_sub(begin.elapsed()));
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let addr: ListenAddr = std::env::args().nth(1).as_deref().unwrap_or("127.0.0.1:9001").parse()?;
    let limits = Limits { max_outbox_bytes: MAX_OUTBOX_BYTES, ..Limits::default() };
    let server = Server::builder().listen(addr).limits(limits).bind()?;
    println!("ws://{}: {PRICES_PER_S} prices a second of {INSTRUMENTS} instruments", server.local_addrs()[0]);
    let remote = server.remote();
    std::thread::spawn(move || publish(&remote));
    server.run(|_shard| Ticker)?;
    Ok(())
}
