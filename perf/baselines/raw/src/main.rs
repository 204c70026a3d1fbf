//! The ceiling of every echo on this host: bytes in, the same bytes out, no protocol.
//!
//! `baseline-raw epoll PORT` reads into one hot buffer and writes at once.
//! `baseline-raw uring PORT [BUFFERS] [BYTES]` receives multishot into a provided-buffer ring and
//! sends out of the very buffers, one system call per turn.
//! `baseline-raw handshake PORT` answers an opening and a closing handshake without reading them.
//! `baseline-raw heartbeat PORT [MS]` pings every connection once in so many milliseconds (4,000).
//! `baseline-raw broadcast-epoll|broadcast-uring PORT` sends whatever arrives to every socket.
//! `baseline-raw fanout-epoll|fanout-uring PORT` does so with the messages of WebSocket clients.
//! `baseline-raw distance CORE CORE` is no server: it prints how many nanoseconds a write takes there and back.
//! `baseline-raw pace CORE` neither: it prints how many picoseconds a step takes that waits for nothing.
#![allow(unsafe_code, reason = "system calls, and memory shared with the kernel")]

mod broadcast;
mod cores;
mod epoll;
mod handshake;
mod heartbeat;
mod uring;

use broadcast::Wire;
use std::net::TcpListener;
use std::time::Duration;

fn main() -> std::io::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let how = arguments.next().unwrap_or_default();
    let mut number = || arguments.next().and_then(|text| text.parse::<u32>().ok());
    if how == "distance" {
        let mut core = || number().expect("two cores") as usize;
        cores::distance(core(), core());
        return Ok(());
    }
    if how == "pace" {
        cores::pace(number().expect("a core") as usize);
        return Ok(());
    }
    let port = number().expect("a way and a port") as u16;
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    // SAFETY: no memory is involved. A longer backlog than the library's 128, for ramps.
    unsafe { libc::listen(std::os::fd::AsRawFd::as_raw_fd(&listener), 4_096) };
    match &*how {
        "epoll" => epoll::run(&listener),
        "uring" => uring::run(&listener, number().unwrap_or(1_024) as u16, number().unwrap_or(64 << 10)),
        "handshake" => handshake::run(&listener),
        "heartbeat" => heartbeat::run(&listener, Duration::from_millis(number().unwrap_or(4_000).into())),
        "broadcast-epoll" => broadcast::epoll(&listener, Wire::Bare),
        "broadcast-uring" => broadcast::uring(&listener, Wire::Bare),
        "fanout-epoll" => broadcast::epoll(&listener, Wire::Frames),
        "fanout-uring" => broadcast::uring(&listener, Wire::Frames),
        _ => panic!("epoll, uring, handshake, heartbeat, or broadcast or fanout with -epoll or -uring"),
    }
}

/// TCP_NODELAY, as every server here sets it.
fn set_nodelay(fd: i32) {
    let one = 1_i32;
    // SAFETY: the option's value is an int that outlives the call.
    unsafe {
        libc::setsockopt(
            fd,
            libc::IPPROTO_TCP,
            libc::TCP_NODELAY,
            (&raw const one).cast(),
            size_of::<i32>() as u32,
        );
    }
}
