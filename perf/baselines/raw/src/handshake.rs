//! The ceiling of connections that come and go: accept, read, write, and once more for the two Close
//! frames, in as few system calls as epoll allows. Nothing is parsed: the first read is the request,
//! whose key stands where the header's name ends, and whatever comes second is the Close frame. The
//! answer's digest (one SHA-1 of 60 bytes) is the only work, as clients check it.

use sha1::{Digest, Sha1};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

const KEY_HEADER: &[u8] = b"sec-websocket-key: ";
const KEY_BYTES: usize = 24;
const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const HEAD: &[u8] =
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: ";
/// FIN, Close, two bytes: 1000.
const CLOSE: [u8; 4] = [0x88, 2, 3, 0xe8];

pub fn run(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = listener.as_raw_fd();
    // SAFETY: no memory is involved.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    watch(epoll, listener);
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 1_024];
    let mut answered = Vec::new();
    loop {
        // SAFETY: the kernel writes at most as many events as there is room for.
        let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as i32, -1) };
        for event in &events[..count.max(0) as usize] {
            let fd = event.u64 as i32;
            if fd == listener {
                accept(epoll, listener, &mut answered);
            } else if !answer(fd, &mut answered[fd as usize]) {
                // SAFETY: the descriptor is ours and not used again.
                unsafe { libc::close(fd) };
            }
        }
    }
}

pub fn watch(epoll: i32, fd: i32) {
    let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: fd as u64 };
    // SAFETY: the event outlives the call.
    unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) };
}

pub fn accept(epoll: i32, listener: i32, answered: &mut Vec<bool>) {
    loop {
        let (no_address, flags) = (std::ptr::null_mut(), libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
        // SAFETY: no address is asked for.
        let fd = unsafe { libc::accept4(listener, no_address, std::ptr::null_mut(), flags) };
        if fd < 0 {
            return;
        }
        super::set_nodelay(fd);
        if answered.len() <= fd as usize {
            answered.resize(fd as usize + 1, false);
        }
        answered[fd as usize] = false;
        watch(epoll, fd);
    }
}

/// False when the connection is over.
fn answer(fd: i32, answered: &mut bool) -> bool {
    let mut buffer = [0_u8; 2_048];
    // SAFETY: the kernel writes at most the buffer's length.
    let len = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    let Ok(len @ 1..) = usize::try_from(len) else { return false };
    if std::mem::replace(answered, true) {
        send(fd, &CLOSE);
        return false;
    }
    answer_opening(fd, &buffer[..len])
}

/// Answers a request; false if it is none.
pub fn answer_opening(fd: i32, request: &[u8]) -> bool {
    let Some(key) = key(request) else { return false };
    let digest = Sha1::new().chain_update(key).chain_update(GUID).finalize();
    let mut response = [0_u8; HEAD.len() + 28 + 4];
    response[..HEAD.len()].copy_from_slice(HEAD);
    base64(&digest, &mut response[HEAD.len()..]);
    response[HEAD.len() + 28..].copy_from_slice(b"\r\n\r\n");
    send(fd, &response)
}

fn key(request: &[u8]) -> Option<&[u8]> {
    let at = request.windows(KEY_HEADER.len()).position(|part| part.eq_ignore_ascii_case(KEY_HEADER))?;
    request.get(at + KEY_HEADER.len()..)?.get(..KEY_BYTES)
}

/// Twenty bytes as 28 characters.
fn base64(bytes: &[u8], out: &mut [u8]) {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (three, four) in bytes.chunks(3).zip(out.chunks_mut(4)) {
        let bits = three.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - three.len()));
        for (n, digit) in four.iter_mut().enumerate() {
            *digit = if n > three.len() { b'=' } else { DIGITS[(bits >> (18 - 6 * n) & 63) as usize] };
        }
    }
}

fn send(fd: i32, bytes: &[u8]) -> bool {
    // SAFETY: the kernel reads at most the slice.
    let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    sent == bytes.len() as isize
}
