//! The ring's own table of descriptors: who has which place.
//!
//! A socket in it needs no descriptor of the process, so each ring brings as many as RLIMIT_NOFILE
//! once more. The places are given out here and not by the kernel: an accept names its place in
//! advance, and a socket that is to connect is put into its place by a call, before its descriptor
//! could pile up with others'.

use std::os::fd::{AsFd, AsRawFd, IntoRawFd, OwnedFd};
use std::rc::Rc;

use super::port::{Orphans, Target, UringSocket};
use super::ring::Ring;
use crate::driver::sys;

/// At most this many places: the table costs kernel memory from the start.
const MAX_DIRECT: u32 = 32_768;

pub(super) struct Directs {
    max: u32,
    /// Never given out so far: `fresh..max`.
    fresh: u32,
    /// Given back; the last one goes out first.
    free: Vec<u32>,
    orphans: Rc<Orphans>,
}

impl Directs {
    /// Registers a table for `max_connections`, as large as the process's limit allows. Without one
    /// everything is on plain descriptors.
    pub(super) fn new(ring: &Ring, max_connections: u32) -> Self {
        let nofile = sys::rlimit(libc::RLIMIT_NOFILE).map_or(0, |(soft, _)| soft);
        let wanted = u64::from(max_connections.min(MAX_DIRECT)).min(nofile) as u32;
        let max = if wanted > 0 && ring.register_direct(wanted).is_ok() { wanted } else { 0 };
        Self { max, fresh: 0, free: Vec::new(), orphans: Rc::default() }
    }

    /// A place that is free, to be given back with [`Self::put`].
    pub(super) fn take(&mut self) -> Option<u32> {
        if let Some(index) = self.free.pop() {
            return Some(index);
        }
        (self.fresh < self.max).then(|| {
            self.fresh += 1;
            self.fresh - 1
        })
    }

    /// Whatever was in that place has been closed, or nothing came there.
    pub(super) fn put(&mut self, index: u32) {
        debug_assert!(index < self.fresh && self.free.len() < self.fresh as usize, "not taken");
        self.free.push(index);
        if self.free.len() == self.fresh as usize {
            // Nobody is left: no list to keep.
            (self.free, self.fresh) = (Vec::new(), 0);
        }
    }

    /// Places taken.
    pub(super) fn taken(&self) -> u32 {
        self.fresh - self.free.len() as u32
    }

    /// A socket that closes itself when dropped.
    pub(super) fn socket(&self, target: Target) -> UringSocket {
        UringSocket { target, orphans: self.orphans.clone() }
    }

    /// Moves a socket from its descriptor into a place, if one is free.
    pub(super) fn adopt(&mut self, ring: &Ring, fd: OwnedFd) -> UringSocket {
        let Some(index) = self.take() else { return self.plain(fd) };
        match ring.install(index, fd.as_fd().as_raw_fd()) {
            Ok(()) => self.socket(Target::Direct(index)),
            Err(_) => {
                self.put(index);
                self.plain(fd)
            }
        }
    }

    fn plain(&self, fd: OwnedFd) -> UringSocket {
        self.socket(Target::Plain(fd.into_raw_fd()))
    }

    /// The place of a socket that was dropped and is still to be closed.
    pub(super) fn orphan(&self) -> Option<u32> {
        self.orphans.borrow_mut().pop()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn places_come_back_and_a_full_table_leaves_the_descriptor() {
        let ring = Ring::new(8, 4_096, false, 1, false).unwrap();
        let mut directs = Directs::new(&ring, 2);
        let (one, other) = UnixStream::pair().unwrap();
        let third = one.try_clone().unwrap();
        let sockets = [one, other, third].map(|stream| directs.adopt(&ring, stream.into()));
        let targets = [0, 1, 2].map(|at: usize| sockets[at].target);
        assert_eq!(targets[..2], [Target::Direct(0), Target::Direct(1)]);
        assert!(matches!(targets[2], Target::Plain(_)), "{targets:?}");
        assert_eq!(directs.taken(), 2);
        drop(sockets);
        assert_eq!((directs.orphan(), directs.orphan(), directs.orphan()), (Some(1), Some(0), None));
        directs.put(0);
        assert_eq!((directs.taken(), directs.take()), (1, Some(0)));
        directs.put(0);
        directs.put(1);
        assert_eq!(
            (directs.taken(), directs.take(), directs.take(), directs.take()),
            (0, Some(0), Some(1), None)
        );
    }
}
