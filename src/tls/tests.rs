//! Two ends in one thread: what one seals the other opens, and what does not fit is told apart.

use super::record::{HEADER_BYTES, MAX_PLAIN_BYTES};
use super::*;
use rcgen::{CertificateParams, KeyPair};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, RootCertStore, SupportedCipherSuite, SupportedProtocolVersion};

struct Pair {
    client: Connection,
    server: Connection,
}

/// Hands over what `from` wrote until neither has anything to say.
fn pair(version: &'static SupportedProtocolVersion, suite: Option<SupportedCipherSuite>) -> Pair {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let config = TlsConfig::builder().certificate(certificate.pem(), key.serialize_pem()).build().unwrap();
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    if let Some(suite) = suite {
        provider.cipher_suites = vec![suite];
    }
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).unwrap();
    let client_config = ClientConfig::builder_with_provider(Arc::new(provider))
        .with_protocol_versions(&[version])
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    let client = TlsClient::from_rustls(client_config);
    let mut client = Connection::client(&client, "a.test".try_into().unwrap(), &mut to_server).unwrap();
    let mut server = Connection::server(&config);
    for _ in 0..4 {
        step(&mut server, &mut to_server, &mut to_client);
        step(&mut client, &mut to_client, &mut to_server);
    }
    assert!(client.is_open() && server.is_open());
    Pair { client, server }
}

fn step(end: &mut Connection, input: &mut Vec<u8>, out: &mut Vec<u8>) {
    let mut used = 0;
    if end.is_open() {
        // Tickets.
        assert_eq!(end.open(input, &mut used, out), Ok(Opened::Wait));
    } else if !input.is_empty() {
        end.shake(input, &mut used, out).unwrap();
    }
    input.drain(..used);
}

/// What one end sends, as the other opens it.
fn carried(from: &mut Connection, to: &mut Connection, plain: &[u8], record_bytes: usize) -> Vec<u8> {
    let (mut wire, mut at, mut out, mut came) = (Vec::new(), 0, Vec::new(), Vec::new());
    from.seal(plain, record_bytes, &mut wire).unwrap();
    loop {
        match to.open(&mut wire, &mut at, &mut out).unwrap() {
            Opened::Data(range) => came.extend_from_slice(&wire[range]),
            Opened::Wait => break,
            Opened::Closed => panic!("closed"),
        }
    }
    assert_eq!((at, out.len()), (wire.len(), 0));
    came
}

/// What the server makes of these bytes.
fn told(pair: &mut Pair, wire: &[u8]) -> Result<Opened, TlsFailure> {
    pair.server.open(&mut wire.to_vec(), &mut 0, &mut Vec::new())
}

#[test]
fn every_suite_carries_every_size() {
    for suite in rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES {
        let name = suite.suite();
        // The key of the certificate is no RSA key.
        if name.as_str().is_some_and(|name| name.contains("_RSA_")) {
            continue;
        }
        let version = if suite.tls13().is_some() { &TLS13 } else { &TLS12 };
        let Pair { mut client, mut server } = pair(version, Some(*suite));
        for bytes in [1, 2, 100, 1_400, 16_383, 16_384, 16_385, 100_000] {
            let plain: Vec<u8> = (0..bytes).map(|at| (at * 7 % 251) as u8).collect();
            for record_bytes in [SMALL, MAX_PLAIN_BYTES, usize::MAX] {
                assert!(carried(&mut client, &mut server, &plain, record_bytes) == plain, "{name:?} {bytes}");
                assert!(carried(&mut server, &mut client, &plain, record_bytes) == plain, "{name:?} {bytes}");
            }
            // Keys that were set aside come back.
            server.cool();
        }
    }
}

const SMALL: usize = 1_000;

#[test]
fn a_record_changed_on_the_way_is_told_apart() {
    for version in [&TLS12, &TLS13] {
        for at in [HEADER_BYTES, HEADER_BYTES + 9, HEADER_BYTES + 20] {
            let mut pair = pair(version, None);
            let mut wire = Vec::new();
            pair.client.seal(b"a message", MAX_PLAIN_BYTES, &mut wire).unwrap();
            wire[at] ^= 1;
            assert_eq!(told(&mut pair, &wire), Err(TlsFailure::Record(alert::BAD_RECORD_MAC)));
        }
        // One that came before, and one that is cut.
        let mut pair = pair(version, None);
        let mut wire = Vec::new();
        pair.client.seal(b"a message", MAX_PLAIN_BYTES, &mut wire).unwrap();
        assert_eq!(told(&mut pair, &wire[..wire.len() - 1]), Ok(Opened::Wait));
        assert!(matches!(told(&mut pair, &wire), Ok(Opened::Data(_))));
        assert_eq!(told(&mut pair, &wire), Err(TlsFailure::Record(alert::BAD_RECORD_MAC)));
    }
}

