//! Asking the hub. Addresses and the question about a repository are `hf-hub`'s; files are asked for here, since its own
//! download waits for ever on a connection gone silent, adds whatever comes to what is there, and checks no content.

use std::time::Duration;

use hf_hub::{
    Cache, Repo, RepoType,
    api::sync::{Api, ApiBuilder},
};
use ureq::{
    Agent, Body, RequestBuilder,
    config::RedirectAuthHeaders,
    http::{HeaderMap, Response, StatusCode, Uri},
    tls::TlsConfig,
    typestate::WithoutBody,
};

use super::{
    certificates::root_certificates,
    error::HubError,
    listing::{Content, HubFile, Listed, Listing},
    name::HubName,
    patience::{Fault, patiently},
    settings::Settings,
};

const USER_AGENT: &str = concat!("shardwire/", env!("CARGO_PKG_VERSION"));
/// How long a connection may take to come about.
const CONNECT_WITHIN: Duration = Duration::from_secs(10);
/// How long the hub may think about an answer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);
/// How long a connection may be silent.
const SILENCE_MAX: Duration = Duration::from_secs(30);
/// How long a listing may take in all.
const LISTING_WITHIN: Duration = Duration::from_secs(60);
/// The longest listing that is read, bytes.
const LISTING_BYTES_MAX: u64 = 64 << 20;
/// Most redirects followed for the facts of one file.
const REDIRECTS_MAX: usize = 5;
/// Most characters of the hub's own words in a message.
const WORDS_MAX: usize = 200;

/// The hub, as it is asked about one model.
pub struct Client {
    api: Api,
    agent: Agent,
    tls: TlsConfig,
    repo: String,
    endpoint: String,
    authorization: Option<String>,
}

impl Client {
    /// Nothing is asked yet.
    pub fn new(name: &HubName, settings: &Settings) -> Result<Self, HubError> {
        let tls = TlsConfig::builder().root_certs(root_certificates()?).build();
        let agent = Agent::config_builder()
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_recv_response(Some(ANSWER_WITHIN))
            .timeout_per_read(Some(SILENCE_MAX))
            .user_agent(USER_AGENT)
            .tls_config(tls.clone())
            .build();
        let api = ApiBuilder::from_cache(Cache::new(settings.cache.clone()))
            .with_endpoint(settings.endpoint.clone())
            .with_token(settings.token.clone())
            .with_user_agent("shardwire", env!("CARGO_PKG_VERSION"))
            .with_progress(false)
            .build();
        let endpoint = settings.endpoint.clone();
        let unusable = |error: hf_hub::api::sync::ApiError| HubError::Endpoint(format!("{endpoint} ({error})"));
        Ok(Self {
            api: api.map_err(unusable)?,
            agent: agent.new_agent(),
            tls,
            repo: name.repo.clone(),
            endpoint: settings.endpoint.clone(),
            authorization: settings.token.as_ref().map(|token| format!("Bearer {token}")),
        })
    }

    /// The hub's address.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The commit that the revision stands for, and its files.
    pub fn listing(&self, revision: &str) -> Result<Listing, Fault> {
        let json = patiently(|| self.ask_for_listing(revision), |_, _| {})?;
        Listing::from_json(&json).map_err(|why| self.nonsense(&self.repo, why))
    }

    fn ask_for_listing(&self, revision: &str) -> Result<Vec<u8>, Fault> {
        let repo = Repo::with_revision(self.repo.clone(), RepoType::Model, revision.to_owned());
        let request = self.api.repo(repo).info_request().query("blobs", "true").config();
        let response = request
            .http_status_as_error(false)
            .redirect_auth_headers(RedirectAuthHeaders::SameHost)
            .timeout_connect(Some(CONNECT_WITHIN))
            .timeout_global(Some(LISTING_WITHIN))
            .tls_config(self.tls.clone())
            .build()
            .call()?;
        let mut response = self.accepted(response, revision, None)?;
        Ok(response.body_mut().with_config().limit(LISTING_BYTES_MAX).read_to_vec()?)
    }

    /// All that is to be known of a listed file; asked for where the listing doesn't have it.
    pub fn facts(&self, commit: &str, file: &Listed) -> Result<HubFile, Fault> {
        let content = match &file.content {
            Some(content) => content.clone(),
            None => patiently(|| self.ask_for_content(commit, &file.name), |_, _| {})?,
        };
        let etag = format!("the ETag {:?} names no content", content.etag);
        HubFile::new(&file.name, content).ok_or_else(|| self.nonsense(&file.name, etag))
    }

