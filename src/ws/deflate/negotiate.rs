//! Agreeing upon permessage-deflate (RFC 7692 §5, §7.1): offers, answers, and their rules.
//!
//! A server declines an offer that it cannot serve or that is malformed and looks at the next one;
//! a client fails the connection over an answer that does not follow from its offer.

use super::{DeflateParams, PERMESSAGE_DEFLATE, Window};
use crate::config::DeflateConfig;
use crate::ws::extension::Extension;
use std::fmt;

const SERVER_NO_TAKEOVER: &str = "server_no_context_takeover";
const CLIENT_NO_TAKEOVER: &str = "client_no_context_takeover";
const SERVER_WINDOW: &str = "server_max_window_bits";
const CLIENT_WINDOW: &str = "client_max_window_bits";

/// The four parameters as they stand in an offer or an answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Params {
    server_no_takeover: bool,
    client_no_takeover: bool,
    server_window: Option<u8>,
    /// Outer `None`: absent. Inner `None`: without a value.
    client_window: Option<Option<u8>>,
}

impl Params {
    /// The parameters, each at most once and with a value where it has to have one. The name of the
    /// first that is wrong otherwise (RFC 7692 §7.1).
    fn read<'a>(extension: &Extension<'a>) -> Result<Self, &'a str> {
        let mut params = Self::default();
        for (name, value) in extension.params() {
            let fresh = match (name, value.as_deref()) {
                (SERVER_NO_TAKEOVER, None) => !std::mem::replace(&mut params.server_no_takeover, true),
                (CLIENT_NO_TAKEOVER, None) => !std::mem::replace(&mut params.client_no_takeover, true),
                (SERVER_WINDOW, Some(value)) => {
                    params.server_window.replace(window_bits(value).ok_or(name)?).is_none()
                }
                (CLIENT_WINDOW, None) => params.client_window.replace(None).is_none(),
                (CLIENT_WINDOW, Some(value)) => {
                    params.client_window.replace(Some(window_bits(value).ok_or(name)?)).is_none()
                }
                _ => false,
            };
            if !fresh {
                return Err(name);
            }
        }
        Ok(params)
    }
}

/// 8 to 15 without leading zeros (RFC 7692 §7.1.2).
fn window_bits(value: &str) -> Option<u8> {
    match value.as_bytes() {
        [digit @ b'8'..=b'9'] => Some(digit - b'0'),
        [b'1', digit @ b'0'..=b'5'] => Some(10 + digit - b'0'),
        _ => None,
    }
}

/// The server's answer to one of a client's offers.
///
/// ```
/// use ringwire::DeflateConfig;
/// use ringwire::ws::deflate::DeflateAnswer;
/// use ringwire::ws::extension::parse;
///
/// let offers = parse("x-other, permessage-deflate; client_max_window_bits").filter_map(Result::ok);
/// let answer = DeflateAnswer::choose(offers, &DeflateConfig::default(), false).expect("served");
/// assert_eq!(
///     answer.to_string(),
///     "permessage-deflate; server_no_context_takeover; client_no_context_takeover"
/// );
/// assert!(!answer.params().server.takeover);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateAnswer {
    params: DeflateParams,
    /// The client asked for a bound on our window: it must be told which it gets, even if it is the
    /// largest (§7.1.2.1).
    bound_asked: bool,
}

impl DeflateAnswer {
    /// Answers the first of `offers`, in the client's order of preference, that can be served.
    /// Without `takeover` neither end keeps its window, whatever the configuration says.
    pub fn choose<'a>(
        offers: impl IntoIterator<Item = Extension<'a>>,
        config: &DeflateConfig,
        takeover: bool,
    ) -> Option<Self> {
        offers
            .into_iter()
            .filter(|extension| extension.name.eq_ignore_ascii_case(PERMESSAGE_DEFLATE))
            .find_map(|extension| Params::read(&extension).ok())
            .map(|offer| Self::to(offer, config, takeover && config.takeover))
    }

    fn to(offer: Params, config: &DeflateConfig, takeover: bool) -> Self {
        let ours = config.max_window_bits.clamp(8, 15);
        let server = Window {
            bits: offer.server_window.unwrap_or(15).min(ours),
            takeover: takeover && !offer.server_no_takeover,
        };
        let client = Window {
            // Only a client that mentions the parameter can be asked for less (§7.1.2.2).
            bits: match offer.client_window {
                None => 15,
                Some(most) => most.unwrap_or(15).min(config.max_peer_window_bits.clamp(8, 15)),
            },
            takeover: takeover && !offer.client_no_takeover,
        };
        Self { params: DeflateParams { server, client }, bound_asked: offer.server_window.is_some() }
    }

    /// What is agreed upon with this answer.
    pub const fn params(self) -> DeflateParams {
        self.params
    }
}

