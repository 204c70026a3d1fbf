//! What a handler may do inside its callbacks, to its own connection and to others.

use crate::peer::{close, text};
use crate::service::Ask;
use crate::stage::Stage;

on_every_driver! {
    fn sends_when_it_opens(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/greet");
        peer.expect_text("welcome");
        peer.check_echo("thanks");
    }

    fn closes_when_it_opens(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.peer();
        // Messages that came with the request are not delivered any more.
        peer.send(crate::peer::upgrade_request("/close-at-open?tag=a", "").as_bytes());
        peer.send(&text("!peer"));
        peer.expect_http(101);
        assert_eq!(peer.expect_close(4001), "not today");
        peer.send(&close(4001, ""));
        peer.expect_fin();
        assert_eq!(stage.closed("a"), ["upgrade", "open", "close Local"]);
    }

    fn closes_when_a_message_comes(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/close-at-message?tag=a");
        peer.send(&text("one").repeat(50));
        peer.expect_close(1000);
        peer.send(&close(1000, ""));
        peer.expect_fin();
        assert_eq!(stage.closed("a"), ["upgrade", "open", "close Local"]);
    }

    fn closes_when_it_drains(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/close-at-drain?tag=a");
        // Five times a megabyte is more than the outbox: the last is dropped, so drain is owed.
        peer.send(&text("!burst 5 1000000"));
        for _ in 0..4 {
            assert_eq!(peer.next_frame().1.len(), 1_000_000);
        }
        assert_eq!(peer.expect_close(4002), "drained");
        peer.send(&close(4002, ""));
        peer.expect_fin();
        assert_eq!(stage.closed("a")[2..], ["burst 4 0 1", "drain", "close Local"]);
    }

    fn closes_another(on) {
        let stage = Stage::plain(on);
        let mut other = stage.open("/?tag=other");
        let mut peer = stage.open("/?tag=a");
        peer.send(&text("!close-other other 4003"));
        assert_eq!(other.expect_close(4003), "by another");
        other.send(&close(4003, ""));
        other.expect_fin();
        peer.check_echo("not me");
        assert_eq!(stage.closed("other"), ["upgrade", "open", "close Local"]);
    }

    /// The other has just gone: the command is for nobody.
    fn closes_another_that_is_gone(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/?tag=a");
        stage.open("/?tag=other").bye();
        stage.closed("other");
        let gone = stage.id("other (closed)");
        stage.notes.lock().ids.insert("gone".to_owned(), gone);
        let mut heir = stage.open("/?tag=heir");
        peer.send(&text("!close-other gone 4003"));
        stage.wait_metric("ringwire_mailbox_stale_total", 1);
        heir.check_echo("not me");
        peer.check_echo("not me either");
    }

    fn sends_and_closes_between_messages(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/?tag=a");
        let id = stage.id("a");
        stage.ask(Ask::Send { id, bytes: 70_000 });
        peer.expect_binary(&[b'.'; 70_000]);
        stage.ask(Ask::Close { id, code: 4004 });
        assert_eq!(peer.expect_close(4004), "from turn");
        peer.send(&close(4004, ""));
        peer.expect_fin();
        stage.closed("a");
        // And once more, to nobody.
        stage.ask(Ask::Close { id, code: 4004 });
        stage.ask(Ask::Send { id, bytes: 10 });
        stage.wait_metric("ringwire_connections", 0);
    }

    fn tells_its_backpressure(on) {
        let stage = Stage::plain(on);
        let mut peer = stage.open("/");
        peer.send(&[text("0123456789"), text("!backpressure")].concat());
        peer.expect_text("0123456789");
        let (_, payload) = peer.next_frame();
        // 12 bytes if both came in one read, else what was in flight or nothing.
        assert!([&b"0"[..], b"12"].contains(&payload.as_slice()), "{payload:?}");
    }
}
