//! From method and path to what serves them.
//!
//! A [`Router`] is plain data: it knows neither requests nor handlers, so one value can be a function
//! pointer, an enum or a number. What it does not find is an answer already: 400, 404 or 405.

use super::Response;
use std::borrow::Cow;
use std::fmt;

/// Routes with parameters, for upgrades and for plain requests.
///
/// `{name}` stands for one segment of the path, `{*name}` for all the rest with its slashes, at least
/// one byte; `{{` is a brace. A fixed segment wins over a parameter, whatever the order of adding.
/// `HEAD` is served where `GET` is.
///
/// Paths are matched as they came, and only parameters are percent-decoded (RFC 3986 §2.1), after the
/// match: `%2F` is a slash inside a segment and separates none.
///
/// ```
/// use ringwire::Router;
///
/// #[derive(Debug, PartialEq)]
/// enum Page { Home, Read, Publish }
///
/// let routes = Router::new()
///     .route("GET", "/", Page::Home)
///     .route("GET", "/topics/{*name}", Page::Read)
///     .route("POST", "/topics/{*name}", Page::Publish);
///
/// let found = routes.find("GET", "/topics/room/caf%C3%A9")?;
/// assert_eq!((found.value(), found.param("name")), (&Page::Read, Some("room/café")));
///
/// let refused = routes.find("DELETE", "/topics/room/1").unwrap_err().into_response();
/// assert_eq!((refused.status(), refused.headers().get("allow")), (405, Some("GET, HEAD, POST")));
/// # Ok::<(), ringwire::http::RouteError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Router<T> {
    paths: matchit::Router<usize>,
    /// By the number that `paths` finds: the pattern, and who serves it by method.
    routes: Vec<(String, Vec<(&'static str, T)>)>,
}

impl<T> Default for Router<T> {
    fn default() -> Self {
        Self { paths: matchit::Router::new(), routes: Vec::new() }
    }
}

impl<T> Router<T> {
    /// Without routes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a route.
    ///
    /// # Panics
    /// If the path is malformed, has a parameter where another route of the same shape names it
    /// differently, or has this method already. All are constants of the program: it panics always or
    /// never.
    #[track_caller]
    pub fn route(mut self, method: &'static str, path: &str, value: T) -> Self {
        assert!(path.starts_with('/'), "the route `{path}` does not begin with `/`");
        let known = self.routes.iter().position(|(pattern, _)| pattern == path);
        let index = known.unwrap_or_else(|| {
            if let Err(error) = self.paths.insert(path, self.routes.len()) {
                panic!("the route `{path}`: {error}");
            }
            self.routes.push((path.to_owned(), Vec::new()));
            self.routes.len() - 1
        });
        let methods = &mut self.routes[index].1;
        assert!(methods.iter().all(|(taken, _)| *taken != method), "{method} {path} is there already");
        methods.push((method, value));
        self
    }

    /// Finds who serves `path`, which is without its query, as [`Request::path`](crate::Request::path) is.
    ///
    /// # Errors
    /// See [`RouteError`].
    pub fn find<'r, 'p>(&'r self, method: &str, path: &'p str) -> Result<Found<'r, 'p, T>, RouteError> {
        let matched = self.paths.at(path).map_err(|_| RouteError::NotFound)?;
        let methods = &self.routes[*matched.value].1;
        let serves = |wanted: &str| methods.iter().find(|(method, _)| *method == wanted);
        let served = serves(method).or_else(|| if method == "HEAD" { serves("GET") } else { None });
        let (_, value) = served.ok_or_else(|| RouteError::MethodNotAllowed { allow: allow(methods) })?;
        let mut params = Vec::with_capacity(matched.params.len());
        for (name, text) in matched.params.iter() {
            params.push((name, percent_decode(text).ok_or(RouteError::Encoding)?));
        }
        Ok(Found { value, params })
    }
}

/// The value of an `Allow` field (RFC 9110 §10.2.1).
fn allow<T>(methods: &[(&'static str, T)]) -> String {
    let mut names = Vec::new();
    for (method, _) in methods {
        names.push(*method);
        if *method == "GET" {
            names.push("HEAD");
        }
    }
    names.join(", ")
}

/// A route that was found.
#[derive(Clone, Debug)]
pub struct Found<'r, 'p, T> {
    value: &'r T,
    params: Vec<(&'r str, Cow<'p, str>)>,
}

impl<'r, T> Found<'r, '_, T> {
    /// What was added with the route.
    pub fn value(&self) -> &'r T {
        self.value
    }

    /// A parameter of the path, decoded. `None` if the route has none of this name.
    pub fn param(&self, name: &str) -> Option<&str> {
        self.params.iter().find(|(known, _)| *known == name).map(|(_, value)| &**value)
    }
}

/// Why no route was found: the peer's fault in every case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RouteError {
    /// No route has this path: 404.
    NotFound,
    /// The path is served, but by other methods: 405.
    MethodNotAllowed {
        /// Those, for the `Allow` field.
        allow: String,
    },
    /// A parameter has a `%` without two hexadecimal digits, or is not UTF-8 when decoded: 400.
    Encoding,
}