    /// Size and ETag of a file's content. For a large file the hub tells both before it sends the client elsewhere.
    fn ask_for_content(&self, commit: &str, name: &str) -> Result<Content, Fault> {
        let mut url = self.url(commit, name);
        for _ in 0..=REDIRECTS_MAX {
            let plain = self.keyed(self.agent.head(&url), &url).header("accept-encoding", "identity");
            let response = self.accepted(plain.config().max_redirects(0).build().call()?, commit, Some(name))?;
            let headers = response.headers();
            let own = || Some((text(headers, "x-linked-etag")?, text(headers, "x-linked-size")?));
            let plain = || Some((text(headers, "etag")?, text(headers, "content-length")?));
            let target = text(headers, "location").filter(|_| response.status().is_redirection());
            let found = own().or_else(|| plain().filter(|_| target.is_none()));
            match (found, target) {
                (Some((etag, bytes)), _) => {
                    let bytes = bytes.parse().map_err(|_| self.nonsense(name, format!("a size of {bytes:?}")))?;
                    return Ok(Content { bytes, etag: etag.to_owned() });
                }
                (None, Some(target)) => url = absolute(&url, target),
                (None, None) => return Err(self.nonsense(name, "neither ETag nor size".into())),
            }
        }
        Err(self.nonsense(name, "too many redirects".into()))
    }

    /// The file's content from byte `from` on: status 206, or 200 and all of it, or 416 where there is no such byte.
    pub fn open(&self, commit: &str, name: &str, from: u64) -> Result<Response<Body>, Fault> {
        let url = self.url(commit, name);
        let mut request = self.keyed(self.agent.get(&url), &url).header("accept-encoding", "identity");
        if from > 0 {
            request = request.header("range", format!("bytes={from}-"));
        }
        self.accepted(request.call()?, commit, Some(name))
    }

    fn url(&self, commit: &str, name: &str) -> String {
        let repo = Repo::with_revision(self.repo.clone(), RepoType::Model, commit.to_owned());
        self.api.repo(repo).url(&encoded(name))
    }

    /// With the user's key, which is for the hub alone.
    fn keyed(&self, request: RequestBuilder<WithoutBody>, url: &str) -> RequestBuilder<WithoutBody> {
        match &self.authorization {
            Some(authorization) if url.starts_with(&format!("{}/", self.endpoint)) => {
                request.header("authorization", authorization)
            }
            _ => request,
        }
    }

    /// The response, unless it says no. The hub says why in headers of its own.
    fn accepted(&self, response: Response<Body>, revision: &str, file: Option<&str>) -> Result<Response<Body>, Fault> {
        let status = response.status();
        if status.is_success() || status.is_redirection() || status == StatusCode::RANGE_NOT_SATISFIABLE {
            return Ok(response);
        }
        if status.is_server_error() || [StatusCode::REQUEST_TIMEOUT, StatusCode::TOO_MANY_REQUESTS].contains(&status) {
            let pause = text(response.headers(), "retry-after").and_then(|seconds| seconds.parse().ok());
            let why = format!("it answers {status}");
            return Err(Fault::Passing { why, pause: pause.map(Duration::from_secs) });
        }
        Err(Fault::Final(self.refusal(status, response.headers(), revision, file)))
    }

    fn refusal(&self, status: StatusCode, headers: &HeaderMap, revision: &str, file: Option<&str>) -> HubError {
        let (name, endpoint) = (self.repo.clone(), self.endpoint.clone());
        let code = text(headers, "x-error-code").unwrap_or_default();
        match (code, status.as_u16(), file) {
            ("GatedRepo", ..) => HubError::Gated { name, endpoint },
            ("RevisionNotFound", ..) => HubError::NoSuchRevision { name, revision: revision.into(), endpoint },
            ("RepoNotFound", ..) | ("", 404, None) => HubError::NoSuchModel { name, endpoint },
            // Without a key the hub doesn't tell whether there is such a model.
            ("", 401, _) if self.authorization.is_none() => HubError::NoSuchModel { name, endpoint },
            _ => {
                let what = file.map_or(name, str::to_owned);
                let words: String =
                    text(headers, "x-error-message").unwrap_or_default().chars().take(WORDS_MAX).collect();
                let hint = if status == 401 { " (is HF_TOKEN right?)" } else { "" };
                HubError::Refused { endpoint, what, why: format!("{status} {words}").trim().to_owned() + hint }
            }
        }
    }

    /// What came can't be the hub's answer about this.
    pub fn nonsense(&self, what: &str, why: String) -> Fault {
        Fault::Final(HubError::Nonsense { endpoint: self.endpoint.clone(), what: what.to_owned(), why })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Where a redirect leads.
fn absolute(from: &str, target: &str) -> String {
    match from.parse::<Uri>().ok().and_then(|uri| Some((uri.scheme_str()?.to_owned(), uri.authority()?.to_string()))) {
        Some((scheme, host)) if target.starts_with('/') && !target.starts_with("//") => {
            format!("{scheme}://{host}{target}")
        }
        _ => target.to_owned(),
    }
}

/// A path as it is written in an address (RFC 3986).
fn encoded(path: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte);
    path.bytes().map(|byte| if plain(byte) { (byte as char).into() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_written_as_addresses_want_them() {
        for (path, expected) in [("a/b-c_1.gguf", "a/b-c_1.gguf"), ("a b#?%.x", "a%20b%23%3F%25.x"), ("ä", "%C3%A4")] {
            assert_eq!(encoded(path), expected);
        }
    }

    #[test]
    fn redirects_lead_on_from_where_they_were_found() {
        for (target, expected) in [("/b/c?d=e", "http://h:1/b/c?d=e"), ("https://other/x", "https://other/x")] {
            assert_eq!(absolute("http://h:1/a", target), expected);
        }
    }
}
