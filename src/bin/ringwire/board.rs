//! The topics of `ringwire serve`: their ids and recent messages, shared by all shards. Who listens is known
//! to the engine.
//!
//! The contract: ids of a topic increase by one from message to message, and each message is posted
//! to the shards while the topic is locked, so that the order of ids is the order of delivery. A
//! topic's first id is the microsecond it began in: ids go on increasing when the server starts anew
//! or the topic was forgotten, so that a client that comes again learns whether it has missed any.

use crate::demo::{self, Interest};
use ringwire::http::Response;
use ringwire::{ConnId, Overflow, Prepared, Remote, Subscribe, Ticket, TopicError};
use std::collections::hash_map::RandomState;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fmt;
use std::hash::BuildHasher as _;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{SystemTime, UNIX_EPOCH};

/// Bytes of a topic's name.
pub const MAX_NAME_BYTES: usize = 200;
/// Bytes of a message's data, as JSON.
pub const MAX_DATA_BYTES: usize = 64 << 10;
/// Messages kept of a topic, for those who come again.
pub const MAX_KEPT_MESSAGES: usize = 256;
/// Bytes kept of a topic, unless its last message alone has more.
pub const MAX_KEPT_BYTES: usize = 64 << 10;
/// Topics in all. One that nobody listens to makes room for another.
pub const MAX_TOPICS: usize = 4_096;
/// Requests of one topic that wait for its next message.
pub const MAX_WAITING: usize = 10_000;

/// Topics that share no lock.
const STRIPES: usize = 16;

/// Why something was not done, with what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    Name,
    TooLarge,
    Full,
    Busy,
    Reserved,
}

impl Refused {
    pub fn status(self) -> u16 {
        match self {
            Self::Name => 400,
            Self::TooLarge => 413,
            Self::Reserved => 403,
            Self::Full | Self::Busy => 503,
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name => {
                write!(
                    f,
                    "a topic's name has 1 to {MAX_NAME_BYTES} bytes, and neither `#` nor control characters"
                )
            }
            Self::TooLarge => write!(f, "a message's data has at most {MAX_DATA_BYTES} bytes"),
            Self::Full => write!(f, "all {MAX_TOPICS} topics have listeners: use one of them, or try later"),
            Self::Busy => f.write_str("too many messages wait to be sent: try again"),
            Self::Reserved => f.write_str("topics under demo/ are the server's own: publish to another"),
        }
    }
}

/// What a listener missed.
#[derive(Debug)]
pub struct CatchUp {
    /// Whole messages, as they were sent, with their ids.
    pub messages: Vec<(u64, Arc<str>)>,
    /// The id of the topic's last message.
    pub last: u64,
    /// Messages before these are not kept any more.
    pub gap: bool,
}

#[derive(Debug)]
struct Topic {
    last: u64,
    /// With contiguous ids up to `last`.
    kept: VecDeque<Arc<str>>,
    kept_bytes: usize,
    listeners: usize,
    waiting: HashSet<Ticket>,
}

impl Topic {
    fn keep(&mut self, message: Arc<str>) {
        self.kept_bytes += message.len();
        self.kept.push_back(message);
        while self.kept.len() > MAX_KEPT_MESSAGES || (self.kept_bytes > MAX_KEPT_BYTES && self.kept.len() > 1)
        {
            self.kept_bytes -= self.kept.pop_front().map_or(0, |message| message.len());
        }
    }

    /// What came after the message with this id; with `None` nothing is asked for.
    fn since(&self, after: Option<u64>) -> CatchUp {
        let oldest = self.last + 1 - self.kept.len() as u64;
        let Some(after) = after else { return CatchUp { messages: Vec::new(), last: self.last, gap: false } };
        let gap = after + 1 < oldest || after > self.last;
        let skip = if gap { 0 } else { (after + 1 - oldest) as usize };
        let messages = (oldest..).zip(&self.kept).skip(skip).map(|(id, text)| (id, text.clone()));
        CatchUp { messages: messages.collect(), last: self.last, gap }
    }
}

type Topics = HashMap<Arc<str>, Topic>;

#[derive(Debug)]
pub struct Board {
    stripes: Vec<Mutex<Topics>>,
    /// Names are chosen by clients: nobody can tell which share a stripe.
    hasher: RandomState,
    remote: Remote,
    pub interest: Interest,
}

impl Board {
    pub fn new(remote: Remote) -> Self {
        Self {
            stripes: (0..STRIPES).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            remote,
            interest: Interest::default(),
        }
    }

    /// Sends a message to all who listen to the topic; returns its id. `data` is JSON.
    pub fn publish(&self, name: &str, data: &str) -> Result<u64, Refused> {
        if name.starts_with(demo::PREFIX) {
            return Err(Refused::Reserved);
        }
        self.publish_own(name, data)
    }

    /// As `publish`, also to the topics that are the server's own.
    pub fn publish_own(&self, name: &str, data: &str) -> Result<u64, Refused> {
        if data.len() > MAX_DATA_BYTES {
            return Err(Refused::TooLarge);
        }
        let mut topics = self.stripe(name)?;
        let (_, topic) = self.topic(&mut topics, name)?;
        let id = topic.last + 1;
        let text: Arc<str> =
            format!("{{\"topic\":{},\"id\":{id},\"data\":{data}}}", json_string(name)).into();
        if topic.listeners > 0 {
            let message = Prepared::text_with_event_id(&*text, id.to_string());
            // Other errors are a server that has stopped: nobody listens to it.
            if self.remote.publish(name, &message) == Err(TopicError::Full) {
                return Err(Refused::Busy);
            }
        }
        topic.last = id;
        topic.keep(text.clone());
        if !topic.waiting.is_empty() {
            let answer = CatchUp { messages: vec![(id, text)], last: id, gap: false }.response(name);
            for ticket in topic.waiting.drain() {
                // Where the mailbox is full, `expired` answers with what is kept.
                let _ = self.remote.respond(ticket, answer.clone());
            }
        }
        Ok(id)
    }

