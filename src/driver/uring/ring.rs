//! The ring and all memory it has been lent: law 6 lives here.
//!
//! A leaf: it pushes submissions whose pointers lead only into what it owns itself (send buffers,
//! socket addresses, the eventfd's counter, receive buffers), and gives none of it away before the
//! terminal completion. Dropping it cancels what is in flight, reaps it, closes the ring, and only
//! then frees.
#![allow(unsafe_code, reason = "submission entries carry pointers; raw io_uring_enter for a registered ring")]

use io_uring::squeue::{Entry, Flags};
use io_uring::types::{CancelBuilder, DestinationSlot, Fd, Fixed, Timespec};
use io_uring::{IoUring, cqueue, opcode};
use slab::Slab;
use std::collections::VecDeque;
use std::io;
use std::mem::ManuallyDrop;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use super::buffers::{Buffers, INCREMENTAL};
use super::port::{Target, UringSocket};
use super::sends::{Sending, Source, Unreported};
use crate::driver::sys::{self, RawAddr};
use crate::driver::{PeerAddr, SendBuf};

/// Submissions between two system calls; more only means one more call. 64 bytes each.
/// Tests run with so few of both that every queue is full at times. A shard that has its core to itself
/// gets the larger numbers; of those that share one, each gets its part, down to the smaller: 196 KiB
/// for each of 56 shards were 11 bytes for each of a million connections.
const SUBMISSIONS: (u32, u32) = if cfg!(test) { (32, 32) } else { (256, 1_024) };
/// Completions before the kernel has to keep them in a list of its own. 16 bytes each.
const COMPLETIONS: (u32, u32) = if cfg!(test) { (64, 64) } else { (2_048, 8_192) };
/// One send asks for at most this much; `len` of a submission is 32 bits and the result signed.
const MAX_SEND_BYTES: usize = 1 << 30;

const BUFFER_GROUP: u16 = 0;

/// What the kernel says about an operation.
#[derive(Clone, Copy, Debug)]
pub(super) struct Completion {
    pub(super) tag: u64,
    /// Bytes or a descriptor; negative is an errno.
    pub(super) result: i32,
    flags: u32,
}

impl Completion {
    /// The same without `F_MORE`: the kernel may end a multishot with any completion.
    #[cfg(test)]
    pub(super) fn as_last(self) -> Self {
        Self { flags: self.flags & !2, ..self }
    }

    /// The operation is over; a multishot one would have to be armed again.
    pub(super) fn is_last(&self) -> bool {
        !cqueue::more(self.flags)
    }

    /// The buffer that was used, and whether more may follow into it.
    pub(super) fn buffer(&self) -> Option<(u16, bool)> {
        cqueue::buffer_select(self.flags).map(|index| (index, cqueue::buffer_more(self.flags)))
    }
}

struct Accepting {
    listener: RawFd,
    /// The place in the table that it accepts into.
    direct: Option<u32>,
    addr: RawAddr,
}

struct Connecting {
    socket: UringSocket,
    tag: u64,
    addr: RawAddr,
}

/// What the kernel may read or write until the operation's last completion.
struct Lent {
    sends: Slab<Sending>,
    #[expect(clippy::vec_box, reason = "their addresses are what the kernel was told")]
    accepts: Vec<Box<Accepting>>,
    connects: Slab<Box<Connecting>>,
    wake_counter: Box<u64>,
    buffers: Buffers,
}

pub(super) struct Ring {
    ring: ManuallyDrop<IoUring>,
    lent: ManuallyDrop<Lent>,
    /// Reaped and not popped, in order.
    reaped: VecDeque<Completion>,
    /// Did not fit into the submission queue, in order.
    backlog: VecDeque<Entry>,
    /// The ring's descriptor, or its index among the thread's registered rings.
    enter_fd: RawFd,
    enter_flags: u32,
    in_flight: u64,
    /// Submissions pushed, and of these taken by the last enter.
    pushed: u64,
    taken: u64,
    /// In the order pushed. Once one has been taken and its failure has not come, it has succeeded.
    unreported: VecDeque<Unreported>,
    no_sq_array: bool,
    /// `IORING_SETUP_TASKRUN_FLAG`: costs whoever makes data arrive an atomic operation.
    shows_task_work: bool,
    shares_buffers: bool,
}

