//! Finds the end of a head that arrives in pieces, looking at each byte once.

use super::HeadError;

/// A resumable search for the empty line that ends a head.
///
/// ```
/// use ringwire::http::HeadScanner;
/// let mut scanner = HeadScanner::default();
/// assert_eq!(scanner.scan(b"GET / HTTP/1.1\r\nHost: a\r\n", 1024), Ok(None));
/// assert_eq!(scanner.scan(b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest", 1024), Ok(Some(27)));
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScanner {
    /// Bytes looked at.
    scanned: u32,
    /// Where the unfinished line begins.
    line_start: u32,
    /// A line that is not empty has ended.
    begun: bool,
}

impl HeadScanner {
    /// Searches `buf`, which begins with what earlier calls were given. Returns the length of the
    /// head with its empty line, or `None` if more is needed. After an end has been found, use a
    /// new scanner for the next head.
    ///
    /// Empty lines in front of the request line are skipped (RFC 9112 §2.2) and count.
    ///
    /// # Errors
    /// [`HeadError::TooLarge`] if the head does not end within `max_head_bytes`;
    /// [`HeadError::BareLineFeed`].
    pub fn scan(&mut self, buf: &[u8], max_head_bytes: u32) -> Result<Option<usize>, HeadError> {
        let window = &buf[..buf.len().min(max_head_bytes as usize)];
        let from = (self.scanned as usize).min(window.len());
        for feed in memchr::memchr_iter(b'\n', &window[from..]) {
            let feed = from + feed;
            let line = &window[self.line_start as usize..feed];
            let [line @ .., b'\r'] = line else { return Err(HeadError::BareLineFeed) };
            if line.is_empty() && self.begun {
                return Ok(Some(feed + 1));
            }
            self.begun |= !line.is_empty();
            self.line_start = feed as u32 + 1;
        }
        self.scanned = window.len() as u32;
        if buf.len() >= max_head_bytes as usize { Err(HeadError::TooLarge) } else { Ok(None) }
    }
}
