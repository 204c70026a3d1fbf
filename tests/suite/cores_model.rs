//! What `topics_cores_soak` expects of topics and users on several cores.
//!
//! A line is owed to who wants it from the moment it is published until it arrives; while it is on its way
//! between cores, who begins to want it may get it, and who stops need not. Users are topics of their
//! own here: only those bound when it is sent are meant. The world must be told when all has arrived.

use crate::topics_soak;
use ringwire::{ConnId, Dropped};
use std::collections::{BTreeMap, HashMap, HashSet};

pub const TOPICS: [&str; 7] = ["a", "a/1", "a/2", "a/1/x", "b/1", "r/1", "r/2"];
/// Of handlers.
pub const FILTERS: [&str; 9] = ["#", "a/#", "a/1/#", "b/#", "a", "a/1", "a/2", "a/1/x", "b/1"];
/// Of who subscribes others.
pub const REMOTE_FILTERS: [&str; 2] = ["r/#", "r/1"];
/// No topic has such a name.
pub const USERS: [&str; 3] = ["@ann", "@ben", "@cleo"];

/// One message, as it is told apart in what a peer hears.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// Publishers outside of the cores first, then the cores' own.
    pub publisher: u64,
    /// `=` is what a handler sends itself, `*` goes to all.
    pub topic: &'static str,
    pub key: u64,
    /// Grows with every line.
    pub number: u64,
}

impl Line {
    pub fn text(self, bytes: usize) -> String {
        let Self { publisher, topic, key, number } = self;
        format!("{publisher} {topic} {key} {number} {}", ".".repeat(bytes))
    }

    pub fn parse(text: &str) -> Self {
        let words: Vec<&str> = text.split(' ').collect();
        let int = |at: usize| words[at].parse().unwrap();
        let mut topics = TOPICS.into_iter().chain(USERS).chain(["=", "*"]);
        let topic = topics.find(|topic| *topic == words[1]).unwrap();
        Self { publisher: int(0), topic, key: int(2), number: int(3) }
    }
}

/// How far a subscription is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Firm,
    /// On its way to the connection's core.
    Coming,
    /// Its end is on its way.
    Ending,
}

#[derive(Clone, Copy, Debug)]
pub struct Due {
    pub line: Line,
    /// It comes or is counted as lost; otherwise it may do neither.
    pub must: bool,
}

/// What the service did with one connection.
#[derive(Debug, Default)]
pub struct Record {
    pub id: Option<ConnId>,
    pub closed: bool,
    /// Its filters, and the user it is bound to.
    pub filters: HashMap<&'static str, Phase>,
    /// By number.
    pub owed: BTreeMap<u64, Due>,
    /// After the line of this number none of those comes.
    pub ended: Vec<(u64, HashSet<u64>)>,
    /// Messages to all that it is still to be offered.
    pub to_offer: HashSet<u64>,
    /// Whatever its policies, the latest value replaces others.
    pub conflates: bool,
    pub lost: Dropped,
}

#[derive(Clone, Copy, Debug)]
struct OnItsWay {
    line: Line,
    except: Option<usize>,
    /// The core that published it: its own subscribers are those of that moment.
    shard: Option<usize>,
}

#[derive(Debug, Default)]
pub struct World {
    pub records: Vec<Record>,
    /// What handlers are to publish in their next turn, by shard.
    pub asks: HashMap<usize, Vec<(&'static str, usize)>>,
    /// Shards whose connections are to be compared with their records.
    pub to_compare: HashSet<usize>,
    pub presence: Vec<(u64, String, bool)>,
    pub full: u64,
    pub excluded: u64,
    numbers: u64,
    on_their_way: Vec<OnItsWay>,
    to_all: HashMap<u64, Line>,
}

/// Wildcards do not get what is said to users, to one connection or to all.
fn matches(filter: &str, topic: &str) -> bool {
    let is_no_topic = topic.starts_with(['@', '=', '*']);
    !(is_no_topic && filter.ends_with('#')) && topics_soak::matches(filter, topic)
}

impl Record {
    fn wants(&self, topic: &str, of: impl Fn(Phase) -> bool) -> bool {
        self.filters.iter().any(|(filter, phase)| of(*phase) && matches(filter, topic))
    }
}

impl World {
    pub fn next(&mut self, publisher: u64, topic: &'static str, key: u64) -> Line {
        self.numbers += 1;
        Line { publisher, topic, key, number: self.numbers }
    }

