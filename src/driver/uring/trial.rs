//! What io_uring offers here, found out by trying it on a small ring of the mode the driver uses.
//!
//! Touches a ring and a socket pair of its own, for the length of one call. A feature counts when
//! it worked, not when the kernel's version promises it; only what the driver does not use itself
//! is taken from the kernel's own list of operations and feature bits.

use io_uring::types::Napi;
use io_uring::{Probe, opcode};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use super::port::Target;
use super::ring::Ring;

/// What was found. The mode flags themselves (`SINGLE_ISSUER`, `DEFER_TASKRUN`) and provided
/// buffers are there when a trial returns at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::driver) struct Found {
    pub multishot_receive: bool,
    pub direct_descriptors: bool,
    pub multishot_accept: bool,
    pub send_zero_copy: bool,
    pub receive_bundles: bool,
    pub incremental_buffers: bool,
    pub no_sq_array: bool,
    pub min_wait: bool,
    pub ring_messages: bool,
    pub registered_ring: bool,
    pub napi: bool,
}

/// Sets up a ring and tries it.
///
/// # Errors
/// Those of [`Ring::new`]: io_uring is denied or too old.
pub(in crate::driver) fn run() -> io::Result<Found> {
    let mut ring = Ring::new(8, 4_096, true, 1, false)?;
    let mut found = Found {
        multishot_receive: receives_twice(&mut ring).unwrap_or(false),
        direct_descriptors: ring.register_direct(8).is_ok(),
        incremental_buffers: ring.shares_buffers(),
        registered_ring: ring.is_registered(),
        no_sq_array: ring.has_no_sq_array(),
        ..Found::default()
    };
    let io = ring.io();
    found.receive_bundles = io.params().is_feature_recvsend_bundle();
    found.min_wait = io.params().is_feature_min_timeout();
    let mut probe = Probe::new();
    if io.submitter().register_probe(&mut probe).is_ok() {
        found.send_zero_copy = probe.is_supported(opcode::SendZc::CODE);
        found.ring_messages = probe.is_supported(opcode::MsgRingData::CODE);
        // No operation of its own; it came in the same release as this one, Linux 5.19.
        found.multishot_accept = probe.is_supported(opcode::Socket::CODE);
    }
    let mut napi = Napi::new();
    if io.submitter().register_napi(&mut napi).is_ok() {
        found.napi = true;
        let _ = io.submitter().unregister_napi(&mut napi);
    }
    Ok(found)
}

/// One armed receive must bring two messages.
fn receives_twice(ring: &mut Ring) -> io::Result<bool> {
    let (mut near, far) = UnixStream::pair()?;
    ring.push_receive(Target::Plain(far.as_raw_fd()), 1);
    for message in [&b"one"[..], b"other"] {
        ring.enter(Some(Duration::ZERO))?;
        near.write_all(message)?;
        ring.enter(Some(Duration::from_millis(500)))?;
        ring.reap(|_| None);
        let Some(completion) = ring.pop() else { return Ok(false) };
        let Some((index, more)) = completion.buffer() else { return Ok(false) };
        let len = completion.result.max(0) as u32;
        let offset = ring.buffers().take(index, len, more);
        let whole = ring.buffers().bytes(index, offset, len) == message;
        ring.buffers().put(index);
        if !whole || completion.is_last() {
            return Ok(false);
        }
    }
    Ok(true)
}
