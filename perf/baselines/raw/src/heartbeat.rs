//! The ceiling of heartbeats: every connection gets a ping of WebSocket once in an interval, spread evenly, and
//! what it answers is read. Pings leave 64 at a time, as a wake-up of the peer's thread is dearer than a ping.

use super::handshake;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

const PING: [u8; 2] = [0x89, 0];
const BATCH: u64 = 64;

pub fn run(listener: &TcpListener, interval: Duration) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = listener.as_raw_fd();
    // SAFETY: no memory is involved.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    handshake::watch(epoll, listener);
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 1_024];
    let mut buffer = [0_u8; 4_096];
    let mut is_open = Vec::new();
    // Whoever has had a handshake, also if gone since: it is for peers that stay.
    let mut open: Vec<i32> = Vec::new();
    let (mut sent, mut began) = (0_u64, Instant::now());
    loop {
        let batch = interval.checked_div(open.len() as u32).map_or(interval, |each| each * BATCH as u32);
        let wait = batch.saturating_sub(began.elapsed()).as_micros().div_ceil(1_000) as i32;
        // SAFETY: the kernel writes at most as many events as there is room for.
        let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as i32, wait) };
        for event in &events[..count.max(0) as usize] {
            let fd = event.u64 as i32;
            if fd == listener {
                handshake::accept(epoll, listener, &mut is_open);
                continue;
            }
            // SAFETY: the kernel writes at most the buffer's length.
            let len = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            if len <= 0 {
                return Ok(());
            }
            if !is_open[fd as usize] && handshake::answer_opening(fd, &buffer[..len as usize]) {
                is_open[fd as usize] = true;
                open.push(fd);
            }
        }
        if began.elapsed() < batch || open.is_empty() {
            continue;
        }
        began += batch;
        for _ in 0..BATCH {
            let fd = open[(sent % open.len() as u64) as usize];
            sent += 1;
            // SAFETY: the kernel reads at most the slice.
            unsafe { libc::send(fd, PING.as_ptr().cast(), PING.len(), libc::MSG_NOSIGNAL) };
        }
    }
}
