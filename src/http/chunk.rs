//! Pieces of a body whose length is not known at its begin (RFC 9112 §7.1).

/// Ends the body.
pub(crate) const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

/// Of a chunk, beside its content, at most: 16 digits and two ends of lines.
pub(crate) const CHUNK_OVERHEAD_BYTES: usize = 20;

/// Appends as one chunk what `write` appends, at least one byte and at most `max_bytes`.
pub(crate) fn write_chunk(out: &mut Vec<u8>, max_bytes: usize, write: impl FnOnce(&mut Vec<u8>)) {
    let digits = (max_bytes.max(1).ilog2() / 4 + 1) as usize;
    let size_at = out.len();
    out.resize(size_at + digits, b'0');
    out.extend_from_slice(b"\r\n");
    let content_at = out.len();
    write(out);
    let mut size = out.len() - content_at;
    debug_assert!((1..=max_bytes).contains(&size), "{size} bytes, {max_bytes} announced");
    for place in out[size_at..size_at + digits].iter_mut().rev() {
        *place = b"0123456789abcdef"[size % 16];
        size /= 16;
    }
    out.extend_from_slice(b"\r\n");
}

/// Where the content of a whole chunk stands in it.
pub(crate) fn chunk_content(chunk: &[u8]) -> std::ops::Range<usize> {
    let begin = memchr::memchr(b'\n', chunk).map_or(0, |at| at + 1);
    begin..chunk.len() - 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_tells_its_size() {
        let cases = [(1, 1, "1\r\n"), (15, 16, "0f\r\n"), (255, 255, "ff\r\n"), (256, 70_000, "00100\r\n")];
        for (bytes, max, begin) in cases {
            let content = vec![b'x'; bytes];
            let mut out = b"before".to_vec();
            write_chunk(&mut out, max, |out| out.extend_from_slice(&content));
            let chunk = out.split_off("before".len());
            assert_eq!(chunk, [begin.as_bytes(), &content, b"\r\n"].concat());
            assert_eq!(chunk[chunk_content(&chunk)], content);
        }
    }
}
