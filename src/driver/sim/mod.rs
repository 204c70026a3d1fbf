//! A driver without a kernel: seeded, deterministic, in memory.
//!
//! [`SimNet`] is the world: a virtual clock, peers and [`Faults`]. [`Sim`] is the [`Driver`] that
//! lives in it. Nothing here reads a clock, a random device or the order of a hash map, so one seed
//! and one sequence of calls give the same events every time; a test that fails prints its seed and
//! the trace, and fails again when run again. The seven laws hold under every fault. Worlds of odd seeds try a send
//! when it is asked for, as epoll does, and those of even ones when the turn ends, as io_uring does.
//!
//! ```
//! use ringwire::driver::sim::{Faults, Sim, SimNet};
//! use ringwire::driver::{Driver, DriverConfig, Event, SendBuf, Token};
//!
//! let config = DriverConfig {
//!     max_connections: 16,
//!     receive_buffers: 8,
//!     receive_buffer_bytes: 4096,
//!     max_receive_bytes_per_turn: 65_536,
//!     shards_per_core: 1,
//!     busy_poll: false,
//! };
//! let net = SimNet::new(42, Faults::rough().without_errors());
//! let _guard = net.trace_on_panic();
//! let mut driver = Sim::new(&net, &config);
//! let mut peer = net.connect();
//! peer.write(b"hello");
//!
//! let token = Token { slot: 0, generation: 1 };
//! let mut seen = Vec::new();
//! while seen.len() < 5 {
//!     driver.turn(None).unwrap();
//!     while let Some(event) = driver.next_event() {
//!         match event {
//!             Event::Accepted { socket, .. } => driver.attach(token, socket),
//!             Event::AcceptFailed(_) => driver.resume_accept(),
//!             Event::Received { lease, .. } => {
//!                 seen.extend_from_slice(driver.bytes(&lease));
//!                 driver.release(lease);
//!             }
//!             Event::Woken => {}
//!             other => panic!("{other:?}"),
//!         }
//!     }
//! }
//! assert_eq!(seen, b"hello");
//! ```
//!
//! [`Driver`]: super::Driver

mod driver;
mod faults;
mod net;
mod port;
mod rng;
#[cfg(test)]
mod tests;
mod trace;
mod turn;
mod wire;
mod world;

pub use driver::{Sim, SimSocket};
pub use faults::{Fault, Faults};
pub use net::{SimListener, SimNet, SimPeer, TraceOnPanic};
pub use rng::SimRng;