#[test]
fn headers_that_make_no_sense_are_told_apart_at_once() {
    let mut pair = pair(&TLS13, None);
    for (header, alert) in [
        ([23, 3, 3, 0x48, 1], alert::RECORD_OVERFLOW),
        ([23, 2, 3, 0, 30], alert::DECODE_ERROR),
        ([b'G', b'E', b'T', b' ', b'/'], alert::UNEXPECTED_MESSAGE),
    ] {
        assert_eq!(told(&mut pair, &header), Err(TlsFailure::Record(alert)));
    }
    // Nothing is sent in the clear any more.
    assert_eq!(told(&mut pair, &[20, 3, 3, 0, 1, 1]), Err(TlsFailure::Record(alert::UNEXPECTED_MESSAGE)));
    assert_eq!(told(&mut pair, &[23, 3, 3, 0, 3, 1, 2, 3]), Err(TlsFailure::Record(alert::BAD_RECORD_MAC)));
}

/// What a peer says in a handshake, cut and changed anywhere: an error at most.
#[test]
fn no_handshake_panics() {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec!["a.test".to_owned()]).unwrap().self_signed(&key).unwrap();
    let config = TlsConfig::builder()
        .certificate(certificate.pem(), key.serialize_pem())
        .client_auth(ClientAuth::Optional(certificate.pem().into()))
        .build()
        .unwrap();
    let roots = certificate.pem();
    let client_config = TlsClient::with_certificate(roots, certificate.pem(), key.serialize_pem()).unwrap();
    let mut random = 1_u64;
    let mut below = |bound: usize| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) as usize % bound
    };
    let mut done = 0;
    for round in 0..400 {
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let mut client =
            Connection::client(&client_config, "a.test".try_into().unwrap(), &mut to_server).unwrap();
        let mut server = Connection::server(&config);
        for flight in 0..6 {
            let (end, input, out) = match flight % 2 {
                0 => (&mut server, &mut to_server, &mut to_client),
                _ => (&mut client, &mut to_client, &mut to_server),
            };
            if round % 4 != 0 && !input.is_empty() && below(3) == 0 {
                let at = below(input.len());
                match below(4) {
                    0 => input[at] ^= 1 << below(8),
                    1 => input.truncate(at),
                    2 => input.extend_from_within(at..),
                    _ => input.insert(at, below(256) as u8),
                }
            }
            let mut used = 0;
            if end.is_shaking() && !input.is_empty() && end.shake(input, &mut used, out).is_err() {
                break;
            }
            if end.is_open() {
                let _ = end.open(input, &mut used, out);
            }
            input.drain(..used);
        }
        done += usize::from(client.is_open() && server.is_open());
    }
    assert!((100..300).contains(&done), "{done} of 400 came about");
}

#[test]
fn the_end_is_told() {
    for version in [&TLS12, &TLS13] {
        let mut pair = pair(version, None);
        let mut wire = Vec::new();
        pair.client.seal_end(None, &mut wire);
        assert_eq!(told(&mut pair, &wire), Ok(Opened::Closed));
        let mut wire = Vec::new();
        pair.client.seal_end(Some(&TlsFailure::Record(alert::DECODE_ERROR)), &mut wire);
        assert_eq!(told(&mut pair, &wire), Err(TlsFailure::Told(alert::DECODE_ERROR)));
    }
}

#[test]
fn who_sends_nothing_again_and_again_is_cut() {
    let mut pair = pair(&TLS13, None);
    let Stage::Open(records) = &mut pair.client.stage else { unreachable!() };
    let mut empty = Vec::new();
    for _ in 0..33 {
        records.seal_as(23, &[], &mut empty);
    }
    assert_eq!(told(&mut pair, &empty), Err(TlsFailure::Record(alert::UNEXPECTED_MESSAGE)));
}

/// What TLS 1.3 does not allow within a record that is authentic.
#[test]
fn records_that_must_not_be_are_told_apart() {
    let padded = |bytes: usize| [&b"data"[..], &vec![0; bytes - 4]].concat();
    let too_much_padding = padded(MAX_PLAIN_BYTES + 1);
    for (kind, content, alert) in [
        (21, &[][..], alert::UNEXPECTED_MESSAGE),
        (22, &[], alert::UNEXPECTED_MESSAGE),
        (20, &[1], alert::UNEXPECTED_MESSAGE),
        (21, &[1], alert::DECODE_ERROR),
        (22, &[24, 0, 0, 1, 2], alert::ILLEGAL_PARAMETER),
        (22, &[24, 0, 0, 1, 0, 24, 0, 0, 1, 0], alert::UNEXPECTED_MESSAGE),
        (22, &[4, 0, 0, 1, 0], alert::UNEXPECTED_MESSAGE),
        // A type of zero is padding itself, and what lies before it the type.
        (0, &too_much_padding, alert::RECORD_OVERFLOW),
    ] {
        let mut pair = pair(&TLS13, None);
        let Stage::Open(records) = &mut pair.client.stage else { unreachable!() };
        let mut wire = Vec::new();
        records.seal_as(kind, content, &mut wire);
        assert_eq!(told(&mut pair, &wire), Err(TlsFailure::Record(alert)), "type {kind}");
    }
    // As much padding as there may be; and what is longer is not even opened.
    let mut pair = pair(&TLS13, None);
    let Stage::Open(records) = &mut pair.client.stage else { unreachable!() };
    let mut wire = Vec::new();
    records.seal_as(0, &[b"data\x17", &padded(MAX_PLAIN_BYTES)[5..]].concat(), &mut wire);
    assert_eq!(told(&mut pair, &wire), Ok(Opened::Data(HEADER_BYTES..HEADER_BYTES + 4)));
    let body = MAX_PLAIN_BYTES + 257;
    let wire = [&[23, 3, 3, (body >> 8) as u8, body as u8], &vec![0; body][..]].concat();
    assert_eq!(told(&mut pair, &wire), Err(TlsFailure::Record(alert::RECORD_OVERFLOW)));
}

