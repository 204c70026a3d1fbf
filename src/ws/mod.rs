//! The WebSocket protocol, sans-IO.
