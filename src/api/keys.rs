//! Keys of clients.

use actix_web::{
    dev::ServiceRequest,
    http::header::{AUTHORIZATION, HeaderName},
};

use sha2::{Digest, Sha256};

use super::{error::ApiError, page};

/// Paths that answer without a key: those that machines ask whether the server lives, and the pages for people, which
/// tell nothing by themselves and ask for a key.
const OPEN_PATHS: [&str; 5] = ["/health", "/livez", "/ping", "/docs", "/"];
/// Where Anthropic's clients put their key.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");

/// The keys that open the API, as their SHA-256, so that no image of the memory tells them; none: everything is open.
#[derive(Clone, Default)]
pub struct ApiKeys(Vec<[u8; 32]>);

impl ApiKeys {
    /// The keys of the command line; empty ones don't count.
    pub fn new(keys: Vec<String>) -> Self {
        Self(keys.iter().map(|key| key.trim()).filter(|key| !key.is_empty()).map(hash).collect())
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Which key a request has, by its index; 0 where none is needed. Refuses one without a known key, before its body is
    /// looked at.
    pub fn check(&self, request: &ServiceRequest) -> Result<usize, ApiError> {
        let header = |name| request.headers().get(name).and_then(|value| value.to_str().ok());
        let given = [header(AUTHORIZATION).and_then(bearer), header(X_API_KEY).map(str::trim)];
        let known = given.iter().flatten().find_map(|key| self.index_of(key));
        if self.0.is_empty() || is_open(request.path()) {
            return Ok(known.unwrap_or(0));
        }
        let given = [AUTHORIZATION, X_API_KEY].iter().any(|name| request.headers().contains_key(name));
        known.ok_or_else(|| match given {
            true => ApiError::unauthorized("the API key is not known here"),
            false => ApiError::unauthorized("an API key is needed: send `Authorization: Bearer KEY`"),
        })
    }

    /// How long hashes take to compare tells nothing about a key.
    fn index_of(&self, key: &str) -> Option<usize> {
        let given = hash(key);
        self.0.iter().position(|own| *own == given)
    }
}

fn hash(key: &str) -> [u8; 32] {
    Sha256::digest(key).into()
}

fn is_open(path: &str) -> bool {
    OPEN_PATHS.contains(&path) || path.starts_with(page::FILES_PATH)
}

/// The key of `Bearer KEY`, the word in any case.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, key) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

#[cfg(test)]
mod tests {
    use actix_web::{ResponseError, test::TestRequest};

    use super::*;

    #[test]
    fn only_known_keys_open_what_is_closed() {
        let keys = ApiKeys::new(vec!["secret".into(), " ".into(), "other".into()]);
        for (path, name, value, key) in [
            ("/v1/models", "authorization", "Bearer secret", Some(0)),
            ("/v1/models", "authorization", "bearer other", Some(1)),
            ("/v1/models", "authorization", "Bearer secre", None),
            ("/v1/models", "authorization", "Bearer secrets", None),
            ("/v1/models", "authorization", "Bearer ", None),
            ("/v1/models", "authorization", "secret", None),
            ("/v1/models", "x-api-key", "other", Some(1)),
            ("/v1/models", "x-api-key", "Bearer other", None),
            ("/v1/models", "accept", "*/*", None),
            ("/health", "accept", "*/*", Some(0)),
            ("/livez", "accept", "*/*", Some(0)),
            ("/", "accept", "*/*", Some(0)),
            ("/page/main.js", "accept", "*/*", Some(0)),
            ("/pages", "accept", "*/*", None),
        ] {
            let request = TestRequest::with_uri(path).insert_header((name, value));
            let answer = keys.check(&request.to_srv_request());
            assert_eq!(answer.as_ref().ok(), key.as_ref(), "{path} {name}: {value}");
            assert!(answer.is_ok() || answer.unwrap_err().status_code() == 401);
        }
        assert!(ApiKeys::default().check(&TestRequest::with_uri("/v1/models").to_srv_request()).is_ok());
    }
}
