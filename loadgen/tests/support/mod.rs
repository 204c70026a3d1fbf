//! Servers of the tests: on loopback, port 0, and gone when dropped.

use ringwire::{Handler, ListenAddr, Remote, Server, ServerBuilder, ServerHandle};
use std::thread;

/// A server at work.
pub struct Running {
    pub port: u16,
    handle: ServerHandle,
    thread: Option<thread::JoinHandle<()>>,
}

impl Running {
    /// Starts one shard that is not pinned. `None` where its driver is denied.
    pub fn start<H: Handler>(
        builder: ServerBuilder,
        service: impl Fn(&Remote) -> H + Send + Sync + 'static,
    ) -> Option<Self> {
        let addr: ListenAddr = "127.0.0.1:0".parse().unwrap();
        let server: Server = builder.listen(addr).shards(1).cores([]).bind().ok()?;
        let ListenAddr::Tcp(addr) = server.local_addrs()[0] else { unreachable!("TCP was asked for") };
        let (handle, remote) = (server.handle(), server.remote());
        let thread = thread::spawn(move || server.run(|_| service(&remote)).unwrap());
        Some(Self { port: addr.port(), handle, thread: Some(thread) })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.handle.stop();
        self.thread.take().map(thread::JoinHandle::join);
    }
}
