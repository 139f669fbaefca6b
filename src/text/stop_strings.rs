//! Ends a text at a stop string, which may come in any number of pieces.

use std::sync::Arc;

/// Watches a growing text for stop strings. A text that may be the beginning of one is held back until that is known.
///
/// The stop string that is complete first ends the text; of several that are complete at the same byte, the longest.
/// The answer doesn't depend on how the text was cut into pieces. Each byte costs amortised one step per stop string.
#[derive(Debug)]
pub struct StopStrings {
    watched: Vec<Watched>,
    include_in_output: bool,
    held: String,
    stopped: Option<Arc<str>>,
}

/// Text that may be sent, and whether the text ends with it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Released {
    /// Final text, possibly empty.
    pub text: String,
    /// The stop string that ended the text; whatever comes after is dropped.
    pub stopped: Option<Arc<str>>,
}

impl StopStrings {
    /// Watches for `strings` (empty ones are ignored). `include_in_output` keeps the stop string in the text.
    pub fn new<S: AsRef<str>>(strings: impl IntoIterator<Item = S>, include_in_output: bool) -> Self {
        let strings = strings.into_iter().filter(|string| !string.as_ref().is_empty());
        let mut watched: Vec<_> = strings.map(|string| Watched::new(string.as_ref())).collect();
        // Longest first: it wins where several end at the same byte.
        watched.sort_by_key(|watched| std::cmp::Reverse(watched.string.len()));
        Self { watched, include_in_output, held: String::new(), stopped: None }
    }

    /// Takes the next piece of the text.
    pub fn push(&mut self, piece: &str) -> Released {
        if self.stopped.is_some() {
            return Released { text: String::new(), stopped: self.stopped.clone() };
        }
        if self.watched.is_empty() {
            return Released { text: piece.into(), stopped: None };
        }
        let before = self.held.len();
        self.held.push_str(piece);
        match self.find(before) {
            Some((end, string)) => self.stop(end, string),
            None => self.release(),
        }
    }

    /// The text that was held back, when no more comes.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// Feeds the held text from `start` on; the first match's end and string.
    fn find(&mut self, start: usize) -> Option<(usize, Arc<str>)> {
        for (index, &byte) in self.held.as_bytes().iter().enumerate().skip(start) {
            let complete = self.watched.iter_mut().filter_map(|watched| watched.step(byte).then_some(&watched.string));
            // All automata must take the byte, so the iterator is exhausted before the first is picked.
            if let Some(string) = complete.fold(None, |first, string| first.or(Some(string))) {
                return Some((index + 1, string.clone()));
            }
        }
        None
    }

    fn stop(&mut self, end: usize, string: Arc<str>) -> Released {
        let mut text = std::mem::take(&mut self.held);
        text.truncate(if self.include_in_output { end } else { end - string.len() });
        self.stopped = Some(string);
        Released { text, stopped: self.stopped.clone() }
    }

    fn release(&mut self) -> Released {
        let begun = self.watched.iter().map(|watched| watched.matched).max().unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - begun);
        Released { text: std::mem::replace(&mut self.held, rest), stopped: None }
    }
}

/// One stop string and how much of it the text ends with (the automaton of Knuth, Morris and Pratt).
#[derive(Debug)]
struct Watched {
    string: Arc<str>,
    /// For each prefix of the string (by its length minus one), the length of its longest border.
    borders: Vec<usize>,
    matched: usize,
}

impl Watched {
    fn new(string: &str) -> Self {
        let bytes = string.as_bytes();
        let mut borders = vec![0; bytes.len()];
        for index in 1..bytes.len() {
            borders[index] = advance(bytes, &borders, borders[index - 1], bytes[index]);
        }
        Self { string: string.into(), borders, matched: 0 }
    }

    /// Takes a byte of the text; whether the text ends with the whole string now.
    fn step(&mut self, byte: u8) -> bool {
        self.matched = advance(self.string.as_bytes(), &self.borders, self.matched, byte);
        self.matched == self.string.len()
    }
}

/// The length of the longest prefix of `string` that a text ends with, if it ended with `matched` bytes before `byte`.
fn advance(string: &[u8], borders: &[usize], mut matched: usize, byte: u8) -> usize {
    while matched == string.len() || string[matched] != byte {
        if matched == 0 {
            return 0;
        }
        matched = borders[matched - 1];
    }
    matched + 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// All that is sent, and the stop string.
    fn run<S: AsRef<str>>(strings: &[S], include: bool, pieces: &[&str]) -> (String, Option<String>) {
        let mut stops = StopStrings::new(strings, include);
        let mut sent = String::new();
        let mut stopped = None;
        for piece in pieces {
            let released = stops.push(piece);
            sent.push_str(&released.text);
            stopped = released.stopped;
        }
        (sent + &stops.finish(), stopped.map(|string| string.to_string()))
    }

    fn check(strings: &[&str], pieces: &[&str], text: &str, stopped: Option<&str>) {
        assert_eq!(run(strings, false, pieces), (text.into(), stopped.map(String::from)), "{strings:?} in {pieces:?}");
    }

    #[test]
    fn a_stop_string_ends_the_text_however_it_is_cut() {
        check(&["STOP"], &["one ST", "OP two"], "one ", Some("STOP"));
        check(&["STOP"], &["S", "T", "O", "P", "!"], "", Some("STOP"));
        check(&["STOP"], &["one S", "TO go"], "one STO go", None);
        check(&["STOP"], &["one ST"], "one ST", None);
        check(&[], &["one", " two"], "one two", None);
        check(&["", "x"], &["one"], "one", None);
        check(&["é!"], &["caf", "é", "!"], "caf", Some("é!"));
    }

    #[test]
    fn the_string_that_is_complete_first_wins_and_then_the_longest() {
        check(&["abcd", "bc"], &["xabcd"], "xa", Some("bc"));
        check(&["cd", "abcd"], &["xabcd"], "x", Some("abcd"));
        check(&["aab"], &["aaab"], "a", Some("aab"));
        check(&["\n\n", "\n"], &["a\n\nb"], "a", Some("\n"));
    }

    #[test]
    fn only_a_possible_beginning_is_held_back() {
        let mut stops = StopStrings::new(["</answer>"], false);
        assert_eq!(stops.push("a < b </ans").text, "a < b ");
        assert_eq!(stops.push("wers").text, "</answers");
        assert_eq!(stops.finish(), "");
    }

    #[test]
    fn the_stop_string_can_stay_and_nothing_follows_it() {
        assert_eq!(run(&["END"], true, &["one E", "ND two", " three"]), ("one END".into(), Some("END".into())));
    }

    /// The rule, told without an automaton: the shortest beginning of the text that ends with a stop string.
    fn expected(strings: &[String], text: &str) -> (String, Option<String>) {
        for end in (0..=text.len()).filter(|&end| text.is_char_boundary(end)) {
            let ending = strings.iter().filter(|string| !string.is_empty() && text[..end].ends_with(string.as_str()));
            if let Some(string) = ending.max_by_key(|string| string.len()) {
                return (text[..end - string.len()].into(), Some(string.clone()));
            }
        }
        (text.into(), None)
    }

    proptest! {
        #[test]
        fn any_cutting_gives_the_same(
            strings in prop::collection::vec("[abé]{0,5}", 0..4),
            pieces in prop::collection::vec("[abé]{0,4}", 0..20),
        ) {
            let pieces: Vec<_> = pieces.iter().map(String::as_str).collect();
            prop_assert_eq!(run(&strings, false, &pieces), expected(&strings, &pieces.concat()));
        }
    }
}