    /// Somebody has published: a core, or who is outside.
    pub fn published(&mut self, line: Line, except: Option<usize>, shard: Option<usize>) {
        self.on_their_way.push(OnItsWay { line, except, shard });
        for (number, record) in self.records.iter_mut().enumerate() {
            if record.closed || !record.wants(line.topic, |_| true) {
                continue;
            }
            if except == Some(number) {
                self.excluded += 1;
                continue;
            }
            // What comes from elsewhere comes behind the subscription.
            let elsewhere = shard.is_none() || record.id.map(ConnId::shard) != shard;
            let must = record
                .wants(line.topic, |phase| phase == Phase::Firm || (phase == Phase::Coming && elsewhere));
            record.owed.insert(line.number, Due { line, must });
        }
    }

    /// A connection begins to want something.
    pub fn begins(&mut self, number: usize, filter: &'static str, phase: Phase) {
        let record = &mut self.records[number];
        record.filters.insert(filter, phase);
        let own = record.id.map(ConnId::shard);
        let wanted = |way: &&OnItsWay| {
            matches(filter, way.line.topic)
                && way.except != Some(number)
                && (way.shard.is_none() || way.shard != own)
        };
        for OnItsWay { line, .. } in self.on_their_way.iter().filter(wanted) {
            record.owed.entry(line.number).or_insert(Due { line: *line, must: false });
            for (_, ended) in &mut record.ended {
                ended.remove(&line.number);
            }
        }
    }

    /// It wants it no more, and is told so by the line of that number.
    pub fn ends(&mut self, number: usize, filter: &'static str, confirm: u64) {
        let first = self.on_their_way.first().map_or(u64::MAX, |way| way.line.number);
        let record = &mut self.records[number];
        record.filters.remove(filter);
        let mut ended = HashSet::new();
        let mut owed = std::mem::take(&mut record.owed);
        for (number, due) in owed.iter_mut().filter(|(_, due)| matches(filter, due.line.topic)) {
            due.must &= *number < first || record.wants(due.line.topic, |phase| phase == Phase::Firm);
            if !record.wants(due.line.topic, |_| true) {
                ended.insert(*number);
            }
        }
        record.owed = owed;
        record.ended.push((confirm, ended));
    }

    /// The end of a subscription is on its way to the connection's core.
    pub fn is_to_end(&mut self, number: usize, filter: &'static str) {
        let first = self.on_their_way.first().map_or(u64::MAX, |way| way.line.number);
        let record = &mut self.records[number];
        record.filters.insert(filter, Phase::Ending);
        let mut owed = std::mem::take(&mut record.owed);
        for (_, due) in owed.range_mut(first..).filter(|(_, due)| matches(filter, due.line.topic)) {
            due.must &= record.wants(due.line.topic, |phase| phase == Phase::Firm);
        }
        record.owed = owed;
    }

    /// A message goes to all who are there.
    pub fn broadcast(&mut self, line: Line) {
        self.to_all.insert(line.number, line);
        for record in self.records.iter_mut().filter(|record| record.id.is_some() && !record.closed) {
            record.to_offer.insert(line.number);
        }
    }

    /// It has come to one of them.
    pub fn offered(&mut self, number: usize, tag: u64, taken: bool) {
        let (record, line) = (&mut self.records[number], self.to_all[&tag]);
        assert!(!record.closed);
        record.to_offer.remove(&tag);
        if taken {
            let before = record.owed.insert(tag, Due { line, must: true });
            assert!(before.is_none(), "{line:?} was offered twice");
        }
    }

    /// Nothing is on its way.
    pub fn settled(&mut self) {
        self.on_their_way.clear();
        for record in &mut self.records {
            record.filters.retain(|_, phase| *phase != Phase::Ending);
            record.filters.values_mut().for_each(|phase| *phase = Phase::Firm);
        }
    }

    pub fn bound_to(&self, user: &str) -> usize {
        self.ids_of(user).len()
    }

    pub fn ids_of(&self, user: &str) -> Vec<ConnId> {
        let bound = self.records.iter().filter(|record| record.filters.contains_key(user));
        bound.filter_map(|record| record.id).collect()
    }

    pub fn subscriptions(&self) -> u64 {
        let filters = self.records.iter().flat_map(|record| record.filters.keys());
        filters.filter(|filter| !filter.starts_with('@')).count() as u64
    }
}