/// Tickets and new keys of a server in one record.
#[test]
fn a_client_takes_new_keys_behind_a_ticket() {
    let Pair { mut client, mut server } = pair(&TLS13, None);
    let Stage::Open(records) = &mut server.stage else { unreachable!() };
    let mut wire = Vec::new();
    records.seal_handshake(&[4, 0, 0, 1, 0, 24, 0, 0, 1, 0], &mut wire);
    // It has said so: the record that would say it once more is left out.
    let limit = std::mem::replace(&mut records.max_records, 0);
    records.update_if_owed(&mut Vec::new()).unwrap();
    records.max_records = limit;
    assert_eq!(client.open(&mut wire, &mut 0, &mut Vec::new()), Ok(Opened::Wait));
    assert_eq!(carried(&mut server, &mut client, b"with the new keys", SMALL), b"with the new keys");
}

#[test]
fn keys_change_when_they_have_been_used_enough() {
    let Pair { mut client, mut server } = pair(&TLS13, None);
    let Stage::Open(records) = &mut client.stage else { unreachable!() };
    records.max_records = 3;
    for round in 0..20_u8 {
        assert_eq!(carried(&mut client, &mut server, &[round; 100], 10), [round; 100]);
    }
    // TLS 1.2 has no way to change them.
    let Pair { mut client, .. } = pair(&TLS12, None);
    let Stage::Open(records) = &mut client.stage else { unreachable!() };
    records.max_records = 3;
    assert_eq!(client.seal(&[0; 100], 10, &mut Vec::new()), Err(TlsFailure::Exhausted));
}

#[test]
fn a_renegotiation_is_refused() {
    let mut pair = pair(&TLS12, None);
    let Stage::Open(records) = &mut pair.client.stage else { unreachable!() };
    let (mut wire, mut at, mut out) = (Vec::new(), 0, Vec::new());
    records.seal_handshake(&[1, 0, 0, 2, 3, 3], &mut wire);
    assert_eq!(pair.server.open(&mut wire, &mut at, &mut out), Ok(Opened::Wait));
    assert_eq!(pair.client.open(&mut out, &mut 0, &mut Vec::new()), Ok(Opened::Wait), "a warning");
    // Whoever insists is cut.
    let Stage::Open(records) = &mut pair.client.stage else { unreachable!() };
    let mut wire = Vec::new();
    records.seal_handshake(&[1, 0, 0, 2, 3, 3], &mut wire);
    assert_eq!(told(&mut pair, &wire), Err(TlsFailure::Record(alert::UNEXPECTED_MESSAGE)));
    // TLS 1.3 has none at all.
    let mut pair = super::tests::pair(&TLS13, None);
    let Stage::Open(records) = &mut pair.client.stage else { unreachable!() };
    let mut wire = Vec::new();
    records.seal_handshake(&[1, 0, 0, 2, 3, 3], &mut wire);
    assert_eq!(told(&mut pair, &wire), Err(TlsFailure::Record(alert::UNEXPECTED_MESSAGE)));
}

#[test]
fn configurations_that_cannot_work_say_why() {
    let identity = |days: i64| {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["a.test".to_owned()]).unwrap();
        let day = |year| rcgen::date_time_ymd(year, 1, 1);
        params.not_before = day(if days > 0 { 2999 } else { 1999 });
        params.not_after = day(if days < 0 { 2001 } else { 3999 });
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let error = |chain: &str, key: &str| {
        let built = TlsConfig::builder().certificate(chain.to_owned(), key.to_owned()).build();
        built.unwrap_err().to_string()
    };
    let (chain, key) = identity(0);
    TlsConfig::builder().certificate(chain.clone(), key.clone()).build().unwrap();
    assert!(error(&chain, &identity(0).1).contains("does not belong to the certificate"));
    let (old, old_key) = identity(-1);
    assert!(error(&old, &old_key).contains("expired"));
    let (new, new_key) = identity(1);
    assert!(error(&new, &new_key).contains("is this host's clock right?"));
    assert!(error(&key, &key).contains("no certificate"));
    assert!(error(&chain, &chain).contains("no private key"));
    assert!(error("", "").contains("no certificate"));
    let missing = std::path::Path::new("nowhere/cert.pem");
    let built = TlsConfig::builder().certificate(missing, missing).build();
    assert!(built.unwrap_err().to_string().starts_with("nowhere/cert.pem: "));
    assert!(matches!(TlsConfig::builder().build(), Err(crate::error::TlsError::NoCertificate)));
}
