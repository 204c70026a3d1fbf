//! Alerts by their numbers (RFC 8446 §6).

use std::fmt;

/// What one end of a TLS connection tells the other when it ends it (RFC 8446 §6.2).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Alert(pub u8);

pub(super) const WARNING: u8 = 1;
const FATAL: u8 = 2;

pub(super) const CLOSE_NOTIFY: Alert = Alert(0);
pub(super) const UNEXPECTED_MESSAGE: Alert = Alert(10);
pub(super) const BAD_RECORD_MAC: Alert = Alert(20);
pub(super) const RECORD_OVERFLOW: Alert = Alert(22);
pub(super) const ILLEGAL_PARAMETER: Alert = Alert(47);
pub(super) const DECODE_ERROR: Alert = Alert(50);
pub(super) const INTERNAL_ERROR: Alert = Alert(80);
pub(super) const USER_CANCELED: Alert = Alert(90);
pub(super) const NO_RENEGOTIATION: Alert = Alert(100);

impl Alert {
    pub(super) fn to_bytes(self) -> [u8; 2] {
        let level = if matches!(self, CLOSE_NOTIFY | NO_RENEGOTIATION) { WARNING } else { FATAL };
        [level, self.0]
    }
}

impl fmt::Debug for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Alert({self})")
    }
}

impl fmt::Display for Alert {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match rustls::AlertDescription::from(self.0).as_str() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}
