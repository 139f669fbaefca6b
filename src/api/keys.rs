//! Keys of clients.

use actix_web::{dev::ServiceRequest, http::header::AUTHORIZATION};

use super::error::ApiError;

/// Paths that answer without a key: those that machines ask whether the server lives.
const OPEN_PATHS: [&str; 3] = ["/health", "/livez", "/ping"];

/// The keys that open the API; none: everything is open.
#[derive(Clone, Default)]
pub struct ApiKeys(Vec<String>);

impl ApiKeys {
    /// The keys of the command line; empty ones don't count.
    pub fn new(keys: Vec<String>) -> Self {
        Self(keys.into_iter().map(|key| key.trim().to_owned()).filter(|key| !key.is_empty()).collect())
    }

    /// Refuses a request without a known key, before its body is looked at.
    pub fn check(&self, request: &ServiceRequest) -> Result<(), ApiError> {
        if self.0.is_empty() || OPEN_PATHS.contains(&request.path()) {
            return Ok(());
        }
        let header = request.headers().get(AUTHORIZATION).and_then(|value| value.to_str().ok());
        match header.map(bearer) {
            Some(Some(key)) if self.knows(key) => Ok(()),
            Some(_) => Err(ApiError::unauthorized("the API key is not known here")),
            None => Err(ApiError::unauthorized("an API key is needed: send `Authorization: Bearer KEY`")),
        }
    }

    /// Looks at every key and every byte, so that the time taken tells nothing about a key.
    fn knows(&self, key: &str) -> bool {
        self.0.iter().fold(false, |known, own| known | equal(own.as_bytes(), key.as_bytes()))
    }
}

/// The key of `Bearer KEY`, the word in any case.
fn bearer(header: &str) -> Option<&str> {
    let (scheme, key) = header.trim().split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| key.trim())
}

fn equal(own: &[u8], given: &[u8]) -> bool {
    let differences = own.iter().zip(given).fold(0, |all, (a, b)| all | std::hint::black_box(a ^ b));
    own.len() == given.len() && differences == 0
}

#[cfg(test)]
mod tests {
    use actix_web::{ResponseError, test::TestRequest};

    use super::*;

    #[test]
    fn only_known_keys_open_what_is_closed() {
        let keys = ApiKeys::new(vec!["secret".into(), " ".into(), "other".into()]);
        for (path, header, open) in [
            ("/v1/models", Some("Bearer secret"), true),
            ("/v1/models", Some("bearer other"), true),
            ("/v1/models", Some("Bearer secre"), false),
            ("/v1/models", Some("Bearer secrets"), false),
            ("/v1/models", Some("Bearer "), false),
            ("/v1/models", Some("secret"), false),
            ("/v1/models", None, false),
            ("/health", None, true),
            ("/livez", None, true),
        ] {
            let mut request = TestRequest::with_uri(path);
            if let Some(header) = header {
                request = request.insert_header((AUTHORIZATION, header));
            }
            let answer = keys.check(&request.to_srv_request());
            assert_eq!(answer.is_ok(), open, "{path} {header:?}");
            assert!(answer.is_ok() || answer.unwrap_err().status_code() == 401);
        }
        assert!(ApiKeys::default().check(&TestRequest::with_uri("/v1/models").to_srv_request()).is_ok());
    }
}
