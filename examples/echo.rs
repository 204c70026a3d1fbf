//! The smallest server: every message goes back. `cargo run --release --example echo`

use ringwire::{Conn, Handler, ListenAddr, Message, Request, Server, Upgrade};

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
    let addr: ListenAddr = "127.0.0.1:9001".parse()?;
    let server = Server::builder().listen(addr).bind()?;
    println!("ws://127.0.0.1:9001, driver {} ({})", server.driver(), server.driver_reason());
    Ok(server.run(|_shard| Echo)?)
}
