//! Where a server listens: IPv4, IPv6 and Unix sockets, several at once, over several shards.

use crate::peer::{Peer, bare, text, upgrade_request};
use crate::service::{Notes, Service};
use crate::stage::{On, run};
use ringwire::{DriverChoice, ListenAddr, Server};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

fn serves_every_kind_of_address(on: On) {
    let folder = std::env::temp_dir().join(format!("ringwire-suite-{}-{on:?}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    let path = folder.join("suite.sock");
    let driver = if on == On::Uring { DriverChoice::Uring } else { DriverChoice::Epoll };
    let v4: ListenAddr = "127.0.0.1:0".parse().unwrap();
    let v6: ListenAddr = "[::1]:0".parse().unwrap();
    let builder = Server::builder().listen(v4).listen(ListenAddr::Unix(path.clone()));
    // Where there is no IPv6, the others are served all the same.
    let with_v6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    let builder = if with_v6 { builder.listen(v6) } else { builder };
    let server = builder.driver(driver).shards(2).cores([]).bind().unwrap();
    let addrs = server.local_addrs().to_vec();
    let (handle, remote, notes) = (server.handle(), server.remote(), Notes::default());
    let for_handlers = notes.clone();
    let thread = std::thread::spawn(move || server.run(|info| Service::new(info, for_handlers.clone())));
    for addr in &addrs {
        match addr {
            ListenAddr::Tcp(addr) => {
                let mut peer = Peer::tcp(*addr);
                peer.upgrade("/");
                peer.send(&text("!peer"));
                let (_, seen) = peer.next_frame();
                let seen: std::net::SocketAddr = String::from_utf8(seen).unwrap().parse().unwrap();
                assert_eq!(seen.ip(), addr.ip());
                peer.bye();
            }
            ListenAddr::Unix(path) => {
                let mut stream = UnixStream::connect(path).unwrap();
                stream.write_all(upgrade_request("/", "").as_bytes()).unwrap();
                stream.write_all(&text("!peer")).unwrap();
                let expected = bare(0x81, b"unix");
                let mut came = Vec::new();
                while !came.ends_with(&expected) {
                    let mut byte = [0];
                    stream.read_exact(&mut byte).unwrap();
                    came.push(byte[0]);
                }
                let mut metrics = String::new();
                remote.write_metrics(&mut metrics);
                assert!(metrics.contains("transport=\"unix\",state=\"open\"} 1\n"));
            }
        }
    }
    handle.stop();
    thread.join().unwrap().unwrap();
    assert!(!path.exists(), "the socket's file is gone with its server");
    std::fs::remove_dir_all(&folder).unwrap();
}

#[test]
fn uring_serves_every_kind_of_address() {
    run(On::Uring, serves_every_kind_of_address);
}

#[test]
fn epoll_serves_every_kind_of_address() {
    serves_every_kind_of_address(On::Epoll);
}
