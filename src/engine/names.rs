//! Topic names and the filters that stand for many: what is valid, and what matches what.
//!
//! Pure functions on text. A name is any text without `#`; a filter is a name, or `prefix/#`, or `#`.

use std::fmt;
use std::ops::Range;

/// Why a subscription or a publication did not come about. Nothing of it was done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TopicError {
    /// The caller's fault: the name is empty, has a `#` where none may be, or is longer than
    /// [`Limits::max_topic_bytes`](crate::Limits::max_topic_bytes).
    Name,
    /// The connection holds [`Limits::max_subscriptions`](crate::Limits::max_subscriptions): it asks
    /// for too much.
    TooManySubscriptions,
    /// The shard holds [`Limits::max_topics`](crate::Limits::max_topics).
    TooManyTopics,
    /// The shard retains [`Limits::max_retained_bytes`](crate::Limits::max_retained_bytes).
    TooMuchRetained,
    /// A shard has [`Limits::max_broadcast_bytes`](crate::Limits::max_broadcast_bytes) that it has not
    /// delivered yet: publish less, or later.
    Full,
    /// The connection is closing.
    Closed,
    /// The server does not run.
    Stopped,
}

impl fmt::Display for TopicError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Name => "the topic's name is empty, too long (max_topic_bytes) or has a misplaced `#`",
            Self::TooManySubscriptions => "the connection has too many subscriptions: end some, or raise max_subscriptions",
            Self::TooManyTopics => "the shard has too many topics: raise max_topics",
            Self::TooMuchRetained => "the shard retains too much: publish empty messages to forget some, or raise max_retained_bytes",
            Self::Full => "a shard has not delivered what was published before: publish less or later, or raise max_broadcast_bytes",
            Self::Closed => "the connection is closing",
            Self::Stopped => "the server does not run",
        })
    }
}

impl std::error::Error for TopicError {}

/// What a subscription asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filter<'a> {
    /// One topic.
    Exact(&'a str),
    /// All topics that begin with this, which is empty or ends in `/`, and go on behind it.
    Below(&'a str),
}

/// Whether messages may be published to a topic of that name.
pub fn check_name(name: &str, max_bytes: u32) -> Result<(), TopicError> {
    let valid = !name.is_empty() && name.len() <= max_bytes as usize && !name.contains('#');
    if valid { Ok(()) } else { Err(TopicError::Name) }
}

impl<'a> Filter<'a> {
    /// Reads a filter.
    pub fn parse(text: &'a str, max_bytes: u32) -> Result<Self, TopicError> {
        let Some(prefix) = text.strip_suffix('#') else {
            return check_name(text, max_bytes).map(|()| Self::Exact(text));
        };
        let valid = text.len() <= max_bytes as usize
            && !prefix.contains('#')
            && (prefix.is_empty() || prefix.ends_with('/'));
        if valid { Ok(Self::Below(prefix)) } else { Err(TopicError::Name) }
    }

    /// Whether a message to the topic is for it.
    pub fn matches(self, topic: &str) -> bool {
        match self {
            Self::Exact(name) => topic == name,
            Self::Below(prefix) => topic.len() > prefix.len() && topic.starts_with(prefix),
        }
    }

    /// Whether everything for the other one is for it as well. One covers itself.
    pub fn covers(self, other: Filter<'_>) -> bool {
        match (self, other) {
            (_, Filter::Exact(name)) => self.matches(name),
            (Self::Below(prefix), Filter::Below(longer)) => longer.starts_with(prefix),
            (Self::Exact(_), Filter::Below(_)) => false,
        }
    }
}

/// The prefixes by which a topic may be found: of `a/b/c` they are nothing, `a/` and `a/b/`.
pub fn prefixes(topic: &str) -> impl Iterator<Item = &str> {
    let ends = memchr::memchr_iter(b'/', topic.as_bytes()).map(|at| at + 1);
    let range: Range<usize> = 0..topic.len();
    std::iter::once(0).chain(ends).filter(move |end| range.contains(end)).map(|end| &topic[..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_filters() {
        for (text, filter) in [
            ("room/1", Some(Filter::Exact("room/1"))),
            ("a+b@example.org", Some(Filter::Exact("a+b@example.org"))),
            ("/", Some(Filter::Exact("/"))),
            ("room/#", Some(Filter::Below("room/"))),
            ("/#", Some(Filter::Below("/"))),
            ("#", Some(Filter::Below(""))),
            ("", None),
            ("room#", None),
            ("#/1", None),
            ("##", None),
            ("a/#/#", None),
            ("far too long", None),
            ("far/too/#", None),
        ] {
            assert_eq!(
                Filter::parse(
                    text,
                    8.max(text.len().min(15)) as u32 - u32::from(text.starts_with("far")) * 4
                )
                .ok(),
                filter,
                "{text}"
            );
        }
        assert!(check_name("room/#", 20).is_err() && check_name("", 20).is_err());
    }

    /// Two ways to say the same: a filter matches a topic if it is exact or found by a prefix.
    #[test]
    fn a_topic_is_found_by_the_prefixes_of_the_filters_that_match_it() {
        let topics = ["a", "a/", "a/b", "a/b/c", "/", "/a", "ab/c", "a//b", "é/ü"];
        let filters = ["#", "a/#", "a/b/#", "/#", "a//#", "é/#", "ab/#"];
        for topic in topics {
            let found: Vec<&str> = prefixes(topic).collect();
            for filter in filters {
                let Ok(Filter::Below(prefix)) = Filter::parse(filter, 20) else { panic!("{filter}") };
                assert_eq!(found.contains(&prefix), Filter::Below(prefix).matches(topic), "{filter} {topic}");
            }
        }
        assert!(!Filter::Below("a/").matches("a"), "not itself");
    }

    #[test]
    fn what_covers_what() {
        let parse = |text| Filter::parse(text, 20).unwrap();
        for (one, other, covers) in [
            ("#", "a", true),
            ("#", "a/#", true),
            ("a/#", "a/b", true),
            ("a/#", "a/b/#", true),
            ("a/#", "a/#", true),
            ("a/b/#", "a/#", false),
            ("a/#", "a", false),
            ("a/#", "ab", false),
            ("a", "a", true),
            ("a", "a/#", false),
            ("a/b", "a/#", false),
        ] {
            assert_eq!(parse(one).covers(parse(other)), covers, "{one} {other}");
        }
    }
}
