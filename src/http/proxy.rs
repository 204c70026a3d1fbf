//! The PROXY protocol's header, versions 1 and 2 (haproxy's `proxy-protocol.txt`, 2020/03/05): what a load
//! balancer says first about who is behind it.
//!
//! Sans-IO: a slice in, its length and an address out. The contract: whether a slice begins with a
//! header does not depend on how much more of it has come; the first byte that cannot belong to one is
//! an error.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The longest line of version 1, with its CR LF (§2.1).
const MAX_V1_BYTES: usize = 107;
/// What stands before the addresses of version 2.
const V2_HEAD_BYTES: usize = 16;
/// The most that addresses and TLVs of version 2 may take; a certificate's name fits.
const MAX_V2_REST_BYTES: usize = 4_096;
const V1_BEGIN: &[u8] = b"PROXY ";
const V2_BEGIN: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// A CRC-32C of the whole header (§2.2.3).
const TLV_CHECKSUM: u8 = 0x03;

/// A whole header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    /// Its length.
    pub bytes: usize,
    /// The client's address; `None` where the connection is the proxy's own (`LOCAL`), or of a family
    /// that is not IP.
    pub source: Option<SocketAddr>,
}

/// What came is no PROXY header, or a damaged one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidProxyHeader;

impl std::fmt::Display for InvalidProxyHeader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("no valid PROXY protocol header: let the proxy send one, or do not trust it")
    }
}

impl std::error::Error for InvalidProxyHeader {}

/// Reads the header at the front of `bytes`; `None` if it is not whole yet.
///
/// # Errors
/// The proxy's fault: no header, or one that is malformed, too long, not of a stream, or whose
/// checksum is wrong.
///
/// ```
/// use ringwire::http::parse_proxy;
/// let header = parse_proxy(b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 443\r\nGET / ...")?.unwrap();
/// assert_eq!(header.source, Some("192.0.2.7:50000".parse().unwrap()));
/// assert_eq!(parse_proxy(b"PROXY TCP4 192.0")?, None);
/// assert!(parse_proxy(b"GET / HTTP/1.1\r\n").is_err());
/// # Ok::<(), ringwire::http::InvalidProxyHeader>(())
/// ```
pub fn parse_proxy(bytes: &[u8]) -> Result<Option<ProxyHeader>, InvalidProxyHeader> {
    match bytes.first() {
        None => Ok(None),
        Some(b'P') => v1(bytes),
        Some(_) => v2(bytes),
    }
}

/// Whether all of `begin` is there, or what there is of it.
fn begins(bytes: &[u8], begin: &[u8]) -> Result<bool, InvalidProxyHeader> {
    let common = bytes.len().min(begin.len());
    if bytes[..common] == begin[..common] { Ok(common == begin.len()) } else { Err(InvalidProxyHeader) }
}

fn v1(bytes: &[u8]) -> Result<Option<ProxyHeader>, InvalidProxyHeader> {
    if !begins(bytes, V1_BEGIN)? {
        return Ok(None);
    }
    let line = &bytes[..bytes.len().min(MAX_V1_BYTES)];
    // A byte outside of the printable ones can only be the end.
    let Some(end) = line.iter().position(|byte| !(b' '..=b'~').contains(byte)) else {
        return if line.len() == MAX_V1_BYTES { Err(InvalidProxyHeader) } else { Ok(None) };
    };
    if !begins(&line[end..], b"\r\n")? {
        return if end + 1 == MAX_V1_BYTES { Err(InvalidProxyHeader) } else { Ok(None) };
    }
    let text = std::str::from_utf8(&line[V1_BEGIN.len()..end]).map_err(|_| InvalidProxyHeader)?;
    let source = match text.split_once(' ') {
        Some(("TCP4", rest)) => Some(v1_source::<Ipv4Addr>(rest)?),
        Some(("TCP6", rest)) => Some(v1_source::<Ipv6Addr>(rest)?),
        // What follows is to be ignored.
        _ if text == "UNKNOWN" || text.starts_with("UNKNOWN ") => None,
        _ => return Err(InvalidProxyHeader),
    };
    Ok(Some(ProxyHeader { bytes: end + 2, source }))
}

/// `source destination source-port destination-port`.
fn v1_source<I: std::str::FromStr + Into<IpAddr>>(text: &str) -> Result<SocketAddr, InvalidProxyHeader> {
    let mut words = text.split(' ');
    let mut word = || words.next().ok_or(InvalidProxyHeader);
    let ip = |word: &str| word.parse::<I>().map_err(|_| InvalidProxyHeader);
    let port = |word: &str| {
        let plain = word == "0" || word.starts_with(|c: char| ('1'..='9').contains(&c));
        word.parse::<u16>().ok().filter(|_| plain).ok_or(InvalidProxyHeader)
    };
    let source = ip(word()?)?.into();
    ip(word()?)?;
    let source = SocketAddr::new(source, port(word()?)?);
    port(word()?)?;
    if words.next().is_none() { Ok(source) } else { Err(InvalidProxyHeader) }
}

