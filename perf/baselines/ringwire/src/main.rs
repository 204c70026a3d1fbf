//! ringwire as an echo server, one thread: the library alone, as the others are measured. Clients that
//! offer compression get it, with the default settings; the others are served without.
//!
//! `baseline-ringwire uring|epoll PORT [CORES]`: with cores, as in 0,1, a thread pinned to each.
//! `baseline-ringwire uring|epoll PORT topic`: no echo; everyone listens to one topic, and what anyone sends
//! is published there.

use ringwire::{
    Compression, Conn, DeflateConfig, DriverChoice, Handler, ListenAddr, Message, Prepared, Request, Server,
    Upgrade,
};

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

const TOPIC: &str = "feed";

struct Topic;

impl Handler for Topic {
    type State = ();

    fn upgrade(&mut self, _request: &Request<'_>) -> Upgrade<()> {
        Upgrade::accept(())
    }

    fn open(&mut self, conn: &mut Conn<'_, ()>) {
        conn.subscribe(TOPIC).expect("room");
    }

    fn message(&mut self, conn: &mut Conn<'_, ()>, message: Message<'_>) {
        let message = match message {
            Message::Text(text) => Prepared::text(text),
            Message::Binary(bytes) => Prepared::binary(bytes.to_vec()),
        };
        conn.publish(TOPIC, &message).expect("room");
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let driver: DriverChoice = arguments.next().ok_or("uring|epoll PORT")?.parse()?;
    let port = arguments.next().ok_or("uring|epoll PORT")?;
    let addr: ListenAddr = format!("127.0.0.1:{port}").parse()?;
    let how = arguments.next();
    let topic = how.as_deref() == Some("topic");
    // Without cores, whoever starts it pins it.
    let cores: Vec<usize> = match how.filter(|_| !topic) {
        Some(cores) => cores.split(',').map(str::parse).collect::<Result<_, _>>()?,
        None => Vec::new(),
    };
    let shards = cores.len().max(1);
    let compression = Compression::Deflate(DeflateConfig::default());
    let server = Server::builder()
        .listen(addr)
        .driver(driver)
        .shards(shards)
        .cores(cores)
        .compression(compression)
        .bind()?;
    Ok(if topic { server.run(|_shard| Topic) } else { server.run(|_shard| Echo) }?)
}
