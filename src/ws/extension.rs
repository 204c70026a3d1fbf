//! `Sec-WebSocket-Extensions` as a list of names with parameters (RFC 6455 §9.1).
//!
//! A linear tokenizer over the header's text: every byte is looked at a bounded number of times and
//! nothing is allocated, but for quoted values with escapes.

use crate::http::{is_token, is_token_byte};
use std::borrow::Cow;

/// The header does not follow the grammar of RFC 6455 §9.1: the handshake is to be failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedExtensions;

impl std::fmt::Display for MalformedExtensions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Sec-WebSocket-Extensions is not a list of `name; param=value`")
    }
}

impl std::error::Error for MalformedExtensions {}

/// One offered extension.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extension<'a> {
    /// Its registered token, as `permessage-deflate`.
    pub name: &'a str,
    /// `; name=value` pairs, checked.
    params: &'a str,
}

impl<'a> Extension<'a> {
    /// The parameters in order. A value is `None` if there is no `=`; quotes are taken off.
    /// Repeated parameters are repeated here: what they mean is the extension's to say.
    pub fn params(&self) -> impl Iterator<Item = (&'a str, Option<Cow<'a, str>>)> + use<'a> {
        let mut rest = Cursor { rest: self.params };
        std::iter::from_fn(move || if rest.eat(';') { rest.param() } else { None })
    }
}

/// Walks one header value; ends after the first error.
///
/// ```
/// use ringwire::ws::extension::parse;
/// let list: Result<Vec<_>, _> = parse("permessage-deflate; client_max_window_bits=\"10\", x").collect();
/// let list = list?;
/// assert_eq!((list[0].name, list[1].name), ("permessage-deflate", "x"));
/// assert_eq!(list[0].params().next(), Some(("client_max_window_bits", Some("10".into()))));
/// # Ok::<(), ringwire::ws::extension::MalformedExtensions>(())
/// ```
pub fn parse(value: &str) -> impl Iterator<Item = Result<Extension<'_>, MalformedExtensions>> {
    let mut cursor = Some(Cursor { rest: value });
    std::iter::from_fn(move || {
        let mut at = cursor.take()?;
        // Empty list elements are to be ignored (RFC 9110 §5.6.1.2).
        while at.eat(',') {}
        if at.rest.is_empty() {
            return None;
        }
        let extension = at.extension();
        if extension.is_some() && (at.rest.is_empty() || at.eat(',')) {
            cursor = Some(at);
            return extension.map(Ok);
        }
        Some(Err(MalformedExtensions))
    })
}

#[derive(Clone, Copy)]
struct Cursor<'a> {
    rest: &'a str,
}

impl<'a> Cursor<'a> {
    fn extension(&mut self) -> Option<Extension<'a>> {
        let name = self.token()?;
        let params = self.rest;
        while self.eat(';') {
            self.param()?;
        }
        Some(Extension { name, params: &params[..params.len() - self.rest.len()] })
    }

    fn param(&mut self) -> Option<(&'a str, Option<Cow<'a, str>>)> {
        let name = self.token()?;
        if !self.eat('=') {
            return Some((name, None));
        }
        let value = if self.eat('"') { self.quoted()? } else { Cow::Borrowed(self.token()?) };
        Some((name, Some(value)))
    }

    /// The value behind an opening quote. Unescaped it must be a token (RFC 6455 §9.1).
    fn quoted(&mut self) -> Option<Cow<'a, str>> {
        let mut unescaped: Option<String> = None;
        let (text, mut bytes) = (self.rest, self.rest.bytes().enumerate());
        while let Some((i, byte)) = bytes.next() {
            match byte {
                b'"' => {
                    self.rest = text[i + 1..].trim_start_matches(WHITESPACE);
                    let value = unescaped.map_or(Cow::Borrowed(&text[..i]), Cow::Owned);
                    return is_token(&value).then_some(value);
                }
                b'\\' => {
                    let (_, escaped) = bytes.next()?;
                    unescaped.get_or_insert_with(|| text[..i].to_owned()).push(char::from(escaped));
                }
                _ => {
                    if let Some(value) = &mut unescaped {
                        value.push(char::from(byte));
                    }
                }
            }
        }
        None
    }

    fn token(&mut self) -> Option<&'a str> {
        self.rest = self.rest.trim_start_matches(WHITESPACE);
        let len = self.rest.bytes().position(|byte| !is_token_byte(byte)).unwrap_or(self.rest.len());
        let (token, rest) = self.rest.split_at(len);
        self.rest = rest.trim_start_matches(WHITESPACE);
        (len > 0).then_some(token)
    }

    fn eat(&mut self, delimiter: char) -> bool {
        self.rest = self.rest.trim_start_matches(WHITESPACE);
        match self.rest.strip_prefix(delimiter) {
            Some(rest) => {
                self.rest = rest;
                true
            }
            None => false,
        }
    }
}

const WHITESPACE: [char; 2] = [' ', '\t'];
