//! One server-sent event (HTML Living Standard §9.2), written so that no field can end another.

/// An event of a `text/event-stream`. A browser's `EventSource` hears it.
///
/// ```
/// use ringwire::http::Event;
/// let mut out = Vec::new();
/// Event::data("goal!\n1:0").id("7").name("score").encode(&mut out);
/// assert_eq!(out, b"id: 7\nevent: score\ndata: goal!\ndata: 1:0\n\n");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event<'a> {
    data: &'a str,
    id: Option<&'a str>,
    name: Option<&'a str>,
    retry_ms: Option<u32>,
}

impl<'a> Event<'a> {
    /// An event with this text. What ends a line in it (LF, CR or both) reaches the client as LF.
    pub const fn data(data: &'a str) -> Self {
        Self { data, id: None, name: None, retry_ms: None }
    }

    /// What the client sends as `Last-Event-ID` when it comes again. Without CR, LF and NUL, which
    /// cannot stand in it and are left out.
    pub const fn id(mut self, id: &'a str) -> Self {
        self.id = Some(id);
        self
    }

    /// The type that listeners ask for; `message` if there is none. Without CR and LF, which cannot
    /// stand in it and are left out.
    pub const fn name(mut self, name: &'a str) -> Self {
        self.name = Some(name);
        self
    }

    /// How long the client waits before it comes again.
    pub const fn retry_ms(mut self, milliseconds: u32) -> Self {
        self.retry_ms = Some(milliseconds);
        self
    }

    pub(crate) const fn text(&self) -> &'a str {
        self.data
    }

    /// Appends the event to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        for (field, value) in [("id: ", self.id), ("event: ", self.name)] {
            let Some(value) = value else { continue };
            out.extend_from_slice(field.as_bytes());
            out.extend(value.bytes().filter(|byte| !matches!(byte, b'\r' | b'\n' | 0)));
            out.push(b'\n');
        }
        if let Some(milliseconds) = self.retry_ms {
            out.extend_from_slice(format!("retry: {milliseconds}\n").as_bytes());
        }
        let mut rest = self.data.as_bytes();
        loop {
            let end = memchr::memchr2(b'\r', b'\n', rest);
            out.extend_from_slice(b"data: ");
            out.extend_from_slice(&rest[..end.unwrap_or(rest.len())]);
            out.push(b'\n');
            let Some(end) = end else { break };
            let both = rest[end..].starts_with(b"\r\n");
            rest = &rest[end + 1 + usize::from(both)..];
        }
        out.push(b'\n');
    }

    /// Appends the event as a chunk of its own.
    pub(crate) fn encode_chunk(&self, out: &mut Vec<u8>) {
        super::write_chunk(out, self.max_bytes(), |out| self.encode(out));
    }

    /// The most bytes that [`encode`](Self::encode) appends.
    pub(crate) fn max_bytes(&self) -> usize {
        let lines = 1 + memchr::memchr2_iter(b'\r', b'\n', self.data.as_bytes()).count();
        let fields = self.id.map_or(0, str::len) + self.name.map_or(0, str::len);
        self.data.len() + lines * b"data: \n".len() + fields + 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(event: Event<'_>) -> String {
        let mut out = Vec::new();
        event.encode(&mut out);
        assert!(out.len() <= event.max_bytes(), "{} > {}", out.len(), event.max_bytes());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn every_kind_of_line_end_begins_a_line() {
        assert_eq!(encoded(Event::data("")), "data: \n\n");
        assert_eq!(encoded(Event::data("a")), "data: a\n\n");
        assert_eq!(encoded(Event::data("a\nb\rc\r\nd")), "data: a\ndata: b\ndata: c\ndata: d\n\n");
        assert_eq!(encoded(Event::data("\r\n\n")), "data: \ndata: \ndata: \n\n");
    }

    #[test]
    fn no_field_ends_another() {
        let event = Event::data("x\n\ndata: y").id("1\ndata: z").name("a\r\n\r\nb").retry_ms(2_000);
        let text = "id: 1data: z\nevent: ab\nretry: 2000\ndata: x\ndata: \ndata: data: y\n\n";
        assert_eq!(encoded(event), text);
        assert_eq!(encoded(Event::data("x").id("\0")), "id: \ndata: x\n\n");
    }
}
