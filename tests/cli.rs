//! The command `ringwire`, run as its users run it.
