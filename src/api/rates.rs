//! How many requests and tokens each key may use in a minute.
//!
//! A bucket that fills up evenly. Requests are taken as they come; tokens when they have been used, since nobody knows
//! before how many there will be: a bucket may owe some, and then nobody comes in until it is paid.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};

use super::error::ApiError;

const MINUTE_S: f64 = 60.0;

/// What may be used in a minute; `None` is without limit.
#[derive(Debug, Clone, Copy, Default)]
pub struct Rates {
    /// Requests.
    pub requests: Option<u32>,
    /// Tokens of prompts and completions.
    pub tokens: Option<u32>,
}

/// The accounts of all keys.
pub struct Accounts(Vec<Account>);

/// What one key has left; cheap to clone.
#[derive(Clone)]
pub struct Account(Arc<Mutex<Buckets>>);

struct Buckets {
    requests: Option<Bucket>,
    tokens: Option<Bucket>,
}

/// What is left, and how much there may be.
#[derive(Debug, Clone, Copy)]
struct Bucket {
    limit: f64,
    level: f64,
    at: Instant,
}

/// What answers tell of an account, in OpenAI's headers: name and value.
#[derive(Debug, Clone, Default)]
pub struct RateHeaders(Vec<(String, String)>);

impl Accounts {
    /// One for each key, or one for all clients where there are no keys.
    pub fn new(keys: usize, rates: Rates) -> Self {
        Self((0..keys.max(1)).map(|_| Account::new(rates, Instant::now())).collect())
    }

    /// The account of the key with this index.
    pub fn of_key(&self, index: usize) -> Account {
        self.0[index.min(self.0.len() - 1)].clone()
    }
}

impl Account {
    fn new(rates: Rates, now: Instant) -> Self {
        let bucket = |limit: Option<u32>| limit.map(|limit| Bucket::full(limit, now));
        Self(Arc::new(Mutex::new(Buckets { requests: bucket(rates.requests), tokens: bucket(rates.tokens) })))
    }

    /// Takes a request, or tells when to come again.
    pub fn take_request(&self, now: Instant) -> Result<(), ApiError> {
        let mut buckets = self.buckets(now);
        if let Some(tokens) = buckets.tokens.filter(|tokens| tokens.level <= 0.0) {
            return Err(too_many("tokens", tokens.limit, tokens.time_to(1.0)));
        }
        match &mut buckets.requests {
            Some(requests) if requests.level < 1.0 => Err(too_many("requests", requests.limit, requests.time_to(1.0))),
            Some(requests) => {
                requests.level -= 1.0;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Takes what was used.
    pub fn take_tokens(&self, count: u64, now: Instant) {
        if let Some(tokens) = &mut self.buckets(now).tokens {
            tokens.level -= count as f64;
        }
    }

    /// What is left, for the answer's headers.
    pub fn headers(&self, now: Instant) -> RateHeaders {
        let buckets = self.buckets(now);
        let mut headers = RateHeaders::default();
        for (what, bucket) in [("requests", buckets.requests), ("tokens", buckets.tokens)] {
            if let Some(bucket) = bucket {
                headers.tell(what, bucket);
            }
        }
        headers
    }

    /// Filled up to now.
    fn buckets(&self, now: Instant) -> MutexGuard<'_, Buckets> {
        let mut buckets = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets { requests, tokens } = &mut *buckets;
        for bucket in [requests, tokens].into_iter().flatten() {
            bucket.fill(now);
        }
        buckets
    }
}

impl Bucket {
    fn full(limit: u32, at: Instant) -> Self {
        Self { limit: limit.into(), level: limit.into(), at }
    }

    fn fill(&mut self, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.level = (self.level + passed * self.limit / MINUTE_S).min(self.limit);
        self.at = self.at.max(now);
    }

    fn time_to(&self, level: f64) -> Duration {
        Duration::from_secs_f64(((level - self.level) * MINUTE_S / self.limit).max(0.0))
    }
}

impl RateHeaders {
    fn tell(&mut self, what: &str, bucket: Bucket) {
        let reset = bucket.time_to(bucket.limit).as_secs_f64();
        self.0.extend([
            (format!("x-ratelimit-limit-{what}"), bucket.limit.to_string()),
            (format!("x-ratelimit-remaining-{what}"), bucket.level.max(0.0).floor().to_string()),
            (format!("x-ratelimit-reset-{what}"), format!("{reset:.3}s")),
        ]);
    }

    /// Adds them to an answer.
    pub fn add_to(&self, headers: &mut HeaderMap) {
        for (name, value) in &self.0 {
            if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
                headers.insert(name, value);
            }
        }
    }
}

fn too_many(what: &str, limit: f64, wait: Duration) -> ApiError {
    let seconds = wait.as_secs_f64().ceil().max(1.0);
    let message = format!("the limit of {limit} {what} per minute is reached; come again in {seconds} s");
    ApiError::rate_limited(message, seconds as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(answer: Result<(), ApiError>) -> u16 {
        use actix_web::ResponseError;
        answer.map_or_else(|error| error.status_code().as_u16(), |()| 200)
    }

    #[test]
    fn requests_come_back_evenly() {
        let start = Instant::now();
        let account = Account::new(Rates { requests: Some(2), tokens: None }, start);
        for (after_s, expected) in [(0, 200), (0, 200), (0, 429), (29, 429), (31, 200), (32, 429), (600, 200)] {
            let now = start + Duration::from_secs(after_s);
            assert_eq!(status(account.take_request(now)), expected, "after {after_s} s");
        }
    }

    #[test]
    fn tokens_are_owed_and_paid() {
        let start = Instant::now();
        let account = Account::new(Rates { requests: None, tokens: Some(60) }, start);
        assert_eq!(status(account.take_request(start)), 200);
        account.take_tokens(90, start);
        for (after_s, expected) in [(0, 429), (29, 429), (31, 200)] {
            assert_eq!(status(account.take_request(start + Duration::from_secs(after_s))), expected, "{after_s} s");
        }
    }

    #[test]
    fn each_key_has_its_own() {
        let accounts = Accounts::new(2, Rates { requests: Some(1), tokens: None });
        let now = Instant::now();
        assert_eq!(status(accounts.of_key(0).take_request(now)), 200);
        assert_eq!(status(accounts.of_key(0).take_request(now)), 429);
        assert_eq!(status(accounts.of_key(1).take_request(now)), 200);
    }

    #[test]
    fn headers_tell_what_is_left() {
        let now = Instant::now();
        let account = Account::new(Rates { requests: Some(60), tokens: Some(1000) }, now);
        account.take_request(now).unwrap();
        account.take_tokens(2500, now);
        let mut headers = HeaderMap::new();
        account.headers(now).add_to(&mut headers);
        for (name, value) in [
            ("x-ratelimit-limit-requests", "60"),
            ("x-ratelimit-remaining-requests", "59"),
            ("x-ratelimit-reset-requests", "1.000s"),
            ("x-ratelimit-limit-tokens", "1000"),
            ("x-ratelimit-remaining-tokens", "0"),
            ("x-ratelimit-reset-tokens", "150.000s"),
        ] {
            assert_eq!(headers.get(name).and_then(|value| value.to_str().ok()), Some(value), "{name}");
        }
    }
}
