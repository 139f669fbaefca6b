//! Where the hub is, who asks it and where its files are kept: flags first, then the variables that Hugging Face's own
//! programs read, and FastDeploy's.

use std::{
    env,
    ffi::OsString,
    fs,
    path::{self, PathBuf},
};

use super::{error::HubError, name::is_revision};
use crate::config::HubFlags;

/// The hub itself.
const ENDPOINT: &str = "https://huggingface.co";
/// The branch that is meant where none is named.
const MAIN: &str = "main";
/// What FastDeploy calls that branch.
const FASTDEPLOY_MAIN: &str = "master";
/// The one hub there is, in the words of FastDeploy's FD_MODEL_SOURCE.
const SOURCE: &str = "HUGGINGFACE";

/// What a look-up needs to know beside the model's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Address of the hub or of a mirror, without a slash at its end.
    pub endpoint: String,
    /// Folder of all models, in the layout that Hugging Face's programs share.
    pub cache: PathBuf,
    /// The user's key to the hub.
    pub token: Option<String>,
    /// Whether the network is not to be used.
    pub offline: bool,
    /// Branch, tag or commit.
    pub revision: String,
}

impl Settings {
    /// Of the flags and this process's environment.
    pub fn of(flags: &HubFlags) -> Result<Self, HubError> {
        Self::read(flags, &Environment(&|name| env::var_os(name)))
    }

    fn read(flags: &HubFlags, environment: &Environment) -> Result<Self, HubError> {
        if let Some(source) = environment.text("FD_MODEL_SOURCE").filter(|source| !source.eq_ignore_ascii_case(SOURCE))
        {
            return Err(HubError::Source(source));
        }
        let endpoint = environment.text("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.into());
        if !endpoint.starts_with("http://") && !endpoint.starts_with("https://") {
            return Err(HubError::Endpoint(endpoint));
        }
        let revision = flags.revision.clone().filter(|revision| revision != FASTDEPLOY_MAIN).unwrap_or(MAIN.into());
        if !is_revision(&revision) {
            return Err(HubError::Revision(revision));
        }
        Ok(Self {
            endpoint: endpoint.trim_end_matches('/').to_owned(),
            cache: environment.cache(flags).ok_or(HubError::NoCacheFolder)?,
            token: environment.token()?,
            offline: environment.says_yes("HF_HUB_OFFLINE") || environment.says_yes("TRANSFORMERS_OFFLINE"),
            revision,
        })
    }
}

/// Variables by name.
struct Environment<'a>(&'a dyn Fn(&str) -> Option<OsString>);

impl Environment<'_> {
    fn path(&self, name: &str) -> Option<PathBuf> {
        (self.0)(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    fn text(&self, name: &str) -> Option<String> {
        let value = (self.0)(name)?.to_string_lossy().trim().to_owned();
        Some(value).filter(|value| !value.is_empty())
    }

    fn says_yes(&self, name: &str) -> bool {
        let yes = ["1", "on", "yes", "true"];
        self.text(name).is_some_and(|value| yes.contains(&value.to_ascii_lowercase().as_str()))
    }

    fn cache(&self, flags: &HubFlags) -> Option<PathBuf> {
        let named = ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "FD_MODEL_CACHE"];
        let folder = flags.download_dir.clone().or_else(|| named.iter().find_map(|name| self.path(name)));
        // Absolute, so that ranks and links find it from wherever they are.
        path::absolute(folder.or_else(|| self.home().map(|home| home.join("hub")))?).ok()
    }

    /// Where Hugging Face's programs keep what they know of this user.
    fn home(&self) -> Option<PathBuf> {
        let cache = || self.path("XDG_CACHE_HOME").or_else(|| self.path("HOME").map(|home| home.join(".cache")));
        self.path("HF_HOME").or_else(|| cache().map(|cache| cache.join("huggingface")))
    }

    /// The variable's, else the one that a log-in with Hugging Face's programs has left.
    fn token(&self) -> Result<Option<String>, HubError> {
        let variable = || self.text("HF_TOKEN").or_else(|| self.text("HUGGING_FACE_HUB_TOKEN"));
        let file = || {
            let file = self.path("HF_TOKEN_PATH").or_else(|| Some(self.home()?.join("token")))?;
            Some(fs::read_to_string(file).ok()?.trim().to_owned())
        };
        match variable().or_else(file).filter(|token| !token.is_empty()) {
            Some(token) if !token.bytes().all(|byte| byte.is_ascii_graphic()) => Err(HubError::Token),
            token => Ok(token),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(flags: &HubFlags, variables: &[(&str, &str)]) -> Result<Settings, HubError> {
        let find = |name: &str| variables.iter().find(|(other, _)| *other == name).map(|(_, value)| value.into());
        Settings::read(flags, &Environment(&find))
    }

    #[test]
    fn the_cache_is_where_hugging_faces_programs_have_it() {
        let all = [
            ("HF_HUB_CACHE", "/a"),
            ("HUGGINGFACE_HUB_CACHE", "/b"),
            ("FD_MODEL_CACHE", "/c"),
            ("HF_HOME", "/d"),
            ("XDG_CACHE_HOME", "/e"),
            ("HOME", "/f"),
        ];
        let expected = ["/a", "/b", "/c", "/d/hub", "/e/huggingface/hub", "/f/.cache/huggingface/hub"];
        for (first, expected) in expected.iter().enumerate() {
            assert_eq!(read(&HubFlags::default(), &all[first..]).unwrap().cache, PathBuf::from(expected));
        }
        let flags = HubFlags { download_dir: Some("/flag".into()), ..HubFlags::default() };
        assert_eq!(read(&flags, &all).unwrap().cache, PathBuf::from("/flag"));
        assert!(matches!(read(&HubFlags::default(), &[]), Err(HubError::NoCacheFolder)));
    }

    #[test]
    fn revisions_and_addresses_are_checked() {
        let revision = |text: &str| {
            let flags = HubFlags { revision: Some(text.into()), ..HubFlags::default() };
            read(&flags, &[("HOME", "/h")]).map(|settings| settings.revision)
        };
        assert_eq!(revision("master").unwrap(), "main");
        assert_eq!(revision("v1").unwrap(), "v1");
        assert!(matches!(revision("../x"), Err(HubError::Revision(_))));
        let read = |name, value| read(&HubFlags::default(), &[("HOME", "/h"), (name, value)]);
        assert_eq!(read("HF_ENDPOINT", "http://mirror:1/").unwrap().endpoint, "http://mirror:1");
        assert_eq!(read("HF_ENDPOINT", "").unwrap().endpoint, ENDPOINT);
        assert!(matches!(read("HF_ENDPOINT", "mirror"), Err(HubError::Endpoint(_))));
        assert!(matches!(read("FD_MODEL_SOURCE", "AISTUDIO"), Err(HubError::Source(_))));
        assert!(read("FD_MODEL_SOURCE", "huggingface").is_ok());
        assert!(read("HF_HUB_OFFLINE", "1").unwrap().offline && !read("HF_HUB_OFFLINE", "0").unwrap().offline);
    }

    #[test]
    fn a_token_comes_from_the_variable_or_the_file() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("token"), "hf_file\n").unwrap();
        let home = home.path().to_str().unwrap();
        let token = |value| read(&HubFlags::default(), &[("HF_HOME", home), ("HF_TOKEN", value)]).map(|it| it.token);
        assert_eq!(token("hf_variable").unwrap().as_deref(), Some("hf_variable"));
        assert_eq!(token("").unwrap().as_deref(), Some("hf_file"));
        assert!(matches!(token("two\nlines"), Err(HubError::Token)));
    }
}