fn v2(bytes: &[u8]) -> Result<Option<ProxyHeader>, InvalidProxyHeader> {
    if !begins(bytes, V2_BEGIN)? {
        return Ok(None);
    }
    let fields = &bytes[V2_BEGIN.len()..];
    let is_local = match fields.first() {
        None => return Ok(None),
        Some(0x20) => true,
        Some(0x21) => false,
        Some(_) => return Err(InvalidProxyHeader),
    };
    // Unspecified, or a stream over IPv4, IPv6 or Unix: how long the addresses are.
    let address_bytes = match fields.get(1) {
        None => return Ok(None),
        Some(0x00) => 0,
        Some(0x11) => 12,
        Some(0x21) => 36,
        Some(0x31) => 216,
        Some(_) => return Err(InvalidProxyHeader),
    };
    let &[_, family, high, low, ..] = fields else { return Ok(None) };
    let rest_bytes = usize::from(u16::from_be_bytes([high, low]));
    if rest_bytes > MAX_V2_REST_BYTES || (!is_local && rest_bytes < address_bytes) {
        return Err(InvalidProxyHeader);
    }
    let Some(header) = bytes.get(..V2_HEAD_BYTES + rest_bytes) else { return Ok(None) };
    let rest = &header[V2_HEAD_BYTES..];
    if is_local {
        // Addresses and TLVs are to be ignored.
        return Ok(Some(ProxyHeader { bytes: header.len(), source: None }));
    }
    check_tlvs(header, V2_HEAD_BYTES + address_bytes, family)?;
    let source = match family {
        0x11 => v2_source::<4>(rest).map(|(ip, port)| SocketAddr::new(Ipv4Addr::from(ip).into(), port)),
        0x21 => v2_source::<16>(rest).map(|(ip, port)| SocketAddr::new(Ipv6Addr::from(ip).into(), port)),
        _ => None,
    };
    Ok(Some(ProxyHeader { bytes: header.len(), source }))
}

/// Source and destination address, then the ports.
fn v2_source<const N: usize>(rest: &[u8]) -> Option<([u8; N], u16)> {
    let ip = *rest.first_chunk::<N>()?;
    let port = *rest.get(2 * N..)?.first_chunk::<2>()?;
    Some((ip, u16::from_be_bytes(port)))
}

/// TLVs fill the rest of the header; of them only a checksum is looked at.
fn check_tlvs(header: &[u8], from: usize, family: u8) -> Result<(), InvalidProxyHeader> {
    if family == 0 {
        // Without a family where TLVs begin is not defined.
        return Ok(());
    }
    let mut at = from;
    while at < header.len() {
        let Some(&[kind, high, low]) = header[at..].first_chunk::<3>() else {
            return Err(InvalidProxyHeader);
        };
        let value = at + 3;
        at = value + usize::from(u16::from_be_bytes([high, low]));
        let Some(value_bytes) = header.get(value..at) else { return Err(InvalidProxyHeader) };
        if kind == TLV_CHECKSUM {
            let told = value_bytes.try_into().map(u32::from_be_bytes).map_err(|_| InvalidProxyHeader)?;
            // Computed with zeroes in its own place.
            let bytes =
                header.iter().enumerate().map(|(i, byte)| if (value..at).contains(&i) { 0 } else { *byte });
            if crc32c(bytes) != told {
                return Err(InvalidProxyHeader);
            }
        }
    }
    Ok(())
}