impl RouteError {
    /// The answer to give.
    pub fn into_response(self) -> Response {
        let text = format!("{self}\n");
        match self {
            Self::NotFound => Response::text(404, text),
            // Methods are the program's constants; one that is no header text is left out.
            Self::MethodNotAllowed { allow } => {
                let response = Response::text(405, text);
                response.clone().try_header("Allow", allow).unwrap_or(response)
            }
            Self::Encoding => Response::text(400, text),
        }
    }
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFound => f.write_str("Nothing is served at this path."),
            Self::MethodNotAllowed { allow } => write!(f, "This path is served to {allow}."),
            Self::Encoding => f.write_str("The path is not percent-encoded UTF-8: write `%25` for a `%`."),
        }
    }
}

impl std::error::Error for RouteError {}

impl From<RouteError> for Response {
    fn from(error: RouteError) -> Self {
        error.into_response()
    }
}

/// Decodes `%XX` (RFC 3986 §2.1); `+` stays one. `None` if a `%` is not followed by two hexadecimal
/// digits or the result is not UTF-8.
///
/// ```
/// use ringwire::http::percent_decode;
/// assert_eq!(percent_decode("caf%C3%A9").as_deref(), Some("café"));
/// assert_eq!(percent_decode("100%"), None);
/// ```
pub fn percent_decode(text: &str) -> Option<Cow<'_, str>> {
    let Some(first) = text.find('%') else { return Some(Cow::Borrowed(text)) };
    let mut decoded = Vec::with_capacity(text.len());
    decoded.extend_from_slice(&text.as_bytes()[..first]);
    let mut rest = &text.as_bytes()[first..];
    while let [byte, tail @ ..] = rest {
        rest = tail;
        if *byte != b'%' {
            decoded.push(*byte);
            continue;
        }
        let [high, low, tail @ ..] = rest else { return None };
        let digit = |byte: u8| char::from(byte).to_digit(16);
        decoded.push((digit(*high)? * 16 + digit(*low)?) as u8);
        rest = tail;
    }
    String::from_utf8(decoded).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes() -> Router<&'static str> {
        Router::new()
            .route("GET", "/", "home")
            .route("GET", "/topics", "list")
            .route("GET", "/topics/{*name}", "read")
            .route("POST", "/topics/{*name}", "publish")
            .route("GET", "/users/{id}", "user")
            .route("GET", "/users/me", "me")
            .route("PUT", "/users/{id}/posts/{post}", "post")
    }

    fn find(method: &str, path: &str) -> Result<(&'static str, Vec<String>), RouteError> {
        let routes = routes();
        let found = routes.find(method, path)?;
        let params = ["name", "id", "post"].iter().filter_map(|name| found.param(name));
        Ok((*found.value(), params.map(str::to_owned).collect()))
    }

    fn finds(method: &str, path: &str, value: &'static str, params: &[&str]) {
        assert_eq!(find(method, path), Ok((value, params.iter().map(|p| (*p).to_owned()).collect())));
    }

    #[test]
    fn routes_are_found_with_their_parameters() {
        finds("GET", "/", "home", &[]);
        finds("HEAD", "/", "home", &[]);
        finds("GET", "/topics", "list", &[]);
        finds("GET", "/topics/room", "read", &["room"]);
        finds("POST", "/topics/room/1", "publish", &["room/1"]);
        finds("GET", "/users/me", "me", &[]);
        finds("GET", "/users/meg", "user", &["meg"]);
        finds("PUT", "/users/7/posts/a", "post", &["7", "a"]);
    }

    #[test]
    fn parameters_are_decoded_after_the_match() {
        finds("GET", "/users/a%2Fb", "user", &["a/b"]);
        finds("GET", "/topics/%e4%b8%96+%25", "read", &["世+%"]);
        for path in ["/users/%", "/users/%2", "/users/%zz", "/users/%ff", "/users/%+1", "/topics/a/%C3"] {
            assert_eq!(find("GET", path), Err(RouteError::Encoding), "{path}");
        }
    }

    #[test]
    fn what_is_not_found_is_told_from_what_is_not_allowed() {
        for path in ["/nowhere", "/users", "/users/", "/users/7/posts", "/topics/", "*", "", "/%75sers/7"] {
            assert_eq!(find("GET", path), Err(RouteError::NotFound), "{path}");
        }
        let refused = |method, path| Response::from(find(method, path).unwrap_err());
        assert_eq!(refused("DELETE", "/topics/x").headers().get("Allow"), Some("GET, HEAD, POST"));
        assert_eq!(refused("GET", "/users/7/posts/a").headers().get("Allow"), Some("PUT"));
        assert_eq!(refused("get", "/").status(), 405);
        assert_eq!(refused("HEAD", "/users/7/posts/a").status(), 405);
        assert_eq!(refused("GET", "/users/%").status(), 400);
    }

    #[test]
    #[should_panic(expected = "GET / is there already")]
    fn a_route_is_added_once() {
        let _ = routes().route("GET", "/", "again");
    }

    #[test]
    #[should_panic(expected = "/users/{name}")]
    fn a_parameter_has_one_name() {
        let _ = routes().route("GET", "/users/{name}", "again");
    }
}
