//! ringwire as an echo server, one thread: the library alone, as the others are measured. Clients that
//! offer compression get it, with the default settings; the others are served without.
//!
//! `baseline-ringwire uring|epoll PORT [CORES]`: with cores, as in 0,1, a thread pinned to each.

use ringwire::{
    Compression, Conn, DeflateConfig, DriverChoice, Handler, ListenAddr, Message, Request, Server, Upgrade,
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

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let driver: DriverChoice = arguments.next().ok_or("uring|epoll PORT")?.parse()?;
    let port = arguments.next().ok_or("uring|epoll PORT")?;
    let addr: ListenAddr = format!("127.0.0.1:{port}").parse()?;
    // Without cores, whoever starts it pins it.
    let cores: Vec<usize> = match arguments.next() {
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
    Ok(server.run(|_shard| Echo)?)
}
