//! Pins the crate that carries the sources of uWebSockets; see `Cargo.toml`.