    /// Lets a connection listen, after the message with the given id or from now on. What it missed is to be
    /// sent at once: what comes later is on its way to the same shard behind this.
    pub fn subscribe(
        &self,
        id: ConnId,
        name: &str,
        after: Option<u64>,
    ) -> Result<(Arc<str>, CatchUp), Refused> {
        let mut topics = self.stripe(name)?;
        let (name, topic) = self.topic(&mut topics, name)?;
        let how = Subscribe::new().overflow(Overflow::CLOSE);
        self.remote.subscribe(id, &name, how).map_err(|_| Refused::Busy)?;
        topic.listeners += 1;
        if name.starts_with(demo::PREFIX) {
            self.interest.show();
        }
        Ok((name, topic.since(after)))
    }

    /// Ends listening.
    pub fn unsubscribe(&self, id: ConnId, name: &str) -> Result<(), Refused> {
        self.remote.unsubscribe(id, name).map_err(|_| Refused::Busy)?;
        self.leave(name);
        Ok(())
    }

    /// A connection that listened has ended.
    pub fn leave(&self, name: &str) {
        let Ok(mut topics) = self.stripe(name) else { return };
        if let Some(topic) = topics.get_mut(name) {
            topic.listeners -= 1;
        }
    }

    /// What came after the message with the given id. If that is nothing and `ticket` is given, the next
    /// message will answer it, and there is no response yet.
    pub fn poll(
        &self,
        name: &str,
        after: Option<u64>,
        ticket: Option<Ticket>,
    ) -> Result<Option<Response>, Refused> {
        let mut topics = self.stripe(name)?;
        let (_, topic) = self.topic(&mut topics, name)?;
        if name.starts_with(demo::PREFIX) {
            self.interest.show();
        }
        // Without an id: all that is kept.
        let after = after.unwrap_or(topic.last - topic.kept.len() as u64);
        let missed = topic.since(Some(after));
        match ticket {
            Some(_) if topic.waiting.len() >= MAX_WAITING => Err(Refused::Busy),
            Some(ticket) if missed.messages.is_empty() && !missed.gap => {
                topic.waiting.insert(ticket);
                Ok(None)
            }
            _ => Ok(Some(missed.response(name))),
        }
    }

    /// Nobody waits for this answer any more.
    pub fn forget(&self, name: &str, ticket: Ticket) {
        let Ok(mut topics) = self.stripe(name) else { return };
        if let Some(topic) = topics.get_mut(name) {
            topic.waiting.remove(&ticket);
        }
    }

    /// Whether anybody listens to the topic.
    pub fn has_listeners(&self, name: &str) -> bool {
        self.stripe(name).is_ok_and(|topics| topics.get(name).is_some_and(|topic| topic.listeners > 0))
    }

    fn stripe(&self, name: &str) -> Result<MutexGuard<'_, Topics>, Refused> {
        if name.is_empty()
            || name.len() > MAX_NAME_BYTES
            || name.contains(|c: char| c.is_control() || c == '#')
        {
            return Err(Refused::Name);
        }
        let stripe = &self.stripes[self.hasher.hash_one(name) as usize % STRIPES];
        Ok(stripe.lock().unwrap_or_else(|poisoned| poisoned.into_inner()))
    }

    /// The topic of this name, which begins now if there was none.
    fn topic<'t>(&self, topics: &'t mut Topics, name: &str) -> Result<(Arc<str>, &'t mut Topic), Refused> {
        if let Some((known, _)) = topics.get_key_value(name) {
            let known = known.clone();
            return topics.get_mut(name).map(|topic| (known, topic)).ok_or(Refused::Full);
        }
        if topics.len() >= MAX_TOPICS / STRIPES {
            let idle = topics.iter().filter(|(_, topic)| topic.listeners == 0 && topic.waiting.is_empty());
            // Ids begin with the time: the smallest is one of the oldest.
            let oldest = idle.min_by_key(|(_, topic)| topic.last).map(|(name, _)| name.clone());
            topics.remove(&oldest.ok_or(Refused::Full)?);
        }
        let known: Arc<str> = name.into();
        let topic = Topic {
            last: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |age| age.as_micros() as u64),
            kept: VecDeque::new(),
            kept_bytes: 0,
            listeners: 0,
            waiting: HashSet::new(),
        };
        Ok((known.clone(), topics.entry(known).or_insert(topic)))
    }
}

impl CatchUp {
    /// `{"topic":…,"id":…,"gap":…,"messages":[…]}`
    pub fn response(&self, name: &str) -> Response {
        let messages: Vec<&str> = self.messages.iter().map(|(_, text)| &**text).collect();
        let body = format!(
            "{{\"topic\":{},\"id\":{},\"gap\":{},\"messages\":[{}]}}\n",
            json_string(name),
            self.last,
            self.gap,
            messages.join(",")
        );
        Response::new(200).body("application/json", body).header("Cache-Control", "no-store")
    }
}

/// A JSON string.
pub fn json_string(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
