//! Names of answers.

use std::time::SystemTime;

/// Longest part of an id that a client may choose, characters.
const CHOSEN_MAX: usize = 128;

/// `prefix` and the client's own id, or `prefix`, the user and a number that no other answer has.
pub fn make(prefix: &str, chosen: Option<&str>, user: Option<&str>) -> String {
    if let Some(chosen) = chosen.map(plain).filter(|chosen| !chosen.is_empty()) {
        return if chosen.starts_with(prefix) { chosen } else { format!("{prefix}{chosen}") };
    }
    let unique = rand::random::<u128>();
    match user.map(plain).filter(|user| !user.is_empty()) {
        Some(user) => format!("{prefix}{user}-{unique:032x}"),
        None => format!("{prefix}{unique:032x}"),
    }
}

/// Ids are logged, so they are kept short and on one line.
fn plain(text: &str) -> String {
    let plain = |letter: char| if letter.is_ascii_alphanumeric() || "-_.:@".contains(letter) { letter } else { '_' };
    text.chars().take(CHOSEN_MAX).map(plain).collect()
}

/// Seconds since 1970.
pub fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_show_what_the_client_chose() {
        assert_eq!(make("cmpl-", Some("abc"), Some("u1")), "cmpl-abc");
        assert_eq!(make("cmpl-", Some("cmpl-abc"), None), "cmpl-abc");
        assert!(make("chatcmpl-", None, Some("u1")).starts_with("chatcmpl-u1-"));
        assert!(make("chatcmpl-", None, Some("a\nb")).starts_with("chatcmpl-a_b-"));
        assert_ne!(make("cmpl-", None, None), make("cmpl-", Some(""), None));
    }
}
