//! Names on the hub: `owner/name`, with `:QUANT` behind it where a repository holds several GGUF files.

use std::str::FromStr;

/// Longest part of a name that the hub gives.
const PART_MAX: usize = 96;
/// Longest choice behind the colon.
const QUANT_MAX: usize = 128;
/// Longest name of a branch or tag that is looked up.
const REVISION_MAX: usize = 200;

/// A repository, and which of its files is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HubName {
    /// `owner/name`.
    pub repo: String,
    /// What follows the colon, as Ollama's and llama.cpp's users write it; `latest` says nothing.
    pub quant: Option<String>,
}

/// The text can be no name on the hub.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAName;

impl FromStr for HubName {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Self, NotAName> {
        let (repo, quant) = match text.split_once(':') {
            Some((repo, quant)) => (repo, Some(quant)),
            None => (text, None),
        };
        let (owner, name) = repo.split_once('/').ok_or(NotAName)?;
        let quant_is_fine = quant.is_none_or(|quant| is_word(quant, QUANT_MAX));
        if !is_part(owner) || !is_part(name) || !quant_is_fine {
            return Err(NotAName);
        }
        let quant = quant.filter(|quant| !quant.eq_ignore_ascii_case("latest")).map(str::to_owned);
        Ok(Self { repo: repo.to_owned(), quant })
    }
}

/// The hub's rule for each part of a name.
fn is_part(part: &str) -> bool {
    let edges = ['-', '.'];
    is_word(part, PART_MAX)
        && !part.starts_with(edges)
        && !part.ends_with(edges)
        && !part.contains("--")
        && !part.contains("..")
}

fn is_word(text: &str, longest: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=longest).contains(&text.len()) && text.bytes().all(allowed)
}

/// Whether the text can name a branch, a tag or a commit; it becomes part of paths and addresses.
pub fn is_revision(text: &str) -> bool {
    text.len() <= REVISION_MAX && text.split('/').all(|part| is_word(part, REVISION_MAX) && !part.starts_with('.'))
}

/// Whether the text is a whole commit: it names the same files for ever.
pub fn is_commit(text: &str) -> bool {
    text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_the_hubs() {
        let check = |text: &str, repo: &str, quant: Option<&str>| {
            assert_eq!(text.parse(), Ok(HubName { repo: repo.into(), quant: quant.map(Into::into) }), "{text}");
        };
        check("baidu/ERNIE-4.5-0.3B-Paddle", "baidu/ERNIE-4.5-0.3B-Paddle", None);
        check("bartowski/a_b.c-GGUF:Q4_K_M", "bartowski/a_b.c-GGUF", Some("Q4_K_M"));
        check("a/b:latest", "a/b", None);
        let long = "x".repeat(97);
        for wrong in ["", "a", "/", "a/", "/b", "a/b/c", "./b", "../b", "a/..", "a/b:", "a/b:c:d", "a b/c", "-a/b"] {
            assert_eq!(wrong.parse::<HubName>(), Err(NotAName), "{wrong}");
        }
        for wrong in ["a/b.", "a--b/c", "a/b..c", "ä/b", "a\n/b", "~/b", &format!("{long}/b"), &format!("a/{long}")] {
            assert_eq!(wrong.parse::<HubName>(), Err(NotAName), "{wrong}");
        }
    }

    #[test]
    fn revisions_stay_within_their_folder() {
        for right in ["main", "v1.0", "refs/pr/3", "feature/x_y"] {
            assert!(is_revision(right), "{right}");
        }
        for wrong in ["", "..", "a/../b", "/etc", "a//b", "a b", "a?b", ".git", "a%2Fb"] {
            assert!(!is_revision(wrong), "{wrong}");
        }
        assert!(is_commit(&"0aF9".repeat(10)) && !is_commit("main") && !is_commit(&"g".repeat(40)));
    }
}
