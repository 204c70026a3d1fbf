//! ringwire as an echo server, one thread: the library alone, as the others are measured. Clients that
//! offer compression get it, with the default settings; the others are served without.
//!
//! `baseline-ringwire uring|epoll PORT`

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
    // Whoever starts it pins it.
    let compression = Compression::Deflate(DeflateConfig::default());
    let server =
        Server::builder().listen(addr).driver(driver).shards(1).cores([]).compression(compression).bind()?;
    Ok(server.run(|_shard| Echo)?)
}
