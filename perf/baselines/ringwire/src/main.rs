//! ringwire as an echo server, one thread: the library alone, as the others are measured. Clients that
//! offer compression get it, with the default settings; the others are served without.
//!
//! `baseline-ringwire uring|epoll PORT [CORES]`: with cores, as in 0,1, a thread pinned to each, which gets the
//! connections that come in on its core.
//! `baseline-ringwire uring|epoll PORT topic`: no echo; everyone listens to one topic, and what anyone sends
//! is published there.
//! `baseline-ringwire uring|epoll PORT tls CERT KEY`: within TLS, the certificate and its key in PEM.

use ringwire::{
    Compression, Conn, DeflateConfig, DriverChoice, Handler, ListenAddr, Message, Prepared, Request, Server,
    TlsConfig, Upgrade,
};
use std::path::Path;

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
    // Without cores, whoever starts it pins it.
    let rest: Vec<String> = arguments.collect();
    let rest: Vec<&str> = rest.iter().map(String::as_str).collect();
    let topic = rest == ["topic"];
    let mut cores: Vec<usize> = Vec::new();
    let builder = match rest[..] {
        [] | ["topic"] => Server::builder().listen(addr),
        ["tls", chain, key] => {
            let tls = TlsConfig::builder().certificate(Path::new(chain), Path::new(key)).build()?;
            Server::builder().listen_tls(addr, tls)
        }
        [list] => {
            cores = list.split(',').map(str::parse).collect::<Result<_, _>>()?;
            Server::builder().listen(addr)
        }
        _ => return Err("uring|epoll PORT [CORES | topic | tls CERT KEY]".into()),
    };
    let shards = cores.len().max(1);
    let builder = builder.incoming_cpu(!cores.is_empty());
    let compression = Compression::Deflate(DeflateConfig::default());
    let server = builder.driver(driver).shards(shards).cores(cores).compression(compression).bind()?;
    Ok(if topic { server.run(|_shard| Topic) } else { server.run(|_shard| Echo) }?)
}