/// Once per connection, so that bit by bit is fast enough (RFC 3720 §B.4).
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    let step = |crc: u32, byte: u8| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 & (crc & 1).wrapping_neg()))
    };
    !bytes.fold(!0, step)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2_header(command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let mut header = V2_BEGIN.to_vec();
        header.extend_from_slice(&[command, family]);
        header.extend_from_slice(&(rest.len() as u16).to_be_bytes());
        header.extend_from_slice(rest);
        header
    }

    /// 192.0.2.7:50000 to 192.0.2.1:443.
    const V4: [u8; 12] = [192, 0, 2, 7, 192, 0, 2, 1, 0xc3, 0x50, 0x01, 0xbb];

    /// Read whole, with more behind it, and byte by byte.
    #[track_caller]
    fn check(header: &[u8], source: Option<&str>) {
        let expected = ProxyHeader { bytes: header.len(), source: source.map(|addr| addr.parse().unwrap()) };
        for cut in 0..header.len() {
            assert_eq!(parse_proxy(&header[..cut]), Ok(None), "after {cut} bytes");
        }
        assert_eq!(parse_proxy(header), Ok(Some(expected)));
        assert_eq!(parse_proxy(&[header, b"GET / HTTP/1.1\r\n"].concat()), Ok(Some(expected)));
    }

    #[test]
    fn version_1() {
        check(b"PROXY TCP4 192.0.2.7 192.0.2.1 50000 443\r\n", Some("192.0.2.7:50000"));
        check(b"PROXY TCP6 2001:db8::7 ::1 0 65535\r\n", Some("[2001:db8::7]:0"));
        check(b"PROXY UNKNOWN\r\n", None);
        check(b"PROXY UNKNOWN ffff::ffff whatever stands here 1 2\r\n", None);
        let long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(107 - 16));
        assert_eq!(long.len(), 107);
        check(long.as_bytes(), None);
    }

    #[test]
    fn version_1_that_is_none() {
        let too_long = format!("PROXY UNKNOWN {}\r\n", "f".repeat(108 - 16));
        for header in [
            "GET / HTTP/1.1\r\n",
            "PROXY\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 50000\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 50000 443 1\r\n",
            "PROXY TCP4 192.0.2.7  192.0.2.1 50000 443\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 65536 443\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 +80 443\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 080 443\r\n",
            "PROXY TCP4 192.0.02.7 192.0.2.1 80 443\r\n",
            "PROXY TCP4 ::1 ::1 80 443\r\n",
            "PROXY TCP6 192.0.2.7 192.0.2.1 80 443\r\n",
            "PROXY UDP4 192.0.2.7 192.0.2.1 80 443\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 50000 443\n",
            "PROXY TCP4 192.0.2.7 192.0.2.1 50000 443\rX",
            "PROXY TCP4 192.0.2.7\t192.0.2.1 50000 443\r\n",
            &too_long,
        ] {
            assert_eq!(parse_proxy(header.as_bytes()), Err(InvalidProxyHeader), "{header:?}");
        }
        // Garbage is known as such from its first byte.
        assert!(
            parse_proxy(b"G").is_err() && parse_proxy(b"PU").is_err() && parse_proxy(b"\r\n\r\nG").is_err()
        );
    }

    #[test]
    fn version_2() {
        check(&v2_header(0x21, 0x11, &V4), Some("192.0.2.7:50000"));
        let mut v6 = [0; 36];
        v6[0] = 0x20;
        v6[15] = 7;
        v6[33] = 80;
        check(&v2_header(0x21, 0x21, &v6), Some("[2000::7]:80"));
        check(&v2_header(0x21, 0x31, &[b'/'; 216]), None);
        check(&v2_header(0x21, 0x00, &[1, 2, 3]), None);
        check(&v2_header(0x20, 0x00, &[]), None);
        check(&v2_header(0x20, 0x11, &V4), None);
        // What the sender adds is skipped: an SNI name and padding.
        let tlvs = [&V4[..], &[0x02, 0, 4], b"a.io", &[0x04, 0, 0]].concat();
        check(&v2_header(0x21, 0x11, &tlvs), Some("192.0.2.7:50000"));
    }

    #[test]
    fn version_2_that_is_none() {
        let mut signature = v2_header(0x21, 0x11, &V4);
        signature[7] = b'X';
        for header in [
            signature,
            v2_header(0x11, 0x11, &V4),
            v2_header(0x22, 0x11, &V4),
            v2_header(0x21, 0x12, &V4),
            v2_header(0x21, 0x41, &V4),
            v2_header(0x21, 0x11, &V4[..11]),
            v2_header(0x21, 0x21, &V4),
            v2_header(0x21, 0x11, &[&V4[..], &[0x02, 0]].concat()),
            v2_header(0x21, 0x11, &[&V4[..], &[0x02, 0, 9, 1]].concat()),
            v2_header(0x20, 0x00, &[0; 4_097]),
        ] {
            assert_eq!(parse_proxy(&header), Err(InvalidProxyHeader), "{header:?}");
        }
    }

    #[test]
    fn a_checksum_is_checked() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283);
        let mut header = v2_header(0x21, 0x11, &[&V4[..], &[TLV_CHECKSUM, 0, 4, 0, 0, 0, 0]].concat());
        let sum = crc32c(header.iter().copied()).to_be_bytes();
        let at = header.len() - 4;
        header[at..].copy_from_slice(&sum);
        check(&header, Some("192.0.2.7:50000"));
        header[V2_HEAD_BYTES] ^= 1;
        assert_eq!(parse_proxy(&header), Err(InvalidProxyHeader));
    }
}
