//! Listening sockets: one per shard, bound before the shards start, so that errors surface at once.
//!
//! TCP shards share a port through `SO_REUSEPORT` and the kernel spreads connections over them
//! (socket(7)). Unix sockets have no such spreading: the shards share one queue.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::sys;
use crate::config::ListenAddr;

/// Connections that may wait to be accepted. The kernel clamps it to `net.core.somaxconn`
/// (4,096 by default since Linux 5.4).
pub const BACKLOG: i32 = 4_096;

/// How long [`bind_when_free`] waits for a predecessor's sockets to go.
pub const PATIENCE: Duration = Duration::from_secs(1);
/// Between two attempts.
const ATTEMPT_PERIOD: Duration = Duration::from_millis(10);

/// A listening socket of one shard. Dropping the last one of a Unix path removes the file.
#[derive(Debug)]
pub struct Listener {
    fd: OwnedFd,
    is_plain: bool,
    _socket_file: Option<Arc<SocketFile>>,
}

impl Listener {
    /// The socket.
    pub fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Has it take those connections of a shared TCP port whose first packet comes in on `core` (`SO_INCOMING_CPU`,
    /// socket(7)). Linux heeds that from 6.2 on.
    ///
    /// # Errors
    /// What setsockopt(2) says.
    pub fn prefer(&self, core: usize) -> io::Result<()> {
        let core = i32::try_from(core).map_err(io::Error::other)?;
        sys::set_option(self.fd.as_fd(), libc::SOL_SOCKET, libc::SO_INCOMING_CPU, core)
    }

    /// Has what is accepted stay on descriptors of the process, which setsockopt(2) needs.
    pub fn keep_plain(&mut self) {
        self.is_plain = true;
    }

    /// Whether that was asked for.
    pub fn is_plain(&self) -> bool {
        self.is_plain
    }
}

/// What accepted TCP sockets inherit from their listener, so that it costs no system call for each
/// (tcp(7), socket(7)). 0 leaves the kernel's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpOptions {
    /// Seconds of silence before the kernel probes the peer's host.
    pub keepalive_s: u32,
    /// Milliseconds that sent bytes may stay unacknowledged.
    pub user_timeout_ms: u32,
}

/// Probes of a silent host before its connection is given up.
const KEEPALIVE_PROBES: u32 = 3;

impl TcpOptions {
    fn set(&self, fd: BorrowedFd<'_>) -> io::Result<()> {
        // The kernel takes up to 32,767 seconds.
        let seconds = self.keepalive_s.min(32_767);
        let set = |name, value: u32| {
            sys::set_option(fd, libc::IPPROTO_TCP, name, i32::try_from(value).unwrap_or(i32::MAX))
        };
        if seconds > 0 {
            sys::set_option(fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
            set(libc::TCP_KEEPIDLE, seconds)?;
            set(libc::TCP_KEEPINTVL, seconds.div_ceil(KEEPALIVE_PROBES))?;
            set(libc::TCP_KEEPCNT, KEEPALIVE_PROBES)?;
        }
        if self.user_timeout_ms > 0 {
            set(libc::TCP_USER_TIMEOUT, self.user_timeout_ms)?;
        }
        Ok(())
    }
}

/// Binds `addr` once for each of `shards` (at least one) and listens.
///
/// Returns a listener for each shard and the address with its port resolved.
///
/// # Errors
/// The address and what to do stand in the error's text; its kind is the kernel's. A TCP port or
/// Unix path on which somebody listens is `AddrInUse` for one shard and for many.
///
/// ```
/// use ringwire::driver::listen::bind;
/// let (listeners, addr) = bind(&"127.0.0.1:0".parse().unwrap(), 2)?;
/// assert_eq!(listeners.len(), 2);
/// assert_ne!(addr.to_string(), "127.0.0.1:0");
/// # std::io::Result::Ok(())
/// ```
pub fn bind(addr: &ListenAddr, shards: usize) -> io::Result<(Vec<Listener>, ListenAddr)> {
    bind_with(addr, shards, &TcpOptions::default())
}

/// As [`bind`], with options.
///
/// # Errors
/// As [`bind`].
pub fn bind_with(
    addr: &ListenAddr,
    shards: usize,
    options: &TcpOptions,
) -> io::Result<(Vec<Listener>, ListenAddr)> {
    let shards = shards.max(1);
    match addr {
        ListenAddr::Tcp(to) => bind_tcp(*to, shards, options).map(|(l, at)| (l, ListenAddr::Tcp(at))),
        ListenAddr::Unix(path) => bind_unix(path, shards).map(|l| (l, addr.clone())),
    }
    .map_err(|error| explain(addr, error))
}

/// As [`bind_with`], but waits up to [`PATIENCE`] while somebody listens there: the kernel takes the io_uring of
/// a killed process apart some time after it has reported the process's end (10 to 100 ms), and with it go the
/// listeners. A supervisor that restarts at once would meet them.
///
/// # Errors
/// As [`bind`].
pub fn bind_when_free(
    addr: &ListenAddr,
    shards: usize,
    options: &TcpOptions,
) -> io::Result<(Vec<Listener>, ListenAddr)> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match bind_with(addr, shards, options) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && Instant::now() < deadline => {
                std::thread::sleep(ATTEMPT_PERIOD);
            }
            result => return result,
        }
    }
}

