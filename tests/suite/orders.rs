//! What a peer may ask the service to do with topics and users, as lines of text.

use crate::service::{Notes, Visitor};
use ringwire::{CloseCode, Conn, Overflow, Prepared, Publication, Subscribe};

/// Carries out an order and answers with one line, unless it begins with `!run`: then it carries out
/// several, between semicolons, and answers to none.
pub fn obey(notes: &Notes, conn: &mut Conn<'_, Visitor>, words: &[&str]) {
    if let ["!run", orders @ ..] = words {
        for order in orders.split(|word| *word == ";") {
            carry_out(notes, conn, order);
        }
        return;
    }
    let answer = carry_out(notes, conn, words);
    conn.send_text(&answer);
}

fn carry_out(notes: &Notes, conn: &mut Conn<'_, Visitor>, words: &[&str]) -> String {
    match *words {
        ["!sub", filter, ref how @ ..] => {
            let mut subscribe = Subscribe::new();
            for word in how {
                subscribe = match *word {
                    "retained" => subscribe.retained(),
                    policy => subscribe.overflow(overflow(policy)),
                };
            }
            format!("{:?}", conn.subscribe_with(filter, subscribe))
        }
        ["!unsub", filter] => format!("{}", conn.unsubscribe(filter)),
        ["!overflow", policy] => {
            conn.set_overflow(overflow(policy));
            "set".to_owned()
        }
        // Words before the colon say how.
        ["!pub", topic, ref rest @ ..] => {
            let colon = rest.iter().position(|word| *word == ":").unwrap();
            let message = Prepared::text(rest[colon + 1..].join(" "));
            let mut publication = Publication::new(topic, &message);
            for word in &rest[..colon] {
                publication = match *word {
                    "others" => publication.except(conn.id()),
                    "retain" => publication.retain(),
                    key => publication.key(key.parse().unwrap()),
                };
            }
            let result = conn.publish_with(publication);
            if let Err(error) = result {
                notes.write(&conn.state().tag, format!("publish {error:?}"));
            }
            format!("{result:?}")
        }
        ["!user"] => format!("{}", conn.unbind_user()),
        ["!user", user] => format!("{:?}", conn.bind_user(user)),
        ["!to", user, ref rest @ ..] => {
            format!("{:?}", conn.send_to_user(user, &Prepared::text(rest.join(" "))))
        }
        ["!say", ref rest @ ..] => format!("{:?}", conn.send_text(&rest.join(" "))),
        ref other => panic!("{other:?} is no order"),
    }
}

fn overflow(policy: &str) -> Overflow {
    match policy {
        "newest" => Overflow::DropNewest,
        "oldest" => Overflow::DropOldest,
        "conflate" => Overflow::Conflate,
        code => Overflow::Close(CloseCode(code.parse().unwrap())),
    }
}
