//! TLS: the certificate that the server shows. Certificates are renewed while servers run, so that files which have changed
//! are read again, without a restart; what can't be used is told, and the one before stays.

use std::{
    fs, io,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

use crate::config::ServeFlags;

/// How often files are looked at, at most: at a client's greeting.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What TLS is spoken with; none where the flags name no certificate. The error is one line that says which file is at
/// fault.
pub fn tls(flags: &ServeFlags) -> Result<Option<ServerConfig>, String> {
    let (Some(chain), Some(key)) = (flags.ssl_certfile.clone(), flags.ssl_keyfile.clone()) else { return Ok(None) };
    let provider = Arc::new(ring::default_provider());
    let certificate = Certificate::read(Files { chain, key }, provider.clone())?;
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| format!("TLS: {error}"))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificate));
    Ok(Some(config))
}

#[derive(Debug)]
struct Files {
    chain: PathBuf,
    key: PathBuf,
}

impl Files {
    /// When each was written.
    fn written(&self) -> io::Result<[SystemTime; 2]> {
        let written = |path| fs::metadata(path)?.modified();
        Ok([written(&self.chain)?, written(&self.key)?])
    }

    fn read(&self, provider: &CryptoProvider) -> Result<CertifiedKey, String> {
        let in_chain = |why: String| format!("--ssl-certfile {}: {why}", self.chain.display());
        let in_key = |why: String| format!("--ssl-keyfile {}: {why}", self.key.display());
        let chain = CertificateDer::pem_file_iter(&self.chain).and_then(Iterator::collect);
        let chain: Vec<_> = chain.map_err(|error| in_chain(error.to_string()))?;
        if chain.is_empty() {
            return Err(in_chain("has no certificate in it".into()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key).map_err(|error| in_key(error.to_string()))?;
        CertifiedKey::from_der(chain, key, provider).map_err(|error| match error {
            rustls::Error::InconsistentKeys(_) => {
                in_key(format!("is not the key of the certificate in {}", self.chain.display()))
            }
            rustls::Error::InvalidCertificate(_) => in_chain(error.to_string()),
            _ => in_key(error.to_string()),
        })
    }
}

#[derive(Debug)]
struct Certificate {
    files: Files,
    provider: Arc<CryptoProvider>,
    shown: Mutex<Shown>,
}

#[derive(Debug)]
struct Shown {
    key: Arc<CertifiedKey>,
    /// When the files that were read last had been written, whether or not they could be used.
    written: [SystemTime; 2],
    looked: Instant,
}

impl Certificate {
    fn read(files: Files, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        // Before they are read: a change meanwhile is seen at the next look.
        let written = files.written().unwrap_or([SystemTime::UNIX_EPOCH; 2]);
        let key = Arc::new(files.read(&provider)?);
        let shown = Mutex::new(Shown { key, written, looked: Instant::now() });
        Ok(Self { files, provider, shown })
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _greeting: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let mut shown = self.shown.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.looked.elapsed() >= LOOK_EVERY {
            shown.looked = Instant::now();
            // One that is missing is about to be replaced.
            if let Ok(written) = self.files.written()
                && written != shown.written
            {
                shown.written = written;
                match self.files.read(&self.provider) {
                    Ok(key) => {
                        shown.key = Arc::new(key);
                        tracing::info!("the certificate in {} is shown from now on", self.files.chain.display());
                    }
                    Err(why) => tracing::warn!("{why}; the certificate before stays"),
                }
            }
        }
        Some(shown.key.clone())
    }
}
