//! The PROXY protocol: who is behind a load balancer, told by those who may.

use crate::peer::{Peer, upgrade_request};
use crate::stage::{On, Setup, Stage};
use ringwire::{Admission, Deadlines, ProxyProtocol};
use std::time::Duration;

/// All peers are proxies, or none.
fn with(on: On, range: &str, more: Admission) -> Stage {
    let proxies = ProxyProtocol { from: vec![range.parse().unwrap()], unix: false };
    let deadlines = Deadlines { head_ms: 2_000, ..Deadlines::default() };
    Stage::new(on, Setup { admission: Admission { proxies, ..more }, deadlines, ..Setup::default() })
}

const EVERYBODY: &str = "0.0.0.0/0";
const NOBODY: &str = "192.0.2.1";

fn v1(client: &str) -> Vec<u8> {
    format!("PROXY TCP4 {client} 192.0.2.1 50000 443\r\n").into_bytes()
}

/// A version 2 header of a client's IPv6 address, with a TLV behind it.
fn v2(command: u8) -> Vec<u8> {
    let client: std::net::Ipv6Addr = "2001:db8::7".parse().unwrap();
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend_from_slice(&[command, 0x21, 0, 36 + 7]);
    header.extend_from_slice(&[client.octets(), [0; 16]].concat());
    header.extend_from_slice(&[0xc3, 0x50, 0x01, 0xbb, 0x02, 0, 4, b'a', b'.', b'i', b'o']);
    header
}

fn ask_whence(peer: &mut Peer, header: &[u8], tag: &str) {
    peer.send(&[header, upgrade_request(&format!("/whence?tag={tag}"), "").as_bytes()].concat());
    peer.expect_http(101);
    peer.check_echo("through the proxy");
}

on_every_driver! {
    fn the_client_is_who_the_proxy_says(on) {
        let stage = with(on, EVERYBODY, Admission::default());
        let mut one = stage.peer();
        ask_whence(&mut one, &v1("192.0.2.7"), "one");
        assert_eq!(stage.notes.of("one")[1], "from 192.0.2.7:50000");
        let mut two = stage.peer();
        ask_whence(&mut two, &v2(0x21), "two");
        assert_eq!(stage.notes.of("two")[1], "from [2001:db8::7]:50000");
        assert_eq!(stage.metric("ringwire_proxy_headers_invalid_total"), 0);
    }

    /// A health check of the proxy's own, and a family that is not told.
    fn what_is_not_told_is_the_proxys_own(on) {
        let stage = with(on, EVERYBODY, Admission::default());
        for (tag, header) in [("local", v2(0x20)), ("unknown", b"PROXY UNKNOWN 1 2 3\r\n".to_vec())] {
            let mut peer = stage.peer();
            ask_whence(&mut peer, &header, tag);
            let from = stage.notes.of(tag)[1].clone();
            assert!(from.starts_with("from ") && !from.contains("2001:db8"), "{from}");
        }
        // Connect and leave.
        let mut check = stage.peer();
        check.half_close();
        check.expect_fin();
        stage.pass(Duration::from_millis(20));
        assert_eq!(stage.metric("ringwire_proxy_headers_invalid_total"), 0);
    }

    fn headers_come_in_pieces(on) {
        let stage = with(on, EVERYBODY, Admission::default());
        for (tag, header) in [("one", v1("192.0.2.7")), ("two", v2(0x21))] {
            let mut peer = stage.peer();
            let whole = [&header[..], upgrade_request(&format!("/whence?tag={tag}"), "").as_bytes()].concat();
            let (split, rest) = whole.split_at(header.len() + 9);
            peer.send_pieces(split.chunks(3));
            peer.send(rest);
            peer.expect_http(101);
            assert!(stage.notes.of(tag)[1].ends_with(":50000"));
        }
    }

    /// Without a valid header a proxy's connection is closed, and nobody is asked.
    fn a_header_is_mandatory(on) {
        let stage = with(on, EVERYBODY, Admission::default());
        for (number, wrong) in [
            upgrade_request("/", "").into_bytes(),
            b"PROXY TCP4 1.2.3.4 1.2.3.4 70000 1\r\n".to_vec(),
            v2(0x2f),
            b"\r\n\r\n\0\r\nQUOTE".to_vec(),
            [v1("192.0.2.7"), v1("192.0.2.8"), upgrade_request("/", "").into_bytes()].concat(),
        ]
        .into_iter()
        .enumerate()
        {
            let mut peer = stage.peer();
            peer.send(&wrong);
            match number {
                // A second header is a bad request.
                4 => assert_eq!(peer.expect_refused(505).header("Connection"), Some("close")),
                _ => drop(peer.expect_end()),
            }
        }
        stage.wait_metric("ringwire_proxy_headers_invalid_total", 4);
        assert_eq!(stage.metric("ringwire_upgrades_total"), 0);
        stage.wait_metric("ringwire_connections", 0);
    }

    /// It has to come in time, as any head.
    fn a_header_has_a_deadline(on) {
        let stage = with(on, EVERYBODY, Admission::default());
        let mut slow = stage.peer();
        slow.send(b"PROXY TCP4 192");
        slow.expect_end();
        stage.wait_metric("ringwire_proxy_headers_invalid_total", 1);
    }

    /// Who is not trusted is no proxy, whatever it says.
    fn nobody_else_can_pretend(on) {
        let stage = with(on, NOBODY, Admission::default());
        let mut plain = stage.open("/");
        plain.check_echo("no proxy");
        let mut liar = stage.peer();
        liar.send(&[&v1("192.0.2.7")[..], upgrade_request("/whence?tag=liar", "").as_bytes()].concat());
        liar.expect_refused(505);
        assert!(stage.notes.of("liar").is_empty());
    }

    /// Clients count by their own address, not by their proxy's.
    fn clients_count_by_the_address_told(on) {
        let more = Admission { max_connections_per_address: 2, ..Admission::default() };
        let stage = with(on, EVERYBODY, more);
        let mut inside = Vec::new();
        for client in ["192.0.2.7", "192.0.2.7", "192.0.2.8", "192.0.2.9"] {
            let mut peer = stage.peer();
            ask_whence(&mut peer, &v1(client), "-");
            inside.push(peer);
        }
        let mut third = stage.peer();
        third.send(&[&v1("192.0.2.7")[..], upgrade_request("/", "").as_bytes()].concat());
        assert_eq!(third.expect_refused(503).header("Retry-After"), Some("5"));
        stage.wait_metric("ringwire_connections", 4);
        inside.remove(0).bye();
        stage.wait_metric("ringwire_connections", 3);
        ask_whence(&mut stage.peer(), &v1("192.0.2.7"), "-");
    }
}
