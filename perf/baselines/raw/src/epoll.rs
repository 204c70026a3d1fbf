//! Level-triggered epoll, one read and one write per readiness. What the socket does not take waits,
//! and reading waits with it.

use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;

const BUFFER_BYTES: usize = 256 << 10;

pub fn run(listener: &TcpListener) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = listener.as_raw_fd();
    // SAFETY: no memory is involved.
    let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
    control(epoll, libc::EPOLL_CTL_ADD, listener, libc::EPOLLIN);
    let mut events = vec![libc::epoll_event { events: 0, u64: 0 }; 1_024];
    let mut buffer = vec![0_u8; BUFFER_BYTES];
    let mut unsent: Vec<Vec<u8>> = Vec::new();
    loop {
        // SAFETY: the kernel writes at most as many events as there is room for.
        let count = unsafe { libc::epoll_wait(epoll, events.as_mut_ptr(), events.len() as i32, -1) };
        for event in &events[..count.max(0) as usize] {
            let fd = event.u64 as i32;
            if fd == listener {
                accept(epoll, listener, &mut unsent);
                continue;
            }
            let waiting = &mut unsent[fd as usize];
            let open = match waiting.is_empty() {
                true => echo(epoll, fd, &mut buffer, waiting),
                false => resume(epoll, fd, waiting),
            };
            if !open {
                waiting.clear();
                // SAFETY: the descriptor is ours and not used again.
                unsafe { libc::close(fd) };
            }
        }
    }
}

fn control(epoll: i32, operation: i32, fd: i32, events: i32) {
    let mut event = libc::epoll_event { events: events as u32, u64: fd as u64 };
    // SAFETY: the event outlives the call.
    unsafe { libc::epoll_ctl(epoll, operation, fd, &raw mut event) };
}

fn accept(epoll: i32, listener: i32, unsent: &mut Vec<Vec<u8>>) {
    loop {
        let (no_address, flags) = (std::ptr::null_mut(), libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC);
        // SAFETY: no address is asked for.
        let fd = unsafe { libc::accept4(listener, no_address, std::ptr::null_mut(), flags) };
        if fd < 0 {
            return;
        }
        super::set_nodelay(fd);
        if unsent.len() <= fd as usize {
            unsent.resize(fd as usize + 1, Vec::new());
        }
        control(epoll, libc::EPOLL_CTL_ADD, fd, libc::EPOLLIN);
    }
}

/// False when the connection is over.
fn echo(epoll: i32, fd: i32, buffer: &mut [u8], waiting: &mut Vec<u8>) -> bool {
    // SAFETY: the kernel writes at most the buffer's length.
    let len = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), 0) };
    let Ok(len) = usize::try_from(len) else {
        return io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock;
    };
    let Some(sent) = send(fd, &buffer[..len]) else { return false };
    if sent < len {
        waiting.extend_from_slice(&buffer[sent..len]);
        control(epoll, libc::EPOLL_CTL_MOD, fd, libc::EPOLLOUT);
    }
    len > 0
}

fn resume(epoll: i32, fd: i32, waiting: &mut Vec<u8>) -> bool {
    let Some(sent) = send(fd, waiting) else { return false };
    waiting.drain(..sent);
    if waiting.is_empty() {
        control(epoll, libc::EPOLL_CTL_MOD, fd, libc::EPOLLIN);
    }
    true
}

/// Bytes taken, or `None` when the connection is broken.
fn send(fd: i32, bytes: &[u8]) -> Option<usize> {
    // SAFETY: the kernel reads at most the slice.
    let sent = unsafe { libc::send(fd, bytes.as_ptr().cast(), bytes.len(), libc::MSG_NOSIGNAL) };
    match usize::try_from(sent) {
        Ok(sent) => Some(sent),
        Err(_) => (io::Error::last_os_error().kind() == io::ErrorKind::WouldBlock).then_some(0),
    }
}
