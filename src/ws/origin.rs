//! Who may open a WebSocket from a page: `Origin` (RFC 6454) against the policy.

use super::handshake::Refusal;
use crate::config::OriginPolicy;
use crate::http::Head;

/// Judges the request's `Origin` field. `host` is the authority that the request was sent to.
pub(super) fn check(origin: Option<&[u8]>, host: &str, policy: &OriginPolicy) -> Result<(), Refusal> {
    let admitted = match (policy, origin) {
        (OriginPolicy::Any, _) => true,
        (OriginPolicy::SameOrigin, None) => true,
        (OriginPolicy::Allow { require, .. }, None) if *require => return Err(Refusal::OriginMissing),
        (OriginPolicy::Allow { .. }, None) => true,
        (_, Some(origin)) => match std::str::from_utf8(origin) {
            Ok(origin) => match policy {
                OriginPolicy::Allow { origins, .. } => origins.iter().any(|allowed| is_same(allowed, origin)),
                _ => names_host(origin, host),
            },
            Err(_) => false,
        },
    };
    if admitted { Ok(()) } else { Err(Refusal::OriginForeign) }
}

/// Whether the request's `Origin`, if it has one, is that of a page from the host that was asked.
pub(crate) fn is_same_origin(head: &Head<'_>) -> bool {
    let host = head.authority().unwrap_or_default();
    head.single("origin").is_ok_and(|origin| check(origin, host, &OriginPolicy::SameOrigin).is_ok())
}

/// Whether two serialized origins are one (RFC 6454 §5), default ports filled in.
fn is_same(a: &str, b: &str) -> bool {
    match (WebOrigin::parse(a), WebOrigin::parse(b)) {
        (Some(a), Some(b)) => {
            a.default_port == b.default_port && a.host.eq_ignore_ascii_case(b.host) && a.port == b.port
        }
        (None, None) => a.eq_ignore_ascii_case(b), // `chrome-extension://…`, or `null` if allowed by name
        _ => false,
    }
}

/// Whether an origin is that of pages served from `host`. The scheme cannot be compared, for TLS
/// may end at a proxy; it only tells which port is meant where none is named.
fn names_host(origin: &str, host: &str) -> bool {
    WebOrigin::parse(origin).is_some_and(|origin| {
        split_port(host, origin.default_port)
            .is_some_and(|(host, port)| origin.host.eq_ignore_ascii_case(host) && origin.port == port)
    })
}

/// An origin of a page that came by HTTP.
struct WebOrigin<'a> {
    host: &'a str,
    port: u16,
    /// Stands for the scheme.
    default_port: u16,
}

impl<'a> WebOrigin<'a> {
    fn parse(origin: &'a str) -> Option<Self> {
        let (scheme, authority) = origin.split_once("://")?;
        let default_port = match scheme {
            _ if scheme.eq_ignore_ascii_case("http") => 80,
            _ if scheme.eq_ignore_ascii_case("https") => 443,
            _ => return None,
        };
        let (host, port) = split_port(authority, default_port)?;
        Some(Self { host, port, default_port })
    }
}

/// `host[:port]`; brackets stay with an IPv6 address. `None` if it is neither.
fn split_port(authority: &str, default_port: u16) -> Option<(&str, u16)> {
    if !crate::http::is_authority(authority.as_bytes()) {
        return None;
    }
    let host_end = authority.rfind(']').map_or(0, |bracket| bracket + 1);
    match authority[host_end..].find(':') {
        None => Some((authority, default_port)),
        Some(colon) => {
            let (host, port) = authority.split_at(host_end + colon);
            let port = if port.len() == 1 { default_port } else { port[1..].parse().ok()? };
            Some((host, port))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn same_origin_compares_host_and_port() {
        for (origin, host, same) in [
            ("http://example.org", "example.org", true),
            ("https://example.org", "example.org", true),
            ("http://Example.ORG", "example.org:80", true),
            ("https://example.org:443", "EXAMPLE.org", true),
            ("http://[::1]:9001", "[::1]:9001", true),
            ("http://[::1]", "[::1]:80", true),
            ("http://example.org:8080", "example.org", false),
            ("https://example.org", "example.org:80", false),
            ("http://evil.example", "example.org", false),
            ("http://example.org.evil.example", "example.org", false),
            ("http://example.org@evil.example", "example.org", false),
            ("http://example.org:99999", "example.org:99999", false),
            ("http://example.org/", "example.org", false),
            ("null", "null", false),
            ("", "example.org", false),
            ("file://", "example.org", false),
            ("chrome-extension://example.org", "example.org", false),
        ] {
            let verdict = check(Some(origin.as_bytes()), host, &OriginPolicy::SameOrigin);
            let expected = if same { Ok(()) } else { Err(Refusal::OriginForeign) };
            assert_eq!(verdict, expected, "{origin} at {host}");
        }
        assert_eq!(check(None, "example.org", &OriginPolicy::SameOrigin), Ok(()));
        assert_eq!(check(Some(b"\xff"), "x", &OriginPolicy::SameOrigin), Err(Refusal::OriginForeign));
    }

    #[test]
    fn the_allow_list_is_exact() {
        let policy = |require| OriginPolicy::Allow {
            origins: vec!["https://app.example".into(), "chrome-extension://abc".into()],
            require,
        };
        for (origin, admitted) in [
            ("https://app.example", true),
            ("HTTPS://APP.example:443", true),
            ("chrome-extension://abc", true),
            ("http://app.example", false),
            ("https://app.example:444", false),
            ("https://sub.app.example", false),
            ("null", false),
        ] {
            assert_eq!(check(Some(origin.as_bytes()), "x", &policy(true)).is_ok(), admitted, "{origin}");
        }
        assert_eq!(check(None, "x", &policy(true)), Err(Refusal::OriginMissing));
        assert_eq!(check(None, "x", &policy(false)), Ok(()));
    }

    #[test]
    fn any_is_any() {
        assert_eq!(check(Some(b"null"), "x", &OriginPolicy::Any), Ok(()));
    }
}
