//! RFC 6455 §5 to §7 once more, slowly: the oracle for decoding.
//!
//! One pass over all that was ever received, a copy of every payload, no state between calls.

use crate::ws_support::Seen;
use ringwire::ws::{CloseCode, Role, Violation};

/// What a listener heard.
pub struct Heard {
    /// In order, up to a Close frame or a violation.
    pub seen: Vec<Seen>,
    /// Bytes of whole frames up to and with a Close frame.
    pub whole_frames: usize,
}

/// Listens in `role` to all of `bytes`. `max_message_bytes` is `None` where there is no limit.
pub fn listen(role: Role, bytes: &[u8], max_message_bytes: Option<u32>) -> Heard {
    let mut heard = Heard { seen: Vec::new(), whole_frames: 0 };
    if let Err(violation) = frames(role, bytes, max_message_bytes, &mut heard) {
        heard.seen.push(Seen::Broke(violation));
    }
    heard
}

/// A message under way: its first opcode and the payload so far.
type Message = Option<(u8, Vec<u8>)>;

fn frames(role: Role, bytes: &[u8], limit: Option<u32>, heard: &mut Heard) -> Result<(), Violation> {
    let mut message: Message = None;
    let mut declared = 0u64;
    while let Some(&[b0, b1, ref rest @ ..]) = bytes.get(heard.whole_frames..) {
        let (fin, opcode, masked) = (b0 >= 0x80, b0 & 15, b1 >= 0x80);
        judge_start(role, b0, b1, message.is_some())?;
        let extended = match b1 & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mask_len = if masked { 4 } else { 0 };
        let Some((header, body)) = rest.split_at_checked(extended + mask_len) else { return Ok(()) };
        let (length, mask) = header.split_at(extended);
        let length = match extended {
            0 => u64::from(b1 & 0x7f),
            _ => length.iter().fold(0, |length, &byte| length << 8 | u64::from(byte)),
        };
        let least = [0, 0, 126, 0, 0, 0, 0, 0, 65_536][extended];
        if length < least {
            return Err(Violation::LengthNotMinimal);
        }
        if length > i64::MAX as u64 {
            return Err(Violation::LengthOutOfRange);
        }
        let have = usize::try_from(length).unwrap_or(usize::MAX).min(body.len());
        let whole = have as u64 == length;
        let payload = (0..have).map(|i| body[i] ^ mask.get(i % 4).unwrap_or(&0)).collect::<Vec<u8>>();
        if opcode >= 8 {
            if !whole {
                return Ok(());
            }
            heard.seen.push(control(opcode, payload)?);
        } else {
            declared = if opcode > 0 { length } else { declared.saturating_add(length) };
            if limit.is_some_and(|limit| declared > u64::from(limit)) {
                return Err(Violation::MessageTooBig);
            }
            let (kind, so_far) = message.get_or_insert((opcode, Vec::new()));
            so_far.extend_from_slice(&payload);
            if *kind == 1 && std::str::from_utf8(so_far).is_err_and(|error| error.error_len().is_some()) {
                return Err(Violation::InvalidUtf8);
            }
            if !whole {
                return Ok(());
            }
            if fin && let Some(message) = message.take() {
                heard.seen.push(data(message)?);
            }
        }
        heard.whole_frames += 2 + header.len() + have;
        if opcode == 8 {
            break;
        }
    }
    Ok(())
}

/// What the first two bytes of a frame tell.
fn judge_start(role: Role, b0: u8, b1: u8, inside: bool) -> Result<(), Violation> {
    let (fin, opcode, masked) = (b0 >= 0x80, b0 & 15, b1 >= 0x80);
    let rules = [
        (b0 & 0x70 != 0, Violation::ReservedBits),
        (![0, 1, 2, 8, 9, 10].contains(&opcode), Violation::UnknownOpcode),
        (opcode >= 8 && !fin, Violation::FragmentedControl),
        (opcode >= 8 && b1 & 0x7f > 125, Violation::ControlTooLong),
        (opcode == 0 && !inside, Violation::UnexpectedContinuation),
        ((opcode == 1 || opcode == 2) && inside, Violation::MessageInsideMessage),
        (role == Role::Server && !masked, Violation::Unmasked),
        (role == Role::Client && masked, Violation::Masked),
    ];
    match rules.into_iter().find(|(broken, _)| *broken) {
        Some((_, violation)) => Err(violation),
        None => Ok(()),
    }
}

fn control(opcode: u8, payload: Vec<u8>) -> Result<Seen, Violation> {
    match (opcode, &*payload) {
        (9, _) => Ok(Seen::Ping(payload)),
        (10, _) => Ok(Seen::Pong(payload)),
        (_, []) => Ok(Seen::Close(None, String::new())),
        (_, [_]) => Err(Violation::CloseBodyTruncated),
        (_, [high, low, reason @ ..]) => {
            let code = u16::from(*high) << 8 | u16::from(*low);
            let allowed = [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014];
            if !allowed.contains(&code) && !(3000..5000).contains(&code) {
                return Err(Violation::CloseCodeInvalid);
            }
            let reason = String::from_utf8(reason.to_vec()).map_err(|_| Violation::CloseReasonNotUtf8)?;
            Ok(Seen::Close(Some(CloseCode(code)), reason))
        }
    }
}

fn data((opcode, payload): (u8, Vec<u8>)) -> Result<Seen, Violation> {
    if opcode == 2 {
        return Ok(Seen::Binary(payload));
    }
    String::from_utf8(payload).map(Seen::Text).map_err(|_| Violation::InvalidUtf8)
}
