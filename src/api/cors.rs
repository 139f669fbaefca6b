//! Which pages of other origins may read answers in a browser.

use actix_cors::Cors;
use actix_web::http::{Method, Uri, header::HeaderName};

/// How long a browser may remember what it was told, seconds.
const REMEMBERED_S: usize = 600;

/// What of our answers' headers a page may read beside those that it always may.
const EXPOSED: [&str; 9] = [
    "retry-after",
    "www-authenticate",
    "x-request-id",
    "x-ratelimit-limit-requests",
    "x-ratelimit-remaining-requests",
    "x-ratelimit-reset-requests",
    "x-ratelimit-limit-tokens",
    "x-ratelimit-remaining-tokens",
    "x-ratelimit-reset-tokens",
];

/// A list of names, or `*` for any.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed {
    /// Every one.
    Any,
    /// These.
    These(Vec<String>),
}

/// What pages of other origins may do.
#[derive(Debug, Clone)]
pub struct CorsPolicy {
    /// Where they come from.
    pub origins: Allowed,
    /// Methods that they may use.
    pub methods: Allowed,
    /// Headers that they may send.
    pub headers: Allowed,
    /// Whether they may send cookies and the like.
    pub credentials: bool,
}

impl Allowed {
    /// Reads `*`, `a,b` or, as vLLM's flags want it, `["a", "b"]`.
    pub fn parse(text: &str) -> Result<Self, String> {
        let names: Vec<String> = match text.trim() {
            list if list.starts_with('[') => serde_json::from_str(list).map_err(|error| error.to_string())?,
            list => list.split(',').map(|name| name.trim().to_owned()).filter(|name| !name.is_empty()).collect(),
        };
        Ok(if names.iter().any(|name| name == "*") { Self::Any } else { Self::These(names) })
    }

    fn each(self, is_good: impl Fn(&str) -> bool, what: &str) -> Result<Self, String> {
        match &self {
            Self::These(names) => match names.iter().find(|name| !is_good(name)) {
                Some(bad) => Err(format!("`{bad}` is no {what}")),
                None => Ok(self),
            },
            Self::Any => Ok(self),
        }
    }
}

/// Origins: scheme, host and perhaps port.
pub fn origins(text: &str) -> Result<Allowed, String> {
    let is_origin = |name: &str| {
        let uri = name.parse::<Uri>().ok();
        uri.is_some_and(|uri| uri.scheme().is_some() && uri.authority().is_some() && !name.ends_with('/'))
    };
    Allowed::parse(text)?.each(is_origin, "origin; it looks like https://example.org")
}

/// Methods.
pub fn methods(text: &str) -> Result<Allowed, String> {
    Allowed::parse(text)?.each(|name| Method::from_bytes(name.as_bytes()).is_ok(), "method")
}

/// Names of headers.
pub fn headers(text: &str) -> Result<Allowed, String> {
    Allowed::parse(text)?.each(|name| HeaderName::from_bytes(name.as_bytes()).is_ok(), "name of a header")
}

impl CorsPolicy {
    /// The policy at work. What isn't allowed is answered all the same, but a browser won't show it to the page.
    pub fn middleware(&self) -> Cors {
        let cors = Cors::default().block_on_origin_mismatch(false).expose_headers(EXPOSED).max_age(REMEMBERED_S);
        let cors = match &self.origins {
            Allowed::Any if self.credentials => cors.allow_any_origin(),
            Allowed::Any => cors.allow_any_origin().send_wildcard(),
            Allowed::These(origins) => origins.iter().fold(cors, |cors, origin| cors.allowed_origin(origin)),
        };
        let cors = match &self.methods {
            Allowed::Any => cors.allow_any_method(),
            Allowed::These(methods) => cors.allowed_methods(methods.iter().map(String::as_str)),
        };
        let cors = match &self.headers {
            Allowed::Any => cors.allow_any_header(),
            Allowed::These(headers) => cors.allowed_headers(headers),
        };
        if self.credentials { cors.supports_credentials() } else { cors }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_written_in_three_ways() {
        let these = |names: &[&str]| Ok(Allowed::These(names.iter().map(|name| name.to_string()).collect()));
        assert_eq!(origins("*"), Ok(Allowed::Any));
        assert_eq!(origins(r#"["*"]"#), Ok(Allowed::Any));
        assert_eq!(origins("https://a.org, http://b:3000"), these(&["https://a.org", "http://b:3000"]));
        assert_eq!(methods(r#"["GET", "POST"]"#), these(&["GET", "POST"]));
        assert!(origins("example.org").unwrap_err().contains("https://"));
        assert!(origins("https://a.org/").is_err() && origins("[1]").is_err());
        assert!(headers("x y").is_err() && methods("a b").is_err());
    }
}