impl Ring {
    /// A ring in the mode for one issuing thread, and its receive buffers.
    ///
    /// # Errors
    /// `EPERM` or `ENOSYS` where io_uring is denied, `EINVAL` before Linux 6.1, `ENOMEM` when
    /// memory is short.
    pub(super) fn new(
        receive_buffers: u16,
        receive_buffer_bytes: u32,
        incremental: bool,
        shards_per_core: u32,
        busy_poll: bool,
    ) -> io::Result<Self> {
        let part = |(least, most): (u32, u32)| (most / shards_per_core.max(1)).clamp(least, most);
        let (submissions, completions) = (part(SUBMISSIONS), part(COMPLETIONS));
        let (ring, no_sq_array) = match builder(completions, busy_poll).setup_no_sqarray().build(submissions)
        {
            Ok(ring) => (ring, true),
            // The flag is Linux 6.6's.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                (builder(completions, busy_poll).build(submissions)?, false)
            }
            Err(error) => return Err(error),
        };
        let lent = Lent {
            sends: Slab::new(),
            accepts: Vec::new(),
            connects: Slab::new(),
            wake_counter: Box::new(0),
            buffers: Buffers::new(receive_buffers, receive_buffer_bytes)?,
        };
        let mut this = Self {
            enter_fd: ring.as_raw_fd(),
            enter_flags: 0,
            ring: ManuallyDrop::new(ring),
            lent: ManuallyDrop::new(lent),
            reaped: VecDeque::new(),
            backlog: VecDeque::new(),
            in_flight: 0,
            pushed: 0,
            taken: 0,
            unreported: VecDeque::new(),
            no_sq_array,
            shows_task_work: busy_poll,
            shares_buffers: false,
        };
        this.shares_buffers = this.register_buffers(incremental)?;
        this.lent.buffers.start(this.shares_buffers);
        this.register_enter();
        Ok(this)
    }

    /// Registers the buffer ring; whether messages share buffers.
    fn register_buffers(&mut self, incremental: bool) -> io::Result<bool> {
        let (address, entries) = self.lent.buffers.registration();
        let register = |flags| {
            // SAFETY: the ring memory belongs to `lent`, which outlives the ring (see `drop`).
            unsafe {
                self.ring.submitter().register_buf_ring_with_flags(address, entries, BUFFER_GROUP, flags)
            }
        };
        if incremental && register(INCREMENTAL).is_ok() {
            return Ok(true);
        }
        register(0).map(|()| false)
    }

    /// Saves a lookup of the descriptor in every enter. Best effort: a thread has 16 of them.
    fn register_enter(&mut self) {
        let mut update = RingFdUpdate { offset: u32::MAX, resv: 0, data: self.ring.as_raw_fd() as u64 };
        if register_ring_fd(self.ring.as_raw_fd(), IORING_REGISTER_RING_FDS, &mut update) == 1 {
            self.enter_fd = update.offset as RawFd;
            self.enter_flags = IORING_ENTER_REGISTERED_RING;
        }
    }

    /// The ring as such, to look at.
    pub(super) fn io(&self) -> &IoUring {
        &self.ring
    }

    /// `IORING_SETUP_NO_SQARRAY` was taken.
    pub(super) fn has_no_sq_array(&self) -> bool {
        self.no_sq_array
    }

    /// Several messages may lie in one receive buffer.
    pub(super) fn shares_buffers(&self) -> bool {
        self.shares_buffers
    }

    /// The ring's descriptor is registered with the thread.
    pub(super) fn is_registered(&self) -> bool {
        self.enter_flags != 0
    }

    /// Makes a table for `count` direct descriptors.
    pub(super) fn register_direct(&self, count: u32) -> io::Result<()> {
        self.ring.submitter().register_files_sparse(count)
    }

    /// Puts an open file into a place of that table. The descriptor may be closed then.
    pub(super) fn install(&self, index: u32, fd: RawFd) -> io::Result<()> {
        self.ring.submitter().register_files_update(index, &[fd]).map(|_| ())
    }

    /// Submits what was pushed, and waits for one completion at least, up to `wait`.
    /// Returning early or for nothing is not an error.
    pub(super) fn enter(&mut self, wait: Option<Duration>) -> io::Result<()> {
        self.lent.buffers.commit();
        self.flush_backlog();
        let submit = self.ring.submission().len() as u32;
        let timeout = wait.map(|wait| Timespec::from(wait.min(sys::LONGEST)));
        let want = u32::from(wait != Some(Duration::ZERO) && self.backlog.is_empty());
        self.enter_raw(submit, want, timeout.as_ref())?;
        // What did not fit into the completion queue may be a failure.
        if !self.unreported.is_empty() && !self.overflowed() {
            self.taken = self.pushed - self.ring.submission().len() as u64;
        }
        Ok(())
    }

    fn enter_raw(&self, submit: u32, want: u32, timeout: Option<&Timespec>) -> io::Result<()> {
        // struct io_uring_getevents_arg: sigmask, its size, min_wait_usec, timespec.
        let argument = GeteventsArg {
            sigmask: 0,
            sigmask_bytes: 0,
            min_wait_us: 0,
            timespec: timeout.map_or(0, |timeout| (&raw const *timeout) as u64),
        };
        // GETEVENTS always: without it DEFER_TASKRUN runs no completions.
        let flags = self.enter_flags | IORING_ENTER_GETEVENTS | IORING_ENTER_EXT_ARG;
        // SAFETY: argument and timeout live across the call; what the submissions point to is
        // lent (see the push sites).
        let result = unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                submit,
                want,
                flags,
                &raw const argument,
                size_of::<GeteventsArg>(),
            )
        };
        if result >= 0 {
            return Ok(());
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Time is up, a signal came, or completions or memory must be freed first.
            Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN) => Ok(()),
            _ => Err(error),
        }
    }

    /// Whether an enter may bring completions: seen without a system call where the ring shows it. What completions led
    /// to, such as arming a receive again, has to be handed over before any follow.
    pub(super) fn has_news(&mut self) -> bool {
        !self.shows_task_work
            || !self.ring.submission().is_empty()
            || self.ring.submission().taskrun()
            || self.overflowed()
            || self.completions() > 0
    }

    /// Entries submitted, or about to be.
    pub(super) fn pushed(&self) -> u64 {
        self.pushed
    }

    /// Operations whose last completion has not been taken.
    #[cfg(test)]
    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Completions waiting now.
    pub(super) fn completions(&mut self) -> usize {
        self.ring.completion().len()
    }

    /// Whether the kernel keeps completions that did not fit.
    pub(super) fn overflowed(&mut self) -> bool {
        self.ring.submission().cq_overflow()
    }

    /// Whether no completion waits to be taken, here or with the kernel. Between two enters operations
    /// bring none, as `DEFER_TASKRUN` says.
    pub(super) fn is_quiet(&mut self) -> bool {
        self.reaped.is_empty() && self.completions() == 0 && !self.overflowed()
    }

    /// Takes all completions out of the kernel's queue, for [`Self::pop`]. `send_of` tells the key of the send
    /// that a tag belongs to, if it belongs to one.
    pub(super) fn reap(&mut self, send_of: impl Fn(u64) -> Option<u32>) {
        let looks = !self.unreported.is_empty();
        for entry in self.ring.completion() {
            let (tag, result, flags) = (entry.user_data(), entry.result(), entry.flags());
            self.reaped.push_back(Completion { tag, result, flags });
            if looks && let Some(sending) = send_of(tag).and_then(|key| self.lent.sends.get_mut(key as usize))
            {
                // One that was to be unreported has failed.
                sending.unreported = 0;
            }
        }
    }

    /// Takes the next completion of those reaped.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Completion> {
        let completion = self.reaped.pop_front()?;
        self.in_flight -= u64::from(completion.is_last());
        Some(completion)
    }

    /// Every operation goes through here. What its pointers lead to must be in `lent` and stay
    /// until its last completion.
    fn push(&mut self, entry: Entry, tag: u64) {
        let entry = entry.user_data(tag);
        self.in_flight += 1;
        if !self.backlog.is_empty() || self.try_push(&entry).is_err() {
            self.flush_backlog();
            if !self.backlog.is_empty() || self.try_push(&entry).is_err() {
                self.submit_now();
                self.backlog.push_back(entry);
                self.flush_backlog();
            }
        }
    }

    fn try_push(&mut self, entry: &Entry) -> Result<(), io_uring::squeue::PushError> {
        // SAFETY: the entry was made by one of the methods below, whose pointers lead into `lent`.
        unsafe { self.ring.submission().push(entry) }?;
        self.pushed += 1;
        Ok(())
    }

    fn flush_backlog(&mut self) {
        while let Some(entry) = self.backlog.pop_front() {
            if self.try_push(&entry).is_err() {
                self.backlog.push_front(entry);
                return;
            }
        }
    }

    /// The queue is full in the middle of a turn: hand it over without running completions.
    /// What the kernel does not take stays queued.
    fn submit_now(&mut self) {
        let submit = self.ring.submission().len() as u32;
        // SAFETY: as in `enter_raw`; no argument.
        unsafe {
            libc::syscall(
                libc::SYS_io_uring_enter,
                self.enter_fd,
                submit,
                0u32,
                self.enter_flags,
                std::ptr::null::<libc::c_void>(),
                0usize,
            )
        };
    }

    /// Multishot receive into the provided buffers.
    pub(super) fn push_receive(&mut self, target: Target, tag: u64) {
        let entry = opcode::RecvMulti::new(target.number(), BUFFER_GROUP).build();
        self.push(entry.flags(target.flags()), tag);
    }

    /// The same for one time.
    pub(super) fn push_receive_once(&mut self, target: Target, tag: u64) {
        let entry =
            opcode::Recv::new(target.number(), std::ptr::null_mut(), 0).buf_group(BUFFER_GROUP).build();
        self.push(entry.flags(target.flags() | Flags::BUFFER_SELECT), tag);
    }

    /// Completes, with a result above 0 and without a buffer, when a receive would not wait.
    pub(super) fn push_poll(&mut self, target: Target, tag: u64) {
        let entry = opcode::PollAdd::new(target.number(), (libc::POLLIN | libc::POLLRDHUP) as u32).build();
        self.push(entry.flags(target.flags()), tag);
    }

    /// Cancels the one operation with the tag `victim`.
    pub(super) fn push_cancel(&mut self, victim: u64, tag: u64) {
        self.push(opcode::AsyncCancel::new(victim).build(), tag);
    }

    /// shutdown(2).
    pub(super) fn push_shutdown(&mut self, target: Target, how: i32, tag: u64) {
        let entry = opcode::Shutdown::new(target.number(), how).build();
        self.push(entry.flags(target.flags()), tag);
    }

    /// close(2), of either kind.
    pub(super) fn push_close(&mut self, target: Target, tag: u64) {
        let entry = match target {
            Target::Plain(fd) => opcode::Close::new(Fd(fd)).build(),
            Target::Direct(index) => opcode::Close::new(Fixed(index)).build(),
        };
        self.push(entry, tag);
    }

    /// Takes what is to be sent: its key. A lease is for [`Self::push_send_unreported`].
    pub(super) fn insert_send(&mut self, source: Source) -> u32 {
        self.lent.sends.insert(Sending::new(source)) as u32
    }

    /// Sends the rest of a buffer, or of a lease's copy: this may take as long as the peer likes. The kernel
    /// retries short writes itself (`MSG_WAITALL`, 5.19).
    pub(super) fn push_send(&mut self, target: Target, key: u32, tag: u64) {
        let lent = &mut *self.lent;
        lent.sends[key as usize].leave_lease(&mut lent.buffers);
        let entry = self.send_entry(target, key, libc::MSG_WAITALL);
        self.push(entry, tag);
    }

    /// The same, tried once: if the socket takes all of it at once, no completion ends the wait of the
    /// enter that submits it (`IOSQE_CQE_SKIP_SUCCESS`, 5.17; see [`Self::pop_unreported`]). For want of
    /// room it fails with `EAGAIN` or a short count: without `MSG_DONTWAIT` it would wait, and without
    /// `MSG_WAITALL` a short count would be a success.
    pub(super) fn push_send_unreported(&mut self, target: Target, key: u32, tag: u64) {
        let entry = self.send_entry(target, key, libc::MSG_WAITALL | libc::MSG_DONTWAIT);
        self.push(entry.flags(target.flags() | Flags::SKIP_SUCCESS), tag);
        let place = self.pushed + self.backlog.len() as u64;
        self.lent.sends[key as usize].unreported = place;
        self.unreported.push_back(Unreported { place, key, tag });
    }

    /// Where the kernel seals what is sent by TLS, which knows no `MSG_WAITALL`: short counts come back. A
    /// lease is tried once.
    pub(super) fn push_send_sealed(&mut self, target: Target, key: u32, tag: u64) {
        let flags = if self.lent.sends[key as usize].is_lease() { libc::MSG_DONTWAIT } else { 0 };
        let entry = self.send_entry(target, key, flags);
        self.push(entry, tag);
    }

    /// The rest of that.
    pub(super) fn push_rest_sealed(&mut self, target: Target, key: u32, tag: u64) {
        let lent = &mut *self.lent;
        lent.sends[key as usize].leave_lease(&mut lent.buffers);
        self.push_send_sealed(target, key, tag);
    }

    fn send_entry(&mut self, target: Target, key: u32, flags: i32) -> Entry {
        let lent = &mut *self.lent;
        let sending = &mut lent.sends[key as usize];
        assert!(!sending.in_flight, "a send is in flight");
        sending.in_flight = true;
        if let Some(record) = sending.record() {
            let send = opcode::SendMsg::new(target.number(), record.header());
            return send.flags((flags | libc::MSG_NOSIGNAL) as u32).build().flags(target.flags());
        }
        let rest = sending.rest(&mut lent.buffers);
        let len = rest.len().min(MAX_SEND_BYTES) as u32;
        let send = opcode::Send::new(target.number(), rest.as_ptr(), len);
        send.flags(flags | libc::MSG_NOSIGNAL).build().flags(target.flags())
    }

    /// The next send that was pushed by [`Self::push_send_unreported`] and has succeeded: its tag and its key. To be
    /// asked after [`Self::reap`].
    #[inline]
    pub(super) fn pop_unreported(&mut self) -> Option<(u64, u32)> {
        while let Some(first) = self.unreported.front().filter(|first| first.place <= self.taken) {
            let Unreported { place, key, tag } = *first;
            self.unreported.pop_front();
            let sending = self.lent.sends.get_mut(key as usize);
            if let Some(sending) = sending.filter(|sending| sending.unreported == place) {
                sending.in_flight = false;
                self.in_flight -= 1;
                return Some((tag, key));
            }
        }
        None
    }

    /// The send's completion was popped with `len` bytes taken: true if none are left.
    pub(super) fn send_completed(&mut self, key: u32, len: usize) -> bool {
        let sending = &mut self.lent.sends[key as usize];
        sending.in_flight = false;
        sending.took(len);
        sending.left() == 0
    }

    /// Gives a buffer back; a lease goes back to the receive buffers.
    pub(super) fn take_send(&mut self, key: u32) -> SendBuf {
        let lent = &mut *self.lent;
        lent.sends.remove(key as usize).end(&mut lent.buffers)
    }

    /// A place to accept into: its key, counted from 0.
    pub(super) fn insert_accept(&mut self, listener: RawFd) -> u32 {
        self.lent.accepts.push(Box::new(Accepting { listener, direct: None, addr: RawAddr::room() }));
        (self.lent.accepts.len() - 1) as u32
    }

    /// Accepts one peer, to a place in the table of direct descriptors that is free, or to a plain
    /// descriptor, which is the result then.
    pub(super) fn push_accept(&mut self, key: u32, direct: Option<u32>, tag: u64) {
        let accepting = &mut *self.lent.accepts[key as usize];
        accepting.direct = direct;
        accepting.addr = RawAddr::room();
        let addr = (&raw mut accepting.addr.storage).cast();
        let len = &raw mut accepting.addr.len;
        let accept = opcode::Accept::new(Fd(accepting.listener), addr, len);
        let entry = match direct.map(DestinationSlot::try_from_slot_target) {
            // SOCK_CLOEXEC is refused with a direct descriptor, which no exec can inherit.
            Some(Ok(place)) => accept.file_index(Some(place)).build(),
            Some(Err(index)) => unreachable!("no table has a place {index}"),
            None => accept.flags(libc::SOCK_CLOEXEC).build(),
        };
        self.push(entry, tag);
    }

    /// Into which place of the table was accepted, if into one, and whom.
    pub(super) fn accepted(&self, key: u32) -> (Option<u32>, PeerAddr) {
        let accepting = &self.lent.accepts[key as usize];
        (accepting.direct, accepting.addr.peer())
    }

    /// Keeps a socket while it connects: its key.
    pub(super) fn insert_connect(&mut self, socket: UringSocket, to: SocketAddr, tag: u64) -> u32 {
        self.lent.connects.insert(Box::new(Connecting { socket, tag, addr: RawAddr::of(to) })) as u32
    }

    /// connect(2) of the socket kept under `key`.
    pub(super) fn push_connect(&mut self, key: u32, tag: u64) {
        let connecting = &*self.lent.connects[key as usize];
        let (target, addr) = (connecting.socket.target, &connecting.addr);
        let entry = opcode::Connect::new(target.number(), (&raw const addr.storage).cast(), addr.len).build();
        self.push(entry.flags(target.flags()), tag);
    }

    /// Ends keeping it: the socket and the engine's tag.
    pub(super) fn take_connect(&mut self, key: u32) -> Option<(UringSocket, u64)> {
        let connecting = *self.lent.connects.try_remove(key as usize)?;
        Some((connecting.socket, connecting.tag))
    }

    /// Reads an eventfd's counter when it is not 0.
    pub(super) fn push_wake(&mut self, eventfd: RawFd, tag: u64) {
        let counter = (&raw mut *self.lent.wake_counter).cast();
        self.push(opcode::Read::new(Fd(eventfd), counter, 8).build(), tag);
    }

    pub(super) fn buffers(&mut self) -> &mut Buffers {
        &mut self.lent.buffers
    }

    pub(super) fn buffers_ref(&self) -> &Buffers {
        &self.lent.buffers
    }

    /// Gives back memory of receive buffers that was not needed since the last call.
    pub(super) fn shed(&mut self) {
        // Else bytes that nobody has been told of may lie in them.
        let is_quiet = self.is_quiet();
        self.lent.buffers.end_window();
        if is_quiet {
            self.lent.buffers.forget_unused();
        }
    }

    /// Cancels everything and reaps it, which takes the kernel the square of what is in flight: connections have ended
    /// before. Peers accepted in the meantime are closed.
    /// False if something would not end in time.
    fn quiesce(&mut self, accept_kind: u8) -> bool {
        self.push(opcode::AsyncCancel2::new(CancelBuilder::any()).build(), u64::MAX);
        let mut idle_rounds = 0;
        while self.in_flight > 0 {
            let before = self.in_flight;
            self.reap(|_| None);
            while let Some(completion) = self.pop() {
                self.unreported.retain(|unreported| unreported.tag != completion.tag);
                let (kind, at) = crate::driver::tag::unpack(completion.tag);
                if kind == accept_kind
                    && completion.result >= 0
                    && let (None, _) = self.accepted(at.slot)
                {
                    drop(sys::adopt(completion.result));
                }
            }
            while self.pop_unreported().is_some() {}
            idle_rounds = if self.in_flight < before { 0 } else { idle_rounds + 1 };
            let failed = self.in_flight > 0 && self.enter(Some(QUIESCE_ROUND)).is_err();
            if failed || idle_rounds == QUIESCE_ROUNDS {
                return false;
            }
        }
        true
    }
}

