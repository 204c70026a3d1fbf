//! ringwire: a WebSocket server engine.

pub mod config;
pub mod driver;
pub mod http;
pub mod simd;
pub mod ws;

pub use config::{Deadlines, DriverChoice, Limits, ListenAddr, OriginPolicy, ParseListenAddrError};