fn explain(addr: &ListenAddr, error: io::Error) -> io::Error {
    let next = match error.kind() {
        io::ErrorKind::AddrInUse => "something listens there already: stop it or choose another address",
        io::ErrorKind::AddrNotAvailable => {
            "no interface has this address: see `ip addr`, or listen on 0.0.0.0"
        }
        io::ErrorKind::PermissionDenied => {
            "ports below net.ipv4.ip_unprivileged_port_start need CAP_NET_BIND_SERVICE, a path needs a writable folder"
        }
        io::ErrorKind::NotFound => "the folder does not exist: create it first",
        io::ErrorKind::AlreadyExists => {
            "a file that is not a socket is there: move it or choose another path"
        }
        _ if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => {
            "this kernel has no IPv6: listen on an IPv4 address"
        }
        _ => "check the address",
    };
    io::Error::new(error.kind(), format!("cannot listen on {addr}: {error}; {next}"))
}

fn bind_tcp(to: SocketAddr, shards: usize, options: &TcpOptions) -> io::Result<(Vec<Listener>, SocketAddr)> {
    if shards > 1 && to.port() != 0 {
        // Every socket of a port must carry SO_REUSEPORT to share it, so two servers of the same
        // user would silently split one port. A socket without it finds out. Between this check
        // and the binding below is a gap in which a second server can still slip in.
        tcp_socket(to, false)?;
    }
    let first = tcp_listener(to, shards > 1, options)?;
    let at = sys::local_addr(first.as_fd())?;
    let mut listeners = vec![first];
    while listeners.len() < shards {
        listeners.push(tcp_listener(at, true, options)?);
    }
    Ok((listeners, at))
}

fn tcp_listener(to: SocketAddr, share: bool, options: &TcpOptions) -> io::Result<Listener> {
    let fd = tcp_socket(to, share)?;
    options.set(fd.as_fd())?;
    sys::listen(fd.as_fd(), BACKLOG)?;
    Ok(Listener { fd, is_plain: false, _socket_file: None })
}

fn tcp_socket(to: SocketAddr, share: bool) -> io::Result<OwnedFd> {
    let fd = sys::socket(sys::family(&to), false)?;
    // Old connections in TIME_WAIT must not keep a restarted server from its port.
    sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEADDR, 1)?;
    if share {
        sys::set_option(fd.as_fd(), libc::SOL_SOCKET, libc::SO_REUSEPORT, 1)?;
    }
    if to.is_ipv6() {
        // An IPv6 address means IPv6, whatever net.ipv6.bindv6only says.
        sys::set_option(fd.as_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, 1)?;
    }
    // Inherited by accepted sockets: the outbox batches by itself.
    sys::set_option(fd.as_fd(), libc::IPPROTO_TCP, libc::TCP_NODELAY, 1)?;
    sys::bind(fd.as_fd(), &sys::RawAddr::of(to))?;
    Ok(fd)
}

/// Device and inode, and the time of creation, as inodes are reused. Unlike the change time it
/// survives a chmod.
type Identity = (u64, u64, i64, i64);

fn identity(path: &Path) -> io::Result<Identity> {
    let meta = std::fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino(), meta.mtime(), meta.mtime_nsec()))
}

