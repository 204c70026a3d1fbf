//! Who is shown which certificate, and who must show one.

use crate::client_tls::{ClientTls, HOST, Identity, client_config};
use crate::peer::Peer;
use crate::stage::{Setup, Stage};
use ringwire::{ClientAuth, TlsConfig, TlsConfigBuilder};
use rustls::pki_types::CertificateDer;
use rustls::version::{TLS12, TLS13};
use rustls::{AlertDescription, ClientConfig, Error, RootCertStore};
use std::sync::Arc;

fn builder(identity: &Identity) -> TlsConfigBuilder {
    TlsConfig::builder().certificate(identity.certificate_pem.clone(), identity.key_pem.clone())
}

fn stage(on: crate::stage::On, tls: &TlsConfig) -> Stage {
    Stage::new(on, Setup { tls: Some(tls.clone()), ..Setup::default() })
}

/// A client that accepts the server's certificate and another.
fn trusting(other: &Identity) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    for identity in [other, Identity::of_the_server()] {
        roots.add(identity.certificate.clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&TLS13, &TLS12]);
    Arc::new(builder.unwrap().with_root_certificates(roots).with_no_client_auth())
}

fn peer(stage: &Stage, config: &Arc<ClientConfig>, host: &str) -> Peer {
    stage.peer().within(ClientTls::with(config, host))
}

/// The certificate that is shown to who asks for this host.
fn shown(stage: &Stage, config: &Arc<ClientConfig>, host: &str) -> CertificateDer<'static> {
    let mut peer = peer(stage, config, host);
    peer.upgrade("/");
    let certificate = peer.tls().connection().peer_certificates().unwrap()[0].clone();
    peer.bye();
    certificate
}

on_every_driver! {
    fn the_host_decides(on) {
        let (server, other) = (Identity::of_the_server(), Identity::of(&["other.test", "*.wild.test"]));
        let both = builder(server).certificate(other.certificate_pem.clone(), other.key_pem.clone());
        let stage = stage(on, &both.build().unwrap());
        let config = trusting(&other);
        for (host, expected) in
            [(HOST, server), ("other.test", &other), ("a.wild.test", &other), ("127.0.0.1", server)]
        {
            assert_eq!(shown(&stage, &config, host), expected.certificate, "{host}");
        }
        // Whoever asks for a stranger is shown the first, and leaves.
        let mut peer = peer(&stage, &config, "stranger.test");
        peer.shake();
        assert!(matches!(peer.tls().error, Some(Error::InvalidCertificate(_))));
        stage.wait_metric("ringwire_tls_failures_total", 1);
    }

    fn certificates_are_changed_without_an_end(on) {
        let (first, second) = (Identity::of_the_server(), Identity::of(&[HOST]));
        let tls = builder(first).build().unwrap();
        let stage = stage(on, &tls);
        // Nobody resumes a session, in which no certificate is shown.
        let shown = || shown(&stage, &trusting(&second), HOST);
        let mut old = peer(&stage, &trusting(&second), HOST);
        old.upgrade("/");
        assert_eq!(shown(), first.certificate);
        tls.replace(builder(&second)).unwrap();
        assert_eq!(shown(), second.certificate);
        // What cannot work changes nothing.
        let mixed = TlsConfig::builder().certificate(first.certificate_pem.clone(), second.key_pem.clone());
        assert!(tls.replace(mixed).is_err());
        tls.reload().unwrap();
        assert_eq!(shown(), second.certificate);
        old.check_echo("nothing happened here");
        old.bye();
    }

    fn clients_may_prove_who_they_are(on) {
        let (known, stranger) = (Identity::of(&["client.test"]), Identity::of(&["stranger.test"]));
        let server = Identity::of_the_server();
        let roots = || known.certificate_pem.clone().into();
        let optional = builder(server).client_auth(ClientAuth::Optional(roots())).build().unwrap();
        let required = builder(server).client_auth(ClientAuth::Required(roots())).build().unwrap();
        for version in [&TLS12, &TLS13] {
            let without = client_config(&[version], None);
            let with = client_config(&[version], Some(&known));
            let wrong = client_config(&[version], Some(&stranger));
            let lenient = stage(on, &optional);
            for (tag, config, certificates) in [("with", &with, 1), ("without", &without, 0)] {
                let mut peer = peer(&lenient, config, HOST);
                peer.upgrade(&format!("/tls?tag={tag}"));
                let note = &lenient.notes.of(tag)[1];
                assert!(note.ends_with(&format!("certificates: {certificates}")), "{note}");
                peer.bye();
            }
            let strict = stage(on, &required);
            peer(&strict, &with, HOST).upgrade("/");
            for config in [&without, &wrong] {
                let mut peer = peer(&strict, config, HOST);
                // In TLS 1.3 the client thinks that it is through before the server has looked.
                peer.shake();
                peer.read_to_end();
                assert!(matches!(peer.tls().error, Some(Error::AlertReceived(_))), "{:?}", peer.tls().error);
            }
            strict.wait_metric("ringwire_tls_failures_total", 2);
        }
    }

    fn the_handler_sees_what_was_agreed(on) {
        let stage = Stage::plain(on);
        for (version, name) in [(&TLS12, "Tls12"), (&TLS13, "Tls13")] {
            let mut config = (*client_config(&[version], None)).clone();
            config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
            let mut peer = peer(&stage, &Arc::new(config), HOST);
            peer.upgrade(&format!("/tls?tag={name}"));
            let note = &stage.notes.of(name)[1];
            let asked = format!("for Some(\"{HOST}\") by Some(\"http/1.1\")");
            assert_eq!(*note, format!("{name} {asked}, resumed: false, certificates: 0"));
            peer.bye();
        }
        // Who wants nothing but HTTP/2 is told that there is none.
        let mut config = (*client_config(&[&TLS13], None)).clone();
        config.alpn_protocols = vec![b"h2".to_vec()];
        let mut peer = peer(&stage, &Arc::new(config), HOST);
        peer.shake();
        assert_eq!(peer.tls().error, Some(Error::AlertReceived(AlertDescription::NoApplicationProtocol)));
    }
}
