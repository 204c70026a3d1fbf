//! Each broken law is noticed: a scripted driver breaks it.

use super::*;
use std::collections::VecDeque;

const T: Token = Token { slot: 1, generation: 5 };

#[derive(Default)]
struct Scripted {
    events: VecDeque<Event<()>>,
    sent: Vec<SendBuf>,
    bytes: Vec<u8>,
}

impl Driver for Scripted {
    type Socket = ();
    const NAME: &'static str = "scripted";

    fn turn(&mut self, _: Option<Duration>) -> io::Result<()> {
        Ok(())
    }
    fn next_event(&mut self) -> Option<Event<()>> {
        self.events.pop_front()
    }
    fn bytes(&mut self, lease: &Lease) -> &mut [u8] {
        self.bytes.resize(lease.len(), 0);
        &mut self.bytes
    }
    fn send(&mut self, _: Token, buf: SendBuf) {
        self.sent.push(buf);
    }
    fn send_lease(&mut self, _: Token, _: Lease) {}
    fn hand_over(&mut self, _: Token, _: Half, _: &RecordKeys<'_>) -> io::Result<()> {
        Ok(())
    }
    fn send_record(&mut self, _: Token, _: u8, content: Vec<u8>) {
        self.sent.push(SendBuf::Owned(content));
    }
    fn has_spare(&self) -> bool {
        false
    }
    fn shed(&mut self) {}
    fn waker(&self) -> Waker {
        unreachable!("not asked for")
    }
    fn stats(&self) -> DriverStats {
        DriverStats::default()
    }
    fn release(&mut self, _: Lease) {}
    fn attach(&mut self, _: Token, (): ()) {}
    fn refuse(&mut self, (): ()) {}
    fn pause(&mut self, _: Token) {}
    fn resume(&mut self, _: Token) {}
    fn shutdown(&mut self, _: Token) {}
    fn close(&mut self, _: Token) {}
    fn connect(&mut self, _: SocketAddr, _: Option<IpAddr>, _: u64) {}
    fn pause_accept(&mut self) {}
    fn resume_accept(&mut self) {}
    fn close_listeners(&mut self) {}
}

fn attached() -> Checked<Scripted> {
    let config = DriverConfig {
        max_connections: 4,
        receive_buffers: 4,
        receive_buffer_bytes: 100,
        max_receive_bytes_per_turn: 200,
        shards_per_core: 1,
        busy_poll: false,
    };
    let mut driver = Checked::new(Scripted::default(), &config);
    driver.attach(T, ());
    driver
}

/// Lets these events through one by one.
fn pass(driver: &mut Checked<Scripted>, events: impl IntoIterator<Item = Event<()>>) {
    driver.inner.events.extend(events);
    while driver.next_event().is_some() {}
}

fn received(len: u32) -> Event<()> {
    Event::Received { token: T, lease: Lease { buffer: 0, offset: 0, len } }
}

fn failed() -> Event<()> {
    Event::Failed { token: T, error: io::ErrorKind::ConnectionReset.into() }
}

/// The driver's answer to the last send.
fn sent(driver: &mut Checked<Scripted>) -> Event<()> {
    let buf = driver.inner.sent.pop().expect("a send");
    Event::Sent { token: T, buf, result: Ok(()) }
}

/// An answer to no send.
fn sent_unasked() -> Event<()> {
    Event::Sent { token: T, buf: owned(), result: Ok(()) }
}

fn owned() -> SendBuf {
    SendBuf::Owned(b"hello".to_vec())
}

#[test]
fn a_lawful_life_passes() {
    let mut driver = attached();
    pass(&mut driver, [received(9), Event::Eof(T)]);
    assert_eq!(driver.leases_out(), 1);
    driver.release(Lease { buffer: 0, offset: 0, len: 9 });
    driver.send(T, owned());
    let answer = sent(&mut driver);
    pass(&mut driver, [answer, failed()]);
    driver.close(T);
    pass(&mut driver, [Event::Closed(T)]);
    driver.send(T, owned());
    let buf = driver.inner.sent.pop().expect("a send");
    let result = Err(io::ErrorKind::NotConnected.into());
    pass(&mut driver, [Event::Sent { token: T, buf, result }]);
    driver.assert_settled();
    driver.attach(Token { generation: 6, ..T }, ());
}

