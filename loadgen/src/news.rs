//! The messages of a broadcast: who sent it, its number and when it was due, in hexadecimal digits
//! that survive any envelope, then filler. Pure.

use crate::payload::Fault;
use memchr::memmem;

/// In front of a message inside an envelope, to find it there.
const MARK: &[u8] = b"~rw~";
/// Hexadecimal digits of publisher, number and time.
const DIGITS: [usize; 3] = [6, 12, 16];
/// Bytes of the smallest message.
pub const MIN_BYTES: usize = 34;

/// What stands in a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item {
    /// The publisher's number.
    pub publisher: u32,
    /// Of its messages, from 0.
    pub seq: u64,
    /// When it was due to be sent, on the run's clock.
    pub due_ns: u64,
}

/// Makes and checks messages of one size.
#[derive(Clone, Debug)]
pub struct News {
    size: usize,
    /// What stands before and behind a message; `None` sends it as it is.
    envelope: Option<(String, String)>,
    out: Vec<u8>,
}

impl News {
    /// Messages of `size` bytes, at least [`MIN_BYTES`]. An `envelope` is a text with `{}` where the
    /// message is to stand.
    pub fn new(size: usize, envelope: Option<&str>) -> Self {
        let envelope = envelope.map(|text| {
            let (before, behind) = text.split_once("{}").unwrap_or((text, ""));
            (before.to_owned(), behind.to_owned())
        });
        Self { size: size.max(MIN_BYTES), envelope, out: Vec::new() }
    }

    /// The bytes to send.
    pub fn write(&mut self, item: Item) -> &[u8] {
        self.out.clear();
        if let Some((before, _)) = &self.envelope {
            self.out.extend_from_slice(before.as_bytes());
            self.out.extend_from_slice(MARK);
        }
        let start = self.out.len();
        for (number, digits) in [item.publisher.into(), item.seq, item.due_ns].into_iter().zip(DIGITS) {
            let hex =
                (0..digits).rev().map(|place| b"0123456789abcdef"[(number >> (4 * place)) as usize & 15]);
            self.out.extend(hex);
        }
        self.out.extend((self.out.len() - start..self.size).map(|at| filler(item.seq, at)));
        if let Some((_, behind)) = &self.envelope {
            self.out.extend_from_slice(behind.as_bytes());
        }
        &self.out
    }

    /// What a received message holds; `None` if it is none of ours, as only an envelope allows.
    ///
    /// # Errors
    /// If it is not what was sent.
    pub fn read(&self, bytes: &[u8]) -> Result<Option<Item>, Fault> {
        let message = match &self.envelope {
            None => bytes,
            Some(_) => match memmem::find(bytes, MARK) {
                Some(at) => bytes.get(at + MARK.len()..).unwrap_or_default(),
                None => return Ok(None),
            },
        };
        if message.len() < self.size || (self.envelope.is_none() && message.len() != self.size) {
            return Err(Fault::Length(bytes.len()));
        }
        let mut rest = &message[..self.size];
        let mut number = |digits: usize| {
            let (head, tail) = rest.split_at(digits);
            rest = tail;
            head.iter()
                .try_fold(0_u64, |sum, digit| Some(sum << 4 | u64::from(char::from(*digit).to_digit(16)?)))
        };
        let [Some(publisher), Some(seq), Some(due_ns)] = DIGITS.map(&mut number) else {
            return Err(Fault::Content);
        };
        let whole = rest.iter().enumerate().all(|(at, byte)| *byte == filler(seq, MIN_BYTES + at));
        if !whole {
            return Err(Fault::Content);
        }
        Ok(Some(Item { publisher: publisher as u32, seq, due_ns }))
    }
}

/// Letters, other ones for each message.
fn filler(seq: u64, at: usize) -> u8 {
    b'a' + ((seq as usize).wrapping_mul(7).wrapping_add(at) % 26) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEM: Item = Item { publisher: 3, seq: 70_000, due_ns: 123_456_789_012_345 };

    #[test]
    fn messages_say_who_when_and_which() {
        for size in [MIN_BYTES, 100, 4_096] {
            let mut news = News::new(size, None);
            let bytes = news.write(ITEM).to_vec();
            assert_eq!(bytes.len(), size);
            assert_eq!(news.read(&bytes), Ok(Some(ITEM)));
            assert!(news.read(&bytes[1..]).is_err());
            for at in 0..size {
                let mut broken = bytes.clone();
                broken[at] ^= 1;
                assert_ne!(news.read(&broken), Ok(Some(ITEM)), "byte {at}");
            }
        }
    }

    #[test]
    fn an_envelope_may_change_on_the_way() {
        let mut news = News::new(40, Some(r#"{"publish":"room/1","data":"{}"}"#));
        let sent = String::from_utf8(news.write(ITEM).to_vec()).unwrap();
        assert!(
            sent.starts_with(r#"{"publish":"room/1","data":"~rw~0000030"#) && sent.ends_with("\"}"),
            "{sent}"
        );
        let data = sent.split('"').nth(7).unwrap();
        let received = format!(r#"{{"topic":"room/1","id":9,"data":"{data}"}}"#);
        assert_eq!(news.read(received.as_bytes()), Ok(Some(ITEM)));
        assert_eq!(news.read(br#"{"subscribed":"room/1"}"#), Ok(None));
        assert!(news.read(b"~rw~00").is_err());
    }
}
