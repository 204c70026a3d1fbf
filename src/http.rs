//! Request heads and plain responses.
