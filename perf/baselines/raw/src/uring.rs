//! One ring: multishot accept and receive, sends out of the received buffers, which go back to the
//! kernel when they are sent. One send per connection is in flight; the next buffers wait in order.

use io_uring::squeue::Entry;
use io_uring::types::{BufRingEntry, Fd};
use io_uring::{IoUring, cqueue, opcode};
use std::collections::VecDeque;
use std::io;
use std::net::TcpListener;
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU16, Ordering};

const ACCEPT: u64 = 1 << 32;
const RECEIVE: u64 = 2 << 32;
const SEND: u64 = 3 << 32;
const GROUP: u16 = 0;

#[derive(Clone, Default)]
struct Connection {
    /// Buffer and bytes received and not sent yet; the first is in flight.
    queue: VecDeque<(u16, u32)>,
    starved: bool,
    over: bool,
}

/// The provided buffers: the ring's entries and the memory behind them.
struct Buffers {
    entries: *mut BufRingEntry,
    memory: *mut u8,
    bytes: u32,
    mask: u16,
    tail: u16,
}

fn map(bytes: usize) -> *mut u8 {
    let protection = libc::PROT_READ | libc::PROT_WRITE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    // SAFETY: a fresh anonymous mapping, kept until the process ends.
    let at = unsafe { libc::mmap(std::ptr::null_mut(), bytes, protection, flags, -1, 0) };
    assert!(at != libc::MAP_FAILED, "out of memory");
    at.cast()
}

impl Buffers {
    fn new(count: u16, bytes: u32) -> Self {
        assert!(count.is_power_of_two(), "BUFFERS must be a power of two");
        let entries = map(usize::from(count) * size_of::<BufRingEntry>()).cast();
        let memory = map(usize::from(count) * bytes as usize);
        let mut this = Self { entries, memory, bytes, mask: count - 1, tail: 0 };
        (0..count).for_each(|index| this.publish(index));
        this.commit();
        this
    }

    fn at(&self, index: u16) -> *mut u8 {
        // SAFETY: the kernel names only buffers it was given.
        unsafe { self.memory.add(usize::from(index) * self.bytes as usize) }
    }

    fn publish(&mut self, index: u16) {
        let address = self.at(index) as u64;
        // SAFETY: the index is masked to the ring, and no more buffers exist than entries.
        let entry = unsafe { &mut *self.entries.add(usize::from(self.tail & self.mask)) };
        entry.set_addr(address);
        entry.set_len(self.bytes);
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
    }

    fn commit(&self) {
        // SAFETY: the tail lies in the first entry; only this thread writes it.
        let tail = unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries).cast_mut()) };
        tail.store(self.tail, Ordering::Release);
    }
}

struct Echo {
    ring: IoUring,
    buffers: Buffers,
    connections: Vec<Connection>,
    starved: Vec<i32>,
}

pub fn run(listener: &TcpListener, count: u16, bytes: u32) -> io::Result<()> {
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all()
        .setup_cqsize(16_384)
        .build(4_096)?;
    let buffers = Buffers::new(count, bytes);
    // SAFETY: both mappings live as long as the process.
    unsafe { ring.submitter().register_buf_ring_with_flags(buffers.entries as u64, count, GROUP, 0)? };
    let mut echo = Echo { ring, buffers, connections: Vec::new(), starved: Vec::new() };
    let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).build().user_data(ACCEPT);
    echo.push(accept.clone());
    loop {
        echo.ring.submit_and_wait(1)?;
        while let Some(completion) = { echo.ring.completion().next() } {
            echo.completed(&completion, &accept);
        }
        echo.buffers.commit();
        for fd in std::mem::take(&mut echo.starved) {
            echo.receive(fd);
        }
    }
}

impl Echo {
    fn push(&mut self, entry: Entry) {
        // SAFETY: what entries point to lives as long as the process.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.ring.submit().expect("submission");
        }
    }

    fn receive(&mut self, fd: i32) {
        self.connections[fd as usize].starved = false;
        self.push(opcode::RecvMulti::new(Fd(fd), GROUP).build().user_data(RECEIVE | fd as u64));
    }

    /// Sends the first of the connection's queue.
    fn send(&mut self, fd: i32) {
        let Some(&(index, len)) = self.connections[fd as usize].queue.front() else { return };
        let flags = libc::MSG_NOSIGNAL | libc::MSG_WAITALL;
        let send = opcode::Send::new(Fd(fd), self.buffers.at(index), len).flags(flags);
        self.push(send.build().user_data(SEND | fd as u64));
    }

    fn completed(&mut self, completion: &cqueue::Entry, accept: &Entry) {
        let (kind, fd) = (completion.user_data() & !0xffff_ffff, completion.user_data() as i32);
        let last = !cqueue::more(completion.flags());
        match kind {
            ACCEPT => {
                if completion.result() >= 0 {
                    self.accepted(completion.result());
                }
                if last {
                    self.push(accept.clone());
                }
            }
            RECEIVE => {
                if let Some(index) = cqueue::buffer_select(completion.flags()) {
                    self.received(fd, index, completion.result());
                }
                if last {
                    self.receive_ended(fd, completion.result());
                }
            }
            _ => self.sent(fd, completion.result()),
        }
    }

    fn accepted(&mut self, fd: i32) {
        super::set_nodelay(fd);
        if self.connections.len() <= fd as usize {
            self.connections.resize(fd as usize + 1, Connection::default());
        }
        self.connections[fd as usize] = Connection::default();
        self.receive(fd);
    }

    fn received(&mut self, fd: i32, index: u16, result: i32) {
        if result <= 0 {
            return self.buffers.publish(index);
        }
        let queue = &mut self.connections[fd as usize].queue;
        queue.push_back((index, result as u32));
        if queue.len() == 1 {
            self.send(fd);
        }
    }

    fn receive_ended(&mut self, fd: i32, result: i32) {
        let connection = &mut self.connections[fd as usize];
        match result {
            1.. => self.receive(fd),
            _ if result == -libc::ENOBUFS => {
                connection.starved = true;
                // With nothing on its way of its own, the next turn tries again.
                if connection.queue.is_empty() {
                    self.starved.push(fd);
                }
            }
            _ => {
                connection.over = true;
                self.close_when_sent(fd);
            }
        }
    }

    fn sent(&mut self, fd: i32, result: i32) {
        let connection = &mut self.connections[fd as usize];
        let Some((index, len)) = connection.queue.pop_front() else { return };
        if result != len as i32 {
            // A broken connection: what is left goes back unsent.
            connection.over = true;
            for (index, _) in std::mem::take(&mut connection.queue) {
                self.buffers.publish(index);
            }
        }
        self.buffers.publish(index);
        self.send(fd);
        if self.connections[fd as usize].starved {
            self.buffers.commit();
            self.receive(fd);
        }
        self.close_when_sent(fd);
    }

    fn close_when_sent(&mut self, fd: i32) {
        let connection = &mut self.connections[fd as usize];
        if connection.over && connection.queue.is_empty() {
            connection.over = false;
            // SAFETY: the descriptor is ours, its receive has ended, and nothing of it is in flight.
            unsafe { libc::close(fd) };
        }
    }
}
