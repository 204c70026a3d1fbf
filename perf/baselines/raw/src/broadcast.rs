//! The ceiling of sending to many: whatever arrives on any socket is sent to every socket, out of one
//! buffer. It is for peers that read what they are sent; one that does not ends the run.
//!
//! As a fan-out it speaks as much WebSocket as a publisher and its subscribers need: the handshake is
//! answered, and a client's frame becomes a server's before it is sent, once for all. A frame has to
//! come whole.

use super::handshake;
use io_uring::types::Fixed;
use io_uring::{IoUring, opcode};
use std::collections::HashSet;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

const MAX_SOCKETS: u32 = 20_000;
/// Sends handed over with one system call.
const BATCH: usize = 1_024;

/// What the peers speak.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// Nothing: bytes.
    Bare,
    /// WebSocket.
    Frames,
}

/// Accepts, and hands whatever comes to `send_to_all`, with all who are there and whether these have changed.
fn serve(
    listener: &TcpListener,
    wire: Wire,
    mut send_to_all: impl FnMut(&[i32], bool, &[u8]),
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = listener.as_raw_fd();
    // SAFETY: no memory is involved.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    handshake::watch(epoll, listener);
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 1_024];
    let mut buffer = vec![0_u8; 1 << 20];
    let (mut sockets, mut greeted, mut changed) = (Vec::new(), HashSet::new(), false);
    loop {
        // SAFETY: the kernel writes at most as many events as there is room for.
        let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as i32, -1) };
        for event in &events[..count.max(0) as usize] {
            let fd = event.u64 as i32;
            if fd == listener {
                if let Some(fd) = accept(epoll, listener)
                    && wire == Wire::Bare
                {
                    sockets.push(fd);
                    changed = true;
                }
                continue;
            }
            // SAFETY: the kernel writes at most the buffer's length.
            let len = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            let bytes = &mut buffer[..len.max(0) as usize];
            let stays = match wire {
                Wire::Bare if bytes.is_empty() => return Ok(()),
                _ if bytes.is_empty() => false,
                Wire::Bare => {
                    send_to_all(&sockets, std::mem::take(&mut changed), bytes);
                    true
                }
                Wire::Frames if !greeted.contains(&fd) => {
                    let answered = handshake::answer_opening(fd, bytes);
                    if answered {
                        greeted.insert(fd);
                        sockets.push(fd);
                        changed = true;
                    }
                    answered
                }
                Wire::Frames => each_frame(bytes, |frame| {
                    send_to_all(&sockets, std::mem::take(&mut changed), frame);
                }),
            };
            if !stays {
                greeted.remove(&fd);
                sockets.retain(|socket| *socket != fd);
                changed = true;
                // SAFETY: the descriptor is ours and not used again.
                unsafe { libc::close(fd) };
            }
        }
    }
}

fn accept(epoll: i32, listener: i32) -> Option<i32> {
    let (null, flags) = (std::ptr::null_mut(), libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
    // SAFETY: no address is asked for.
    let fd = unsafe { libc::accept4(listener, null, std::ptr::null_mut(), flags) };
    (fd >= 0).then(|| {
        super::set_nodelay(fd);
        handshake::watch(epoll, fd);
        fd
    })
}

/// Makes clients' frames a server's, in place. False for a Close frame, or the end of the connection.
fn each_frame(mut bytes: &mut [u8], mut act: impl FnMut(&[u8])) -> bool {
    loop {
        let (first, second) = (bytes[0], bytes[1] & 0x7f);
        if first & 0xf == 8 {
            return false;
        }
        let (head, len) = match second {
            127 => (10, u64::from_be_bytes(bytes[2..10].try_into().expect("eight")) as usize),
            126 => (4, u16::from_be_bytes([bytes[2], bytes[3]]).into()),
            _ => (2, second.into()),
        };
        let (frame, rest) = bytes.split_at_mut(head + 4 + len);
        let mask: [u8; 4] = frame[head..head + 4].try_into().expect("four");
        frame[head + 4..].iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        frame.copy_within(..head, 4);
        frame[5] = second;
        act(&frame[4..]);
        if rest.is_empty() {
            return true;
        }
        bytes = rest;
    }
}

/// One send(2) after the other.
pub fn epoll(listener: &TcpListener, wire: Wire) -> io::Result<()> {
    serve(listener, wire, |sockets, _, bytes| {
        for &fd in sockets {
            // SAFETY: the kernel reads at most the slice.
            let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
            assert!(sent == bytes.len() as isize, "a peer does not read");
        }
    })
}

/// Many sends in one io_uring_enter(2), on descriptors of the ring.
pub fn uring(listener: &TcpListener, wire: Wire) -> io::Result<()> {
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all()
        .build(BATCH as u32)?;
    ring.submitter().register_files_sparse(MAX_SOCKETS)?;
    serve(listener, wire, |sockets, changed, bytes| {
        if changed {
            ring.submitter().register_files_update(0, sockets).expect("descriptors");
        }
        for first in (0..sockets.len()).step_by(BATCH) {
            let count = BATCH.min(sockets.len() - first);
            for index in first..first + count {
                let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
                let send = opcode::Send::new(Fixed(index as u32), bytes.as_ptr(), bytes.len() as u32);
                // SAFETY: the bytes outlive the send, whose completion is awaited below.
                unsafe { ring.submission().push(&send.flags(flags).build()) }.expect("room for a batch");
            }
            ring.submit_and_wait(count).expect("submission");
            for completion in ring.completion() {
                assert!(completion.result() == bytes.len() as i32, "a peer is gone");
            }
        }
    })
}