/// Rounds in which nothing ends, after which a drop no longer waits for the kernel.
pub(super) const QUIESCE_ROUNDS: u32 = 100;
pub(super) const QUIESCE_ROUND: Duration = Duration::from_millis(10);

impl Drop for Ring {
    fn drop(&mut self) {
        let quiet = self.quiesce(super::ACCEPT);
        if self.enter_flags != 0 {
            // The registration holds the ring open until the thread ends.
            let mut update = RingFdUpdate { offset: self.enter_fd as u32, resv: 0, data: 0 };
            register_ring_fd(self.ring.as_raw_fd(), IORING_UNREGISTER_RING_FDS, &mut update);
        }
        // Closes direct descriptors now; the ring itself is torn down by a kernel worker later.
        let _ = self.ring.submitter().unregister_files();
        let _ = self.ring.submitter().unregister_buf_ring(BUFFER_GROUP);
        // SAFETY: dropped once, here, and not used afterwards.
        unsafe { ManuallyDrop::drop(&mut self.ring) };
        if quiet {
            // SAFETY: dropped once, here; nothing is in flight and the ring is closed.
            unsafe { ManuallyDrop::drop(&mut self.lent) };
        }
        // Otherwise the memory is leaked: the kernel may still use it.
    }
}

fn builder(completions: u32, busy_poll: bool) -> io_uring::Builder {
    let mut builder = IoUring::builder();
    if busy_poll {
        builder.setup_taskrun_flag();
    }
    builder
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_coop_taskrun()
        .setup_submit_all()
        .setup_clamp()
        .setup_cqsize(completions);
    builder
}

