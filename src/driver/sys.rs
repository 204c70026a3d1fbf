//! The few libc calls that `std` does not offer on raw sockets, made safe.
//!
//! A leaf: it owns nothing but what it returns. Every function takes borrowed descriptors and
//! plain slices and turns `-1` into the errno.
#![allow(unsafe_code, reason = "system calls on sockets, epoll and sockaddr memory")]

use std::io;
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;

use super::PeerAddr;

/// Room for any socket address, as the kernel writes it.
#[derive(Clone, Copy)]
pub(super) struct RawAddr {
    pub(super) storage: libc::sockaddr_storage,
    pub(super) len: libc::socklen_t,
}

impl RawAddr {
    /// Empty, with `len` telling the kernel how much room there is.
    pub(super) fn room() -> Self {
        // SAFETY: sockaddr_storage is plain data for which all zeroes is a value.
        let storage = unsafe { mem::zeroed() };
        Self { storage, len: mem::size_of::<libc::sockaddr_storage>() as libc::socklen_t }
    }

    /// The address of a TCP peer or listener.
    pub(super) fn of(addr: SocketAddr) -> Self {
        let mut raw = Self::room();
        let at = (&raw mut raw.storage).cast::<u8>();
        match addr {
            SocketAddr::V4(v4) => {
                // SAFETY: as above, zeroes are a value of sockaddr_in.
                let mut sin: libc::sockaddr_in = unsafe { mem::zeroed() };
                sin.sin_family = libc::AF_INET as libc::sa_family_t;
                sin.sin_port = v4.port().to_be();
                sin.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                // SAFETY: sockaddr_storage is at least as large and as aligned as sockaddr_in.
                unsafe { at.cast::<libc::sockaddr_in>().write(sin) };
                raw.len = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddr::V6(v6) => {
                // SAFETY: zeroes are a value of sockaddr_in6.
                let mut sin6: libc::sockaddr_in6 = unsafe { mem::zeroed() };
                sin6.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                sin6.sin6_port = v6.port().to_be();
                sin6.sin6_addr.s6_addr = v6.ip().octets();
                sin6.sin6_flowinfo = v6.flowinfo();
                sin6.sin6_scope_id = v6.scope_id();
                // SAFETY: sockaddr_storage is at least as large and as aligned as sockaddr_in6.
                unsafe { at.cast::<libc::sockaddr_in6>().write(sin6) };
                raw.len = mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
        }
        raw
    }

    /// The address of a Unix socket; `InvalidInput` if the path does not fit (108 bytes with its
    /// terminator, unix(7)).
    pub(super) fn unix(path: &Path) -> io::Result<Self> {
        let path = path.as_os_str().as_bytes();
        // SAFETY: zeroes are a value of sockaddr_un.
        let mut sun: libc::sockaddr_un = unsafe { mem::zeroed() };
        if path.len() >= sun.sun_path.len() || path.contains(&0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the path is too long for a socket"));
        }
        sun.sun_family = libc::AF_UNIX as libc::sa_family_t;
        for (to, from) in sun.sun_path.iter_mut().zip(path) {
            *to = *from as libc::c_char;
        }
        let mut raw = Self::room();
        // SAFETY: sockaddr_storage is at least as large and as aligned as sockaddr_un.
        unsafe { (&raw mut raw.storage).cast::<libc::sockaddr_un>().write(sun) };
        raw.len = mem::size_of::<libc::sockaddr_un>() as libc::socklen_t;
        Ok(raw)
    }

    /// The IP address, where there is one.
    pub(super) fn ip(&self) -> Option<SocketAddr> {
        let at = (&raw const self.storage).cast::<u8>();
        match libc::c_int::from(self.storage.ss_family) {
            libc::AF_INET => {
                // SAFETY: the storage is large and aligned enough for any sockaddr and initialised.
                let sin = unsafe { at.cast::<libc::sockaddr_in>().read() };
                let ip = Ipv4Addr::from(sin.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(sin.sin_port)).into())
            }
            libc::AF_INET6 => {
                // SAFETY: as above.
                let sin6 = unsafe { at.cast::<libc::sockaddr_in6>().read() };
                let ip = Ipv6Addr::from(sin6.sin6_addr.s6_addr);
                let port = u16::from_be(sin6.sin6_port);
                Some(SocketAddrV6::new(ip, port, sin6.sin6_flowinfo, sin6.sin6_scope_id).into())
            }
            _ => None,
        }
    }

    /// As a peer: what has no IP address came through a Unix socket.
    pub(super) fn peer(&self) -> PeerAddr {
        self.ip().map_or(PeerAddr::Unix, PeerAddr::Ip)
    }
}

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn check_len(result: isize) -> io::Result<usize> {
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn own(result: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the callers pass the result of a call that creates a descriptor, which nobody else
    // has seen.
    check(result).map(|fd| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Takes over a descriptor that a completion delivered.
pub(super) fn adopt(fd: RawFd) -> OwnedFd {
    assert!(fd >= 0, "not a descriptor");
    // SAFETY: completions of accept hand out each new descriptor once, to this process's sole owner.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// socket(2) with `SOCK_CLOEXEC`.
pub(super) fn socket(family: libc::c_int, nonblocking: bool) -> io::Result<OwnedFd> {
    let flags = libc::SOCK_CLOEXEC | if nonblocking { libc::SOCK_NONBLOCK } else { 0 };
    // SAFETY: takes no memory.
    own(unsafe { libc::socket(family, libc::SOCK_STREAM | flags, 0) })
}

/// The address family of an IP address.
pub(super) fn family(addr: &SocketAddr) -> libc::c_int {
    if addr.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 }
}

/// setsockopt(2) with an int.
pub(super) fn set_option(fd: BorrowedFd<'_>, level: i32, name: i32, value: i32) -> io::Result<()> {
    let len = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` is an int that lives across the call, and `len` is its size.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, name, (&raw const value).cast(), len) })?;
    Ok(())
}

/// A TCP socket about to connect to `to`: without Nagle's delay, and bound to `source` if there is one.
///
/// `InvalidInput` if the families of the two differ, else the errno of the call that failed.
pub(super) fn connector(to: &SocketAddr, source: Option<IpAddr>, nonblocking: bool) -> io::Result<OwnedFd> {
    let fd = socket(family(to), nonblocking)?;
    set_option(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    if let Some(source) = source {
        if source.is_ipv4() != to.is_ipv4() {
            let text = format!("{source} and {to} are of different families");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        // Else bind(2) would reserve a port for this socket, whatever it connects to (ip(7)).
        set_option(fd.as_fd(), libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, 1)?;
        bind(fd.as_fd(), &RawAddr::of(SocketAddr::new(source, 0)))?;
    }
    Ok(fd)
}

/// setsockopt(2) with bytes.
pub(super) fn set_option_bytes(fd: RawFd, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = value.len() as libc::socklen_t;
    // SAFETY: the kernel reads `len` bytes from the slice.
    check(unsafe { libc::setsockopt(fd, level, name, value.as_ptr().cast(), len) })?;
    Ok(())
}

/// getsockopt(2) of an int.
pub(super) fn get_option(fd: impl AsRawFd, level: i32, name: i32) -> io::Result<i32> {
    let mut value: libc::c_int = 0;
    let mut len = mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: `value` and `len` live across the call, and `len` is the size of `value`.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), level, name, (&raw mut value).cast(), &raw mut len) })?;
    Ok(value)
}

/// getsockopt(2) of `SO_ERROR`: the outcome of a connect.
pub(super) fn take_error(fd: impl AsRawFd) -> io::Result<()> {
    let errno = get_option(fd, libc::SOL_SOCKET, libc::SO_ERROR)?;
    if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
}

/// Switches `O_NONBLOCK`.
pub(super) fn set_nonblocking(fd: BorrowedFd<'_>, on: bool) -> io::Result<()> {
    let mut value = libc::c_int::from(on);
    // SAFETY: FIONBIO reads an int that lives across the call.
    check(unsafe { libc::ioctl(fd.as_raw_fd(), libc::FIONBIO, &raw mut value) })?;
    Ok(())
}

/// bind(2).
pub(super) fn bind(fd: BorrowedFd<'_>, addr: &RawAddr) -> io::Result<()> {
    // SAFETY: the storage holds `len` initialised bytes.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const addr.storage).cast(), addr.len) })?;
    Ok(())
}

/// listen(2).
pub(super) fn listen(fd: BorrowedFd<'_>, backlog: i32) -> io::Result<()> {
    // SAFETY: takes no memory.
    check(unsafe { libc::listen(fd.as_raw_fd(), backlog) })?;
    Ok(())
}

/// getsockname(2), for IP sockets.
pub(super) fn local_addr(fd: BorrowedFd<'_>) -> io::Result<SocketAddr> {
    let mut raw = RawAddr::room();
    // SAFETY: `len` says how much room the storage has; both live across the call.
    check(unsafe { libc::getsockname(fd.as_raw_fd(), (&raw mut raw.storage).cast(), &raw mut raw.len) })?;
    raw.ip().ok_or_else(|| io::Error::other("not an IP socket"))
}

/// accept4(2), nonblocking and close-on-exec.
pub(super) fn accept(listener: BorrowedFd<'_>) -> io::Result<(OwnedFd, PeerAddr)> {
    let mut raw = RawAddr::room();
    // SAFETY: `len` says how much room the storage has; both live across the call.
    let fd = own(unsafe {
        libc::accept4(
            listener.as_raw_fd(),
            (&raw mut raw.storage).cast(),
            &raw mut raw.len,
            libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC,
        )
    })?;
    Ok((fd, raw.peer()))
}

/// connect(2). On a nonblocking socket `EINPROGRESS` is not an error: false is "not yet".
pub(super) fn connect(fd: BorrowedFd<'_>, raw: &RawAddr) -> io::Result<bool> {
    // SAFETY: the storage holds `len` initialised bytes.
    match check(unsafe { libc::connect(fd.as_raw_fd(), (&raw const raw.storage).cast(), raw.len) }) {
        Ok(_) => Ok(true),
        Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(false),
        Err(error) => Err(error),
    }
}

/// recv(2).
#[inline]
pub(super) fn recv(fd: RawFd, into: &mut [u8]) -> io::Result<usize> {
    // Not libc's recv: a cancellation point takes 60 instructions more in a process with threads.
    // SAFETY: the kernel writes at most `len` bytes into the slice.
    check_len(unsafe {
        libc::syscall(libc::SYS_recvfrom, fd, into.as_mut_ptr(), into.len(), 0, 0usize, 0usize) as isize
    })
}

/// send(2) without `SIGPIPE`; as [`recv`] without libc.
#[inline]
pub(super) fn send(fd: RawFd, bytes: &[u8]) -> io::Result<usize> {
    // SAFETY: the kernel reads at most `len` bytes from the slice.
    check_len(unsafe {
        libc::syscall(libc::SYS_sendto, fd, bytes.as_ptr(), bytes.len(), libc::MSG_NOSIGNAL, 0usize, 0usize)
            as isize
    })
}

/// Room for a control message of one byte, as aligned as its header wants.
type RecordKind = [u64; 3];

const _: () = {
    // SAFETY: computes a length from a length.
    let space = unsafe { libc::CMSG_SPACE(1) };
    assert!(space as usize <= size_of::<RecordKind>(), "a control message fits");
};

/// A TLS record of a kind of its own, for sendmsg(2): where it is, its pointers lead.
pub(super) struct RecordMessage {
    content: Vec<u8>,
    control: RecordKind,
    part: libc::iovec,
    header: libc::msghdr,
}

impl RecordMessage {
    pub(super) fn new(kind: u8, content: Vec<u8>) -> Box<Self> {
        // SAFETY: zeroes are a value of both: null pointers and lengths.
        let (part, header) = unsafe { (mem::zeroed(), mem::zeroed()) };
        let mut this = Box::new(Self { content, control: RecordKind::default(), part, header });
        let Self { content, control, part, header } = &mut *this;
        *part = libc::iovec { iov_base: content.as_mut_ptr().cast(), iov_len: content.len() };
        (header.msg_iov, header.msg_iovlen) = (part, 1);
        header.msg_control = control.as_mut_ptr().cast();
        // SAFETY: the control buffer has room for a header and one byte, and is aligned for it.
        unsafe {
            header.msg_controllen = libc::CMSG_SPACE(1) as _;
            let message = libc::CMSG_FIRSTHDR(header);
            (*message).cmsg_level = SOL_TLS;
            (*message).cmsg_type = TLS_SET_RECORD_TYPE;
            (*message).cmsg_len = libc::CMSG_LEN(1) as _;
            libc::CMSG_DATA(message).write(kind);
        }
        this
    }

    /// What sendmsg(2) is given: valid as long as this is.
    pub(super) fn header(&self) -> *const libc::msghdr {
        &raw const self.header
    }

    pub(super) fn content(&self) -> &[u8] {
        &self.content
    }

    pub(super) fn into_content(self) -> Vec<u8> {
        self.content
    }
}

/// The level of the options and control messages of TLS in the kernel.
pub(super) const SOL_TLS: i32 = 282;
const TLS_SET_RECORD_TYPE: i32 = 1;
const TLS_GET_RECORD_TYPE: i32 = 2;

/// sendmsg(2) without `SIGPIPE`: true if the record was taken, which is whole or not at all.
pub(super) fn send_record(fd: RawFd, message: &RecordMessage) -> io::Result<()> {
    // SAFETY: the header's pointers lead into the message (see `new`), from which is read alone.
    check_len(unsafe { libc::sendmsg(fd, message.header(), libc::MSG_NOSIGNAL) })?;
    Ok(())
}

/// recvmsg(2), not waiting, of a TLS record that the kernel has opened and that is not data: its kind, and its
/// first `into.len()` bytes, with their number.
pub(super) fn recv_record(fd: RawFd, into: &mut [u8]) -> io::Result<(u8, usize)> {
    let mut control = RecordKind::default();
    let mut part = libc::iovec { iov_base: into.as_mut_ptr().cast(), iov_len: into.len() };
    // SAFETY: zeroes are a value of msghdr.
    let mut header: libc::msghdr = unsafe { mem::zeroed() };
    (header.msg_iov, header.msg_iovlen) = (&raw mut part, 1);
    header.msg_control = control.as_mut_ptr().cast();
    header.msg_controllen = mem::size_of_val(&control) as _;
    // SAFETY: all that the header leads to lives across the call, with the lengths it says.
    let len = check_len(unsafe { libc::recvmsg(fd, &raw mut header, libc::MSG_DONTWAIT) })?;
    // SAFETY: the kernel wrote whole control messages, and their length to the header.
    let kind = unsafe {
        let message = libc::CMSG_FIRSTHDR(&raw const header);
        let told = !message.is_null()
            && (*message).cmsg_level == SOL_TLS
            && (*message).cmsg_type == TLS_GET_RECORD_TYPE;
        told.then(|| libc::CMSG_DATA(message).read())
    };
    kind.map(|kind| (kind, len)).ok_or_else(|| io::Error::from_raw_os_error(libc::EIO))
}

/// shutdown(2).
pub(super) fn shutdown(fd: RawFd, how: i32) -> io::Result<()> {
    // SAFETY: takes no memory.
    check(unsafe { libc::shutdown(fd, how) })?;
    Ok(())
}

/// eventfd(2), blocking: io_uring fails reads of nonblocking files instead of waiting.
pub(super) fn eventfd() -> io::Result<OwnedFd> {
    // SAFETY: takes no memory.
    own(unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) })
}

/// Adds one to an eventfd: one write(2), safe in a signal handler.
pub(super) fn eventfd_signal(fd: BorrowedFd<'_>) {
    let one = 1u64.to_ne_bytes();
    // SAFETY: the slice has the 8 bytes that are written. The result is not looked at: the only
    // failure is a counter at its maximum, and then the wake-up is pending already.
    let _ = unsafe { libc::write(fd.as_raw_fd(), one.as_ptr().cast(), one.len()) };
}

/// The longest time that the kernel is given: ten years, which is not yet too much for its clock.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

/// timerfd_create(2) of the monotonic clock.
pub(super) fn timerfd() -> io::Result<OwnedFd> {
    // SAFETY: takes no memory.
    own(unsafe { libc::timerfd_create(libc::CLOCK_MONOTONIC, libc::TFD_CLOEXEC | libc::TFD_NONBLOCK) })
}

/// timerfd_settime(2): expires once, after a time that is not 0; longer ones than ten years are cut.
pub(super) fn timerfd_set(timer: &OwnedFd, after: Duration) -> io::Result<()> {
    let after = after.min(LONGEST);
    let once = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let first = libc::timespec { tv_sec: after.as_secs() as _, tv_nsec: after.subsec_nanos() as _ };
    let time = libc::itimerspec { it_interval: once, it_value: first };
    // SAFETY: the time lives across the call; the former one is not asked for.
    check(unsafe { libc::timerfd_settime(timer.as_raw_fd(), 0, &raw const time, std::ptr::null_mut()) })?;
    Ok(())
}

/// poll(2) for input, up to so many milliseconds.
#[cfg(test)]
pub(super) fn is_readable(fd: RawFd, wait_ms: i32) -> io::Result<bool> {
    let mut asked = libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    // SAFETY: the one entry lives across the call.
    Ok(check(unsafe { libc::poll(&raw mut asked, 1, wait_ms) })? > 0)
}

/// epoll_create1(2).
pub(super) fn epoll_create() -> io::Result<OwnedFd> {
    // SAFETY: takes no memory.
    own(unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) })
}

/// epoll_ctl(2).
pub(super) fn epoll_ctl(epoll: RawFd, op: i32, fd: RawFd, events: u32, data: u64) -> io::Result<()> {
    let mut event = libc::epoll_event { events, u64: data };
    // SAFETY: the event lives across the call.
    check(unsafe { libc::epoll_ctl(epoll, op, fd, &raw mut event) })?;
    Ok(())
}

/// epoll_pwait2(2), Linux 5.11: the number of events written to the front of `into`. Waits for ever
/// (`None`) or up to a time, to the nanosecond; longer ones than ten years are cut.
pub(super) fn epoll_wait(
    epoll: RawFd,
    into: &mut [libc::epoll_event],
    wait: Option<Duration>,
) -> io::Result<usize> {
    let room = into.len() as libc::c_int;
    let at = into.as_mut_ptr();
    let timeout = wait.map(|wait| {
        let wait = wait.min(LONGEST);
        // struct __kernel_timespec: 64 bits each on every architecture.
        [wait.as_secs() as i64, i64::from(wait.subsec_nanos())]
    });
    let timeout_at = timeout.as_ref().map_or(std::ptr::null(), |timeout| timeout.as_ptr());
    let no_mask: *const libc::sigset_t = std::ptr::null();
    // SAFETY: the kernel writes at most `room` events into the slice; `timeout` lives across the call.
    let count =
        unsafe { libc::syscall(libc::SYS_epoll_pwait2, epoll, at, room, timeout_at, no_mask, 0usize) };
    match check(count as libc::c_int) {
        // Linux before 5.11, or a seccomp profile from before it.
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EPERM)) => {
            let ms = wait.map_or(-1, |wait| wait.as_micros().div_ceil(1_000).min(i32::MAX as u128) as i32);
            // SAFETY: as above.
            Ok(check(unsafe { libc::epoll_wait(epoll, at, room, ms) })? as usize)
        }
        count => Ok(count? as usize),
    }
}

/// getrlimit(2) as (soft, hard).
pub(super) fn rlimit(resource: libc::__rlimit_resource_t) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` lives across the call.
    check(unsafe { libc::getrlimit(resource, &raw mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}
