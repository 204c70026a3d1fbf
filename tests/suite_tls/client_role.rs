//! Connections that the service opens within TLS.

use crate::client_tls::{ClientTls, HOST, Identity};
use crate::far_end;
use crate::peer::{Peer, bare};
use crate::service::Ask;
use crate::stage::{On, Stage};
use ringwire::{ClientRequest, TlsClient};
use rustls::{AlertDescription, Error};

/// A request to the server of the tests by this name.
fn request(host: &str, path: &str) -> ClientRequest {
    let tls = TlsClient::new(Identity::of_the_server().certificate_pem.clone()).unwrap();
    ClientRequest { host: host.to_owned(), path: path.to_owned(), tls: Some(tls), ..ClientRequest::default() }
}

/// The far end of a connection opened by this name, which is its tag as well.
fn far(stage: &Stage, host: &str) -> Peer {
    let mut listener = stage.listen();
    let (to, tag) = (listener.addr, host.to_owned());
    stage.ask(Ask::Connect { to, request: request(host, "/up"), tag });
    listener.accept()
}

fn failure(stage: &Stage, tag: &str) -> String {
    stage.until("the connect fails", || !stage.notes.of(tag).is_empty());
    stage.notes.of(tag).remove(0)
}

on_every_driver! {
    fn opens_speaks_and_closes(on) {
        let stage = Stage::plain(on);
        let host = format!("{HOST}:8443");
        let mut far = far(&stage, &host).within(ClientTls::serving());
        let head = far_end::request(&mut far);
        assert!(head.contains(&format!("Host: {host}\r\n")), "{head}");
        far.send(far_end::switch(&far_end::accept_for(&head)).as_bytes());
        stage.wait(&host, "open");
        far.send(&bare(0x81, b"from the server"));
        let (b0, _, payload) = far_end::client_frame(&mut far);
        assert_eq!((b0, &payload[..]), (0x81, &b"from the server"[..]));
        far.send(&bare(0x88, &1000_u16.to_be_bytes()));
        far_end::client_frame(&mut far);
        far.half_close();
        far.expect_any_end();
        assert!(far.tls().is_ended());
        assert!(stage.closed(&host).last().unwrap().starts_with("close Peer"));
    }

    fn a_certificate_for_another_is_not_believed(on) {
        let stage = Stage::plain(on);
        let mut far = far(&stage, "other.test").within(ClientTls::serving());
        far.read_to_end();
        let told = far.tls().error.clone();
        let expected = [AlertDescription::BadCertificate, AlertDescription::CertificateUnknown];
        assert!(expected.iter().any(|alert| told == Some(Error::AlertReceived(*alert))), "{told:?}");
        let failure = failure(&stage, "other.test");
        assert!(failure.starts_with("connect failed: Tls(Handshake(\"invalid peer certificate"), "{failure}");
    }

    fn a_server_without_tls_is_told_apart(on) {
        let stage = Stage::plain(on);
        let mut far = far(&stage, HOST);
        assert_eq!(far.take(2), [22, 3]);
        far.send(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        let failure_in_words = failure(&stage, HOST);
        assert!(failure_in_words.starts_with("connect failed: Tls(Handshake("), "{failure_in_words}");
        // A name that no certificate could have.
        let listener = stage.listen();
        stage.ask(Ask::Connect { to: listener.addr, request: request("a_b..c", "/"), tag: "b".to_owned() });
        assert!(failure(&stage, "b").contains("is no host"));
    }
}

/// Two ends of this crate's own: the service connects to itself.
fn talks_to_itself(on: On) {
    let stage = Stage::plain(on);
    let addr = stage.addr().unwrap();
    for (host, round) in [(HOST, 1), ("", 2)] {
        let tag = |end: &str| format!("{end}{round}");
        let path = format!("/silent?tag={}", tag("server"));
        stage.ask(Ask::Connect { to: addr, request: request(host, &path), tag: tag("client") });
        stage.wait(&tag("server"), "open");
        stage.wait(&tag("client"), "open");
        for bytes in [0, 125, 126, 65_536, 1 << 20] {
            stage.ask(Ask::Send { id: stage.id(&tag("client")), bytes });
        }
        stage.wait_metric("ringwire_messages_received_total", 5 * round);
        stage.ask(Ask::Close { id: stage.id(&tag("client")), code: 4005 });
        let events = stage.closed(&tag("server"));
        assert!(events.last().unwrap().contains("Some(CloseCode(4005))"), "{events:?}");
        assert_eq!(stage.closed(&tag("client")).last().unwrap(), "close Local");
    }
    stage.wait_metric("ringwire_message_bytes_received_total", 2 * (125 + 126 + 65_536 + (1 << 20)));
    assert_eq!(stage.metric("ringwire_tls_truncations_total"), 0);
}

#[test]
fn uring_talks_to_itself() {
    crate::stage::run(On::Uring, talks_to_itself);
}

#[test]
fn epoll_talks_to_itself() {
    talks_to_itself(On::Epoll);
}