/// Removes the file at drop if it is still the one that was bound.
#[derive(Debug)]
struct SocketFile {
    path: PathBuf,
    identity: Identity,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn bind_unix(path: &Path, shards: usize) -> io::Result<Vec<Listener>> {
    remove_stale(path)?;
    let listener = UnixListener::bind(path)?;
    // std listens with its own backlog; listening again only changes the number (listen(2)).
    sys::listen(listener.as_fd(), BACKLOG)?;
    let file = Arc::new(SocketFile { path: path.to_owned(), identity: identity(path)? });
    let first = OwnedFd::from(listener);
    let mut listeners = Vec::with_capacity(shards);
    for _ in 1..shards {
        listeners.push(Listener {
            fd: first.try_clone()?,
            is_plain: false,
            _socket_file: Some(file.clone()),
        });
    }
    listeners.push(Listener { fd: first, is_plain: false, _socket_file: Some(file) });
    Ok(listeners)
}

/// Removes a socket file that nobody listens on; its server died without cleaning up.
fn remove_stale(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
        Ok(meta) if !meta.file_type().is_socket() => return Err(io::ErrorKind::AlreadyExists.into()),
        Ok(_) => {}
    }
    // Nonblocking: a server that hangs with a full backlog must not hang its successor.
    let fd = sys::socket(libc::AF_UNIX, true)?;
    match sys::connect(fd.as_fd(), &sys::RawAddr::unix(path)?) {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => std::fs::remove_file(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        // Connected, or its backlog is full: alive either way.
        _ => Err(io::ErrorKind::AddrInUse.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::TcpStream;
    use std::os::unix::net::UnixStream;

    fn tcp(port: u16) -> ListenAddr {
        ListenAddr::Tcp(SocketAddr::from(([127, 0, 0, 1], port)))
    }

    fn port(addr: &ListenAddr) -> u16 {
        let ListenAddr::Tcp(addr) = addr else { unreachable!("a TCP address") };
        addr.port()
    }

    fn unix(name: &str) -> (PathBuf, ListenAddr) {
        let path = std::env::temp_dir().join(format!("ringwire-listen-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        (path.clone(), ListenAddr::Unix(path))
    }

    #[test]
    fn shards_share_one_port_and_connections_are_taken() {
        let (listeners, addr) = bind(&tcp(0), 3).unwrap();
        assert_eq!(listeners.len(), 3);
        for listener in &listeners {
            assert_eq!(sys::local_addr(listener.as_fd()).unwrap().port(), port(&addr));
        }
        TcpStream::connect(("127.0.0.1", port(&addr))).unwrap();
    }

    #[test]
    fn a_port_in_use_is_an_error_for_one_shard_and_for_many() {
        for (holder, comer) in [(1, 1), (1, 4), (4, 1), (4, 4)] {
            let (_listeners, addr) = bind(&tcp(0), holder).unwrap();
            let error = bind(&addr, comer).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse, "{holder} then {comer}");
            let text = error.to_string();
            assert!(text.contains(&addr.to_string()) && text.contains("choose another"), "{text}");
        }
    }

    #[test]
    fn a_predecessor_is_given_time_to_go() {
        let (listeners, addr) = bind(&tcp(0), 2).unwrap();
        let predecessor = std::thread::spawn(|| {
            std::thread::sleep(Duration::from_millis(100));
            drop(listeners);
        });
        bind_when_free(&addr, 2, &TcpOptions::default()).unwrap();
        predecessor.join().unwrap();
    }

    #[test]
    fn a_port_is_free_again_after_a_server_with_connections_ended() {
        let (listeners, addr) = bind(&tcp(0), 2).unwrap();
        let (mut ends, mut peers) = (Vec::new(), Vec::new());
        for _ in 0..4 {
            peers.push(TcpStream::connect(("127.0.0.1", port(&addr))).unwrap());
        }
        for listener in &listeners {
            sys::set_nonblocking(listener.as_fd(), true).unwrap();
            ends.extend(std::iter::from_fn(|| sys::accept(listener.as_fd()).ok()));
        }
        assert_eq!(ends.len(), 4);
        // The server closes first: its ends stay in TIME_WAIT.
        drop((ends, listeners));
        drop(peers);
        bind(&addr, 2).unwrap();
    }

    #[test]
    fn a_live_path_is_in_use_a_stale_one_is_replaced_and_the_last_shard_removes_it() {
        let (path, addr) = unix("stale");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves a stale file");
        let (mut listeners, _) = bind(&addr, 2).unwrap();
        assert_eq!(bind(&addr, 1).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).unwrap();
        listeners.pop();
        assert!(path.exists());
        listeners.pop();
        assert!(!path.exists());
    }

    #[test]
    fn another_file_is_left_alone() {
        let (path, addr) = unix("file");
        std::fs::write(&path, "precious").unwrap();
        let error = bind(&addr, 1).unwrap_err();
        assert!(error.to_string().contains("not a socket"), "{error}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn a_successor_keeps_its_file() {
        let (path, addr) = unix("successor");
        let (first, _) = bind(&addr, 1).unwrap();
        std::fs::remove_file(&path).unwrap();
        // Beyond the granularity of file times, whole seconds on some file systems.
        std::thread::sleep(std::time::Duration::from_millis(1_100));
        let (_second, _) = bind(&addr, 1).unwrap();
        drop(first);
        assert!(path.exists());
    }

    #[test]
    fn accepted_sockets_inherit_the_options() {
        let options = TcpOptions { keepalive_s: 60, user_timeout_ms: 30_000 };
        let (listeners, addr) = bind_with(&tcp(0), 1, &options).unwrap();
        let _peer = TcpStream::connect(("127.0.0.1", port(&addr))).unwrap();
        let (end, _) = sys::accept(listeners[0].as_fd()).unwrap();
        let option = |level, name| sys::get_option(end.as_fd(), level, name).unwrap();
        assert_eq!(option(libc::SOL_SOCKET, libc::SO_KEEPALIVE), 1);
        assert_eq!(option(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE), 60);
        assert_eq!(option(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL), 20);
        assert_eq!(option(libc::IPPROTO_TCP, libc::TCP_KEEPCNT), 3);
        assert_eq!(option(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT), 30_000);
        assert_eq!(option(libc::IPPROTO_TCP, libc::TCP_NODELAY), 1);
    }

    #[test]
    fn errors_say_what_to_do() {
        let told = |addr: &str| bind(&addr.parse().unwrap(), 1).unwrap_err().to_string();
        assert!(told("192.0.2.1:0").contains("no interface has this address"));
        assert!(told("unix:/nowhere/at/all").contains("create it first"));
    }
}
