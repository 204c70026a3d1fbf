//! Topics: who hears what, in which order, and nobody anything twice.

use crate::peer::{Peer, text};
use crate::stage::{Setup, Stage};
use ringwire::{Limits, Prepared, Publication, Subscribe, TopicError};

fn with(limits: Limits, shards: usize) -> Setup {
    Setup { limits, shards, ..Setup::default() }
}

impl Peer {
    /// Gives an order and expects its answer.
    #[track_caller]
    pub fn order(&mut self, order: &str, answer: &str) {
        self.send(&text(order));
        self.expect_text(answer);
    }

    #[track_caller]
    fn subscribed(mut self, filters: &[&str]) -> Self {
        for filter in filters {
            self.order(&format!("!sub {filter}"), "Ok(true)");
        }
        self
    }
}

fn line(text: impl Into<String>) -> Prepared {
    Prepared::text(text)
}

/// `publisher topic number` lines: of each publisher and topic in order, and all of them.
#[track_caller]
fn expect_all(peer: &mut Peer, publishers: usize, topics: &[&str], each: usize) {
    let mut next = std::collections::HashMap::new();
    for _ in 0..publishers * topics.len() * each {
        let heard = String::from_utf8(peer.next_frame().1).unwrap();
        let (of, number) = heard.trim_end_matches('.').rsplit_once(' ').unwrap();
        let next = next.entry(of.to_owned()).or_insert(0);
        assert_eq!(number, next.to_string(), "out of order: {heard}");
        *next += 1;
    }
    assert_eq!(next.len(), publishers * topics.len());
}

