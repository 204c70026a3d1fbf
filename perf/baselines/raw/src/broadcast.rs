//! The ceiling of sending to many: whatever arrives on any socket is sent to every socket, out of one
//! buffer. It is for peers that read what they are sent; one that does not ends the run.

use io_uring::types::Fixed;
use io_uring::{IoUring, opcode};
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

const MAX_SOCKETS: u32 = 20_000;
/// Sends handed over with one system call.
const BATCH: usize = 1_024;

/// Accepts, and hands whatever comes to `send_to_all`.
fn serve(listener: &TcpListener, mut send_to_all: impl FnMut(&[i32], &[u8])) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = listener.as_raw_fd();
    // SAFETY: no memory is involved.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    let watch = |fd: i32| {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: fd as u64 };
        // SAFETY: the event outlives the call.
        unsafe { libc::epoll_ctl(epoll, libc::EPOLL_CTL_ADD, fd, &raw mut event) };
    };
    watch(listener);
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 1_024];
    let mut buffer = vec![0_u8; 1 << 20];
    let mut sockets = Vec::new();
    loop {
        // SAFETY: the kernel writes at most as many events as there is room for.
        let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as i32, -1) };
        for event in &events[..count.max(0) as usize] {
            let fd = event.u64 as i32;
            if fd == listener {
                let (null, flags) = (std::ptr::null_mut(), libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
                // SAFETY: no address is asked for.
                let fd = unsafe { libc::accept4(listener, null, std::ptr::null_mut(), flags) };
                if fd >= 0 {
                    super::set_nodelay(fd);
                    watch(fd);
                    sockets.push(fd);
                }
                continue;
            }
            // SAFETY: the kernel writes at most the buffer's length.
            let len = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            if len <= 0 {
                return Ok(());
            }
            send_to_all(&sockets, &buffer[..len as usize]);
        }
    }
}

/// One send(2) after the other.
pub fn epoll(listener: &TcpListener) -> io::Result<()> {
    serve(listener, |sockets, bytes| {
        for &fd in sockets {
            // SAFETY: the kernel reads at most the slice.
            let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
            assert!(sent == bytes.len() as isize, "a peer does not read");
        }
    })
}

/// Many sends in one io_uring_enter(2), on descriptors of the ring.
pub fn uring(listener: &TcpListener) -> io::Result<()> {
    let mut ring: IoUring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all()
        .build(BATCH as u32)?;
    ring.submitter().register_files_sparse(MAX_SOCKETS)?;
    let mut registered = 0;
    serve(listener, |sockets, bytes| {
        if registered < sockets.len() {
            let fresh = &sockets[registered..];
            ring.submitter().register_files_update(registered as u32, fresh).expect("descriptors");
            registered = sockets.len();
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