// The crate keeps the registered index to itself and per borrow, so the two calls are made here.

const IORING_ENTER_GETEVENTS: u32 = 1 << 0;
const IORING_ENTER_EXT_ARG: u32 = 1 << 3;
const IORING_ENTER_REGISTERED_RING: u32 = 1 << 4;
const IORING_REGISTER_RING_FDS: u32 = 20;
const IORING_UNREGISTER_RING_FDS: u32 = 21;

/// `struct io_uring_getevents_arg`.
#[repr(C)]
struct GeteventsArg {
    sigmask: u64,
    sigmask_bytes: u32,
    min_wait_us: u32,
    timespec: u64,
}

/// `struct io_uring_rsrc_update`.
#[repr(C)]
struct RingFdUpdate {
    offset: u32,
    resv: u32,
    data: u64,
}

fn register_ring_fd(fd: RawFd, operation: u32, update: &mut RingFdUpdate) -> i64 {
    // SAFETY: `update` is the one element of the array that the kernel reads and writes.
    unsafe { libc::syscall(libc::SYS_io_uring_register, fd, operation, &raw mut *update, 1u32) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_dropped_ring_leaves_the_threads_registration() {
        // The kernel keeps at most 16 registered rings per thread, and each keeps its ring alive.
        for round in 0..40 {
            let ring = Ring::new(8, 4_096, false, 1, false).unwrap();
            assert!(ring.is_registered(), "round {round}");
        }
    }
}
