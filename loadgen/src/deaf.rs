//! Connections that are there and read nothing: who is slow must cost the others nothing.
//!
//! They open and hold their sockets without a worker, and have so little room for what they are sent
//! that the server soon has to keep it, or to drop it, or them.

use crate::attack::peer;
use crate::target::{Target, advice};
use rustix::net::{AddressFamily, SocketType, connect, socket, sockopt};
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// What the kernel keeps for such a connection, about.
const RECEIVE_BUFFER_BYTES: usize = 4 << 10;
const PATIENCE: Duration = Duration::from_secs(10);

/// Opens so many, each of which sends the `greeting`. They end when they are dropped.
///
/// # Errors
/// In words, if one of them cannot be opened.
pub fn open(count: u64, target: &Target, greeting: Option<&str>) -> Result<Vec<TcpStream>, String> {
    let each = |_| {
        open_one(target, greeting).map_err(|error| {
            format!("{target}: a deaf connection cannot be opened: {error}{}", advice(&error))
        })
    };
    (0..count).map(each).collect()
}

fn open_one(target: &Target, greeting: Option<&str>) -> io::Result<TcpStream> {
    let family = if target.addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let fd = socket(family, SocketType::STREAM, None)?;
    // Before it connects: the window that is offered depends on it.
    sockopt::set_socket_recv_buffer_size(&fd, RECEIVE_BUFFER_BYTES)?;
    connect(&fd, &target.addr)?;
    let mut stream = TcpStream::from(fd);
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(peer::upgrade_request(target, "").as_bytes())?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.push(byte[0]);
    }
    if !head.starts_with(b"HTTP/1.1 101 ") {
        return Err(io::Error::other("the server does not upgrade"));
    }
    if let Some(text) = greeting {
        stream.write_all(&peer::text(text))?;
    }
    Ok(stream)
}
