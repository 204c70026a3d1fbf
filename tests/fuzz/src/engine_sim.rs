//! (to be written)
pub fn run(_: &[u8]) {}
