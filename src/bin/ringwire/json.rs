//! Writes JSON (RFC 8259), as much as two small documents need.

use std::fmt::Write as _;

/// A JSON text under construction. Members are given with their values already in JSON.
#[derive(Debug, Default)]
pub struct Object(String);

impl Object {
    /// Adds a string member.
    pub fn text(self, name: &str, value: &str) -> Self {
        self.member(name, &string(value))
    }

    /// Adds a member whose value is JSON: a number, `true`, an object, an array.
    pub fn member(mut self, name: &str, json: &str) -> Self {
        self.0.push(if self.0.is_empty() { '{' } else { ',' });
        self.0.push_str(&string(name));
        self.0.push(':');
        self.0.push_str(json);
        self
    }

    /// The object's text.
    pub fn finish(mut self) -> String {
        if self.0.is_empty() {
            self.0.push('{');
        }
        self.0.push('}');
        self.0
    }
}

/// A JSON array of values that are JSON already.
pub fn array(values: impl IntoIterator<Item = String>) -> String {
    let mut out = String::from("[");
    for (index, value) in values.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        out.push_str(&value);
    }
    out.push(']');
    out
}

/// A JSON string, quoted and escaped (§7).
pub fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            control if control < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(control));
            }
            other => out.push(other),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_needs_escaping_is_escaped() {
        let object = Object::default().text("a\"b", "back\\slash\nline").member("n", "1");
        assert_eq!(object.finish(), r#"{"a\"b":"back\\slash\u000aline","n":1}"#);
        assert_eq!(Object::default().finish(), "{}");
        assert_eq!(array(["1".to_owned(), string("é")]), "[1,\"é\"]");
    }
}