/// The value of `Sec-WebSocket-Extensions`.
impl fmt::Display for DeflateAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let DeflateParams { server, client } = self.params;
        f.write_str(PERMESSAGE_DEFLATE)?;
        write_no_takeover(f, !server.takeover, !client.takeover)?;
        if server.bits < 15 || self.bound_asked {
            write!(f, "; {SERVER_WINDOW}={}", server.bits)?;
        }
        if client.bits < 15 {
            write!(f, "; {CLIENT_WINDOW}={}", client.bits)?;
        }
        Ok(())
    }
}

fn write_no_takeover(f: &mut fmt::Formatter<'_>, server: bool, client: bool) -> fmt::Result {
    for (name, stands) in [(SERVER_NO_TAKEOVER, server), (CLIENT_NO_TAKEOVER, client)] {
        if stands {
            write!(f, "; {name}")?;
        }
    }
    Ok(())
}

/// A client's offer. Its text is the value of `Sec-WebSocket-Extensions`.
///
/// ```
/// use ringwire::DeflateConfig;
/// use ringwire::ws::deflate::DeflateOffer;
/// use ringwire::ws::extension::parse;
///
/// let offer = DeflateOffer::new(&DeflateConfig { takeover: true, ..DeflateConfig::default() }, true);
/// assert_eq!(offer.to_string(), "permessage-deflate; client_max_window_bits");
/// let answer = parse("permessage-deflate; client_max_window_bits=10").next().expect("one")?;
/// let params = offer.settle(&answer)?;
/// assert_eq!((params.client.bits, params.server.bits), (10, 15));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DeflateOffer {
    takeover: bool,
    /// The most that our window may have.
    client_bits: u8,
    server_bits: u8,
}

impl DeflateOffer {
    /// An offer with these settings. Without `takeover` neither end keeps its window, whatever the
    /// settings say.
    pub fn new(config: &DeflateConfig, takeover: bool) -> Self {
        Self {
            takeover: takeover && config.takeover,
            client_bits: config.max_window_bits.clamp(8, 15),
            server_bits: config.max_peer_window_bits.clamp(8, 15),
        }
    }

    /// What is agreed upon with a server that answered so.
    ///
    /// # Errors
    /// [`AnswerError`] if the answer does not follow from this offer: the connection is to be
    /// failed (RFC 7692 §7.1).
    pub fn settle(&self, answer: &Extension<'_>) -> Result<DeflateParams, AnswerError> {
        let answer = Params::read(answer).map_err(|name| AnswerError::Parameter(name.to_owned()))?;
        if !self.takeover && !answer.server_no_takeover {
            return Err(AnswerError::KeepsWindow);
        }
        let server_bits = answer.server_window.unwrap_or(15);
        if server_bits > self.server_bits {
            return Err(AnswerError::WindowTooLarge);
        }
        let client_bits = match answer.client_window {
            None => 15,
            Some(Some(bits)) => bits,
            Some(None) => return Err(AnswerError::Parameter(CLIENT_WINDOW.to_owned())),
        };
        Ok(DeflateParams {
            server: Window { bits: server_bits, takeover: !answer.server_no_takeover },
            client: Window {
                bits: client_bits.min(self.client_bits),
                takeover: self.takeover && !answer.client_no_takeover,
            },
        })
    }
}

impl fmt::Display for DeflateOffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(PERMESSAGE_DEFLATE)?;
        write_no_takeover(f, !self.takeover, !self.takeover)?;
        if self.server_bits < 15 {
            write!(f, "; {SERVER_WINDOW}={}", self.server_bits)?;
        }
        match self.client_bits {
            15 => write!(f, "; {CLIENT_WINDOW}"),
            bits => write!(f, "; {CLIENT_WINDOW}={bits}"),
        }
    }
}

/// Why a server's answer to a [`DeflateOffer`] is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerError {
    /// A parameter is unknown, repeated, or has a value it may not have.
    Parameter(String),
    /// The offer asked for `server_no_context_takeover` and the answer does not have it.
    KeepsWindow,
    /// `server_max_window_bits` is missing or larger than offered.
    WindowTooLarge,
}

impl fmt::Display for AnswerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Parameter(name) => write!(f, "its parameter `{name}` is unknown, repeated or wrong"),
            Self::KeepsWindow => write!(f, "it lacks `{SERVER_NO_TAKEOVER}`, which was asked for"),
            Self::WindowTooLarge => write!(f, "its `{SERVER_WINDOW}` is missing or larger than asked for"),
        }
    }
}

impl std::error::Error for AnswerError {}
