//! Whom to believe that a server is who it says: the hub, or a collector of traces.

use std::{env, fs, path::PathBuf};

use ureq::tls::{PemItem, RootCerts, parse_pem};

use super::error::HubError;

/// Mozilla's, or those in the file that SSL_CERT_FILE names: companies whose proxies sign for the hub have such a file.
pub fn root_certificates() -> Result<RootCerts, HubError> {
    let Some(path) = env::var_os("SSL_CERT_FILE").filter(|path| !path.is_empty()).map(PathBuf::from) else {
        return Ok(RootCerts::WebPki);
    };
    let unusable = |why: String| HubError::Certificates { path: path.clone(), why };
    let pem = fs::read(&path).map_err(|error| unusable(error.to_string()))?;
    let certificates = parse_pem(&pem).filter_map(|item| match item {
        Ok(PemItem::Certificate(certificate)) => Some(certificate),
        _ => None,
    });
    let certificates: Vec<_> = certificates.collect();
    if certificates.is_empty() { Err(unusable("has no certificate in it".into())) } else { Ok(certificates.into()) }
}