#[test]
fn a_turn_renews_what_may_be_received() {
    let mut driver = attached();
    for _ in 0..3 {
        driver.turn(None).expect("a turn");
        pass(&mut driver, [received(100), received(100)]);
    }
    assert_eq!(driver.leases_out(), 6);
}

/// One broken law each: what is done to a fresh connection, and what is said.
macro_rules! breaks {
    ($($name:ident, $said:literal: |$driver:ident| $body:expr;)*) => {$(
        #[test]
        #[should_panic(expected = $said)]
        fn $name() {
            let $driver = &mut attached();
            $body;
        }
    )*};
}

breaks! {
    received_after_eof, "after Eof (law 1)": |d| pass(d, [Event::Eof(T), received(1)]);
    received_after_failed, "after Failed": |d| pass(d, [failed(), received(1)]);
    eof_after_failed, "Eof on": |d| pass(d, [failed(), Event::Eof(T)]);
    two_eofs, "a second Eof": |d| pass(d, [Event::Eof(T), Event::Eof(T)]);
    two_failures, "after Failed": |d| pass(d, [failed(), failed()]);
    received_after_close, "after close": |d| { d.close(T); pass(d, [received(1)]) };
    closed_unasked, "unasked": |d| pass(d, [Event::Closed(T)]);
    closed_twice, "not attached": |d| { d.close(T); pass(d, [Event::Closed(T), Event::Closed(T)]) };
    eof_after_closed, "not attached": |d| { d.close(T); pass(d, [Event::Closed(T), Event::Eof(T)]) };
    a_stale_event, "not attached": |d| pass(d, [Event::Eof(Token { generation: 4, ..T })]);
    an_empty_lease, "empty lease": |d| pass(d, [received(0)]);
    a_flood, "(law 7)": |d| pass(d, [received(100), received(100), received(101)]);
    sent_without_a_send, "(law 2)": |d| pass(d, [sent_unasked()]);
    sent_with_another_buffer, "(law 2)": |d| { d.send(T, owned()); pass(d, [sent_unasked()]) };
    sent_twice, "(law 2)": |d| {
        d.send(T, owned());
        let answer = sent(d);
        pass(d, [answer, sent_unasked()])
    };
    closed_before_sent, "before its Sent": |d| {
        d.send(T, owned());
        d.close(T);
        pass(d, [Event::Closed(T)])
    };
    stale_send_sent, "outcome of a stale send": |d| {
        d.close(T);
        d.send(T, owned());
        let answer = sent(d);
        pass(d, [answer])
    };
    never_sent, "without Sent": |d| { d.send(T, owned()); d.assert_settled() };
    never_released, "not released": |d| { pass(d, [received(1)]); d.assert_settled() };
    never_closed, "is not free": |d| d.assert_settled();
    never_connected, "without Connected": |d| {
        d.connect(SocketAddr::from(([192, 0, 2, 1], 80)), None, 7);
        d.assert_settled()
    };
    connected_unasked, "nobody asked": |d| pass(d, [Event::Connected { tag: 1, result: Ok(()) }]);
    accept_failed_twice, "again without": |d| {
        let error = || Event::AcceptFailed(io::ErrorKind::Other.into());
        pass(d, [error(), error()])
    };
    two_sends_in_flight, "before the last one's Sent": |d| { d.send(T, owned()); d.send(T, owned()) };
    an_empty_send, "an empty send": |d| d.send(T, SendBuf::Owned(Vec::new()));
    slot_in_use, "(law 4)": |d| d.attach(Token { generation: 6, ..T }, ());
    slot_too_high, "slot 4 of 4": |d| d.attach(Token { slot: 4, generation: 6 }, ());
    released_twice, "did not hand out": |d| d.release(Lease { buffer: 0, offset: 0, len: 1 });
}

#[test]
#[should_panic(expected = "during a send")]
fn keys_are_not_handed_over_during_a_send() {
    let mut driver = attached();
    driver.send(T, SendBuf::Owned(vec![1]));
    let keys = RecordKeys {
        is_tls13: true,
        cipher: crate::driver::RecordCipher::Aes128Gcm,
        key: &[0; 16],
        iv: [0; 12],
        sequence: 0,
    };
    let _ = driver.hand_over(T, Half::Sending, &keys);
}