on_every_driver! {
    fn who_is_subscribed_hears_it(on) {
        for shards in [1, 2] {
            let stage = Stage::new(on, with(Limits::default(), shards));
            let mut one = stage.open("/").subscribed(&["room/1"]);
            let mut below = stage.open("/").subscribed(&["room/#"]);
            let mut all = stage.open("/").subscribed(&["#"]);
            let mut none = stage.open("/").subscribed(&["room", "room/", "room/1/2/3", "roo"]);
            for topic in ["room/1", "room/2", "room/1/2", "other"] {
                none.order(&format!("!pub {topic} : {topic}"), "Ok(())");
            }
            stage.remote.publish("room/1", &Prepared::binary(&b"from afar"[..])).unwrap();
            one.expect_text("room/1");
            one.expect_binary(b"from afar");
            for topic in ["room/1", "room/2", "room/1/2"] {
                below.expect_text(topic);
            }
            below.expect_binary(b"from afar");
            // What is for all comes from two lists.
            for _ in 0..5 {
                all.next_frame();
            }
            for peer in [&mut one, &mut below, &mut all, &mut none] {
                peer.check_echo("nothing more");
            }
            stage.wait_metric("ringwire_subscriptions", 7);
            stage.wait_metric("ringwire_publications_offered_total", 11);
        }
    }

    fn the_sender_may_be_left_out(on) {
        let stage = Stage::new(on, with(Limits::default(), 2));
        let mut peers: Vec<Peer> = (0..4).map(|n| stage.open(&format!("/?tag=p{n}")).subscribed(&["room"])).collect();
        peers[0].order("!pub room others : hello", "Ok(())");
        let second = line("not to the second");
        stage.remote.publish_with(Publication::new("room", &second).except(stage.id("p1"))).unwrap();
        peers[0].expect_text("not to the second");
        peers[1].expect_text("hello");
        for peer in &mut peers[2..] {
            let heard = [peer.next_frame().1, peer.next_frame().1];
            assert!(heard.contains(&b"hello".to_vec()) && heard.contains(&b"not to the second".to_vec()));
        }
        peers.iter_mut().for_each(|peer| peer.check_echo("nothing more"));
    }

    /// Whatever of its filters match: one copy, also while they change and messages are on their way.
    fn overlapping_filters_are_one_subscription(on) {
        let limits = Limits { max_broadcast_sends_per_turn: 1, ..Limits::default() };
        let stage = Stage::new(on, with(limits, 1));
        let _others: Vec<Peer> = (0..4).map(|_| stage.open("/").subscribed(&["a/b", "a/#"])).collect();
        let mut peer = stage.open("/").subscribed(&["a/b", "a/#", "#", "a/c"]);
        peer.send(&text("!run !pub a/b : 1 ; !unsub # ; !pub a/b : 2 ; !unsub a/# ; !pub a/b : 3 ; !pub a/c : c"));
        for expected in ["1", "2", "3", "c"] {
            peer.expect_text(expected);
        }
        // The other way round.
        peer.send(&text("!run !pub a/b : 4 ; !sub a/# ; !pub a/b : 5 ; !sub # ; !pub a/b : 6 ; !unsub a/b ; !pub a/b : 7"));
        for expected in ["4", "5", "6", "7"] {
            peer.expect_text(expected);
        }
        peer.check_echo("nothing more");
        peer.order("!sub a/#", "Ok(false)");
        peer.order("!unsub a/b", "false");
    }

    /// What was published before the subscription does not come, nor what comes after its end.
    fn a_subscription_begins_and_ends_at_once(on) {
        let limits = Limits { max_broadcast_sends_per_turn: 1, ..Limits::default() };
        let stage = Stage::new(on, with(limits, 1));
        let _others: Vec<Peer> = (0..4).map(|_| stage.open("/").subscribed(&["a"])).collect();
        let mut peer = stage.open("/");
        peer.send(&text("!run !pub a : before ; !sub a ; !pub a : during ; !say said"));
        peer.expect_text("said");
        peer.expect_text("during");
        peer.send(&text("!run !pub a : gone ; !unsub a ; !pub a : after ; !say over"));
        peer.expect_text("over");
        peer.check_echo("nothing more");
    }

    fn publishers_are_heard_in_order(on) {
        for shards in [1, 3] {
            let limits = Limits { max_broadcast_sends_per_turn: 3, ..Limits::default() };
            let stage = Stage::new(on, with(limits, shards));
            let topics = ["t/1", "t/2", "t/3"];
            let mut peers: Vec<Peer> = (0..7)
                .map(|n| stage.open("/").subscribed(if n % 2 == 0 { &["t/#"][..] } else { &topics[..] }))
                .collect();
            let mut speaker = stage.open("/");
            std::thread::scope(|scope| {
                for publisher in 0..3 {
                    let remote = stage.remote.clone();
                    scope.spawn(move || {
                        for number in 0..60 {
                            for topic in topics {
                                // Some of them are longer than what is copied.
                                let dots = ".".repeat(if number % 10 == publisher { 20_000 } else { number });
                                let message = line(format!("{publisher} {topic} {number}{dots}"));
                                remote.publish(topic, &message).unwrap();
                            }
                        }
                    });
                }
                // People come and go meanwhile.
                for number in 0..60 {
                    let orders = topics.map(|topic| format!("!pub {topic} : 3 {topic} {number}")).join(" ; ");
                    speaker.send(&text(&format!("!run {orders}")));
                    if number % 6 == 0 {
                        let mut guest = stage.open("/");
                        guest.send(&text("!run !sub t/2 ; !sub t/# ; !unsub t/2 ; !say here"));
                        guest.next_frame();
                        if number % 12 == 0 { guest.reset() } else { drop(guest) }
                    }
                }
            });
            for peer in &mut peers {
                expect_all(peer, 4, &topics, 60);
                peer.check_echo("nothing more");
            }
            stage.wait_metric("ringwire_broadcast_bytes", 0);
            stage.wait_metric("ringwire_outbox_bytes", 0);
        }
    }

    fn the_last_value_is_there_for_who_comes_later(on) {
        let stage = Stage::new(on, with(Limits::default(), 2));
        let mut peers: Vec<Peer> = (0..4).map(|_| stage.open("/")).collect();
        peers[0].order("!pub q/b retain : b1", "Ok(())");
        peers[0].order("!pub q/a retain : a1", "Ok(())");
        peers[0].order("!pub q/b retain : b2", "Ok(())");
        peers[0].order("!pub q/b : passing", "Ok(())");
        stage.until("all shards know it", || {
            // What is not kept stays where it was published: nobody has subscribed.
            stage.metric("ringwire_publications_total") == 3 * stage.shards as u64 + 1
        });
        for peer in &mut peers {
            peer.send(&text("!sub q/b"));
            peer.expect_text("Ok(true)");
            peer.send(&text("!run !unsub q/b ; !sub q/b retained ; !sub q/# retained"));
            peer.expect_text("b2");
            peer.expect_text("a1");
            peer.expect_text("b2");
            peer.check_echo("nothing more");
        }
        assert!(stage.metric("ringwire_retained_bytes") > 0);
        // An empty one is the end of it.
        for topic in ["q/a", "q/b"] {
            stage.remote.publish_with(Publication::new(topic, &line("")).retain()).unwrap();
        }
        peers.iter_mut().for_each(|peer| {
            peer.expect_text("");
            peer.expect_text("");
        });
        stage.wait_metric("ringwire_retained_bytes", 0);
        drop(peers);
        stage.wait_metric("ringwire_topics", 0);
    }

    /// What is asked for in callbacks: on opening, in the middle of a delivery, and at the end.
    fn callbacks_may_subscribe_and_publish(on) {
        let stage = Stage::new(on, with(Limits::default(), 2));
        let mut ann = stage.open("/in-room?tag=ann");
        let mut ben = stage.open("/in-room?tag=ben");
        ann.expect_text("ben comes");
        let cleo = stage.open("/in-room?tag=cleo");
        ann.expect_text("cleo comes");
        ben.expect_text("cleo comes");
        cleo.bye();
        ann.expect_text("cleo leaves");
        ben.expect_text("cleo leaves");
        ben.reset();
        ann.expect_text("ben leaves");
        ann.check_echo("and on");
        ann.bye();
        stage.closed("ann");
        stage.wait_metric("ringwire_subscriptions", 0);
        stage.wait_metric("ringwire_topics", 0);
    }

    fn subscriptions_end_with_the_connection(on) {
        let limits = Limits { max_broadcast_sends_per_turn: 1, ..Limits::default() };
        let stage = Stage::new(on, with(limits, 2));
        let mut witness = stage.open("/").subscribed(&["w"]);
        for round in 0..6 {
            let mut peers: Vec<Peer> =
                (0..6).map(|n| stage.open(&format!("/?tag=p{round}.{n}")).subscribed(&["w", "x/#", "x/1", "y"])).collect();
            stage.wait_metric("ringwire_subscriptions", 25);
            for number in 0..4 {
                stage.remote.publish("w", &line(format!("{round} {number}"))).unwrap();
            }
            for (number, peer) in peers.drain(..).enumerate() {
                if number % 2 == 0 { peer.reset() } else { drop(peer) }
            }
            for number in 0..4 {
                witness.expect_text(&format!("{round} {number}"));
            }
            stage.wait_metric("ringwire_subscriptions", 1);
        }
        stage.wait_metric("ringwire_broadcast_bytes", 0);
        witness.check_echo("nothing more");
    }

    fn limits_are_told_and_counted(on) {
        let limits = Limits {
            max_topic_bytes: 10,
            max_subscriptions: 3,
            max_topics: 4,
            max_retained_bytes: 2_000,
            max_broadcast_bytes: 100_000,
            ..Limits::default()
        };
        let stage = Stage::new(on, with(limits, 1));
        let mut peer = stage.open("/?tag=a").subscribed(&["1", "2", "3"]);
        peer.order("!sub 3", "Ok(false)");
        peer.order("!sub 4", "Err(TooManySubscriptions)");
        let mut other = stage.open("/?tag=b").subscribed(&["4"]);
        other.order("!sub 5", "Err(TooManyTopics)");
        other.order("!pub 5 retain : x", "Err(TooManyTopics)");
        for name in ["12345678901", "#/#", "a#"] {
            other.order(&format!("!sub {name}"), "Err(Name)");
            other.order(&format!("!pub {name} : x"), "Err(Name)");
        }
        other.order("!pub a/# : x", "Err(Name)");
        let big = ".".repeat(2_000);
        other.order(&format!("!pub 4 retain : {big}"), "Err(TooMuchRetained)");
        stage.wait_metric("ringwire_subscriptions_refused_total", 5);
        stage.wait_metric("ringwire_publications_refused_total", 6);
        // From afar the one is counted that finds no room.
        stage.remote.publish_with(Publication::new("4", &line(&*big)).retain()).unwrap();
        other.expect_text(&big);
        stage.remote.subscribe(stage.id("b"), "9", Subscribe::new()).unwrap();
        stage.wait_metric("ringwire_retained_refused_total", 1);
        stage.wait_metric("ringwire_subscriptions_refused_total", 6);
        assert_eq!(stage.remote.publish("", &line("x")), Err(TopicError::Name));
        // One alone may be larger than what may wait; a second does not fit beside it.
        let large = "x".repeat(90_000);
        peer.send(&text(&format!("!run !pub 1 : {large} ; !pub 1 : {large} ; !pub 1 : small")));
        peer.expect_text(&large);
        peer.expect_text("small");
        assert_eq!(stage.notes.of("a").iter().filter(|event| *event == "publish Full").count(), 1);
        stage.wait_metric("ringwire_publications_refused_total", 7);
        stage.wait_metric("ringwire_broadcast_bytes", 0);
    }

    /// A shard is told of what it has subscribers for.
    fn shards_without_subscribers_are_left_alone(on) {
        let stage = Stage::new(on, with(Limits::default(), 3));
        let mut peer = stage.open("/").subscribed(&["a/1", "b/#"]);
        let mut sum = 0;
        for (topic, shards) in [("a/1", 1), ("b/1", 1), ("b", 0), ("a/2", 0)] {
            for number in 0..50 {
                stage.remote.publish(topic, &line(format!("{number}"))).unwrap();
                if shards == 1 {
                    peer.expect_text(&format!("{number}"));
                }
            }
            sum += shards * 50;
        }
        stage.wait_metric("ringwire_publications_total", sum);
        peer.order("!unsub b/#", "true");
        peer.order("!unsub a/1", "true");
        stage.remote.publish("a/1", &line("to nobody")).unwrap();
        peer.order("!sub a/1", "Ok(true)");
        stage.remote.publish("a/1", &line("to one")).unwrap();
        peer.expect_text("to one");
        stage.wait_metric("ringwire_publications_total", sum + 1);
    }

    /// A topic of many does not keep a small one waiting.
    fn topics_take_turns(on) {
        let limits = Limits { max_broadcast_sends_per_turn: 2, ..Limits::default() };
        let stage = Stage::new(on, with(limits, 1));
        let mut many: Vec<Peer> = (0..80).map(|_| stage.open("/").subscribed(&["many"])).collect();
        let mut few = stage.open("/").subscribed(&["few"]);
        let turns = stage.metric("ringwire_turns_total");
        stage.remote.publish("many", &line("to many")).unwrap();
        stage.remote.publish("few", &line("to few")).unwrap();
        few.expect_text("to few");
        many.iter_mut().for_each(|peer| peer.expect_text("to many"));
        stage.wait_metric("ringwire_publications_offered_total", 81);
        assert!(stage.metric("ringwire_turns_total") - turns >= 40, "80 connections, 2 a turn");
    }

    fn another_thread_may_subscribe_a_connection(on) {
        let stage = Stage::new(on, with(Limits::default(), 2));
        let mut peer = stage.open("/?tag=a");
        let id = stage.id("a");
        stage.remote.publish_with(Publication::new("t", &line("kept")).retain()).unwrap();
        stage.remote.subscribe(id, "t", Subscribe::new().retained()).unwrap();
        peer.expect_text("kept");
        stage.remote.publish("t", &line("heard")).unwrap();
        stage.remote.unsubscribe(id, "t").unwrap();
        stage.remote.publish("t", &line("not heard")).unwrap();
        // What is on its way when a subscription ends need not come.
        peer.send(&text("end"));
        let mut heard = Vec::new();
        while heard.last() != Some(&b"end".to_vec()) {
            heard.push(peer.next_frame().1);
        }
        heard.pop();
        assert!(heard.is_empty() || heard == [b"heard"], "{heard:?}");
        drop(peer);
        stage.wait_metric("ringwire_websockets", 0);
        stage.remote.subscribe(id, "t", Subscribe::new()).unwrap();
        stage.wait_metric("ringwire_mailbox_stale_total", 1);
    }
}
