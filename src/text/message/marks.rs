//! Finds marks in a text that comes in pieces.

/// What stands at the beginning of a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// This many bytes of ordinary text.
    Text(usize),
    /// A mark, by its index.
    Mark(usize),
    /// What may become a mark, or nothing: more text is needed.
    Unknown,
}

/// What `text` begins with. Of several marks the one that begins first counts, and of those that begin together the
/// longest; a text that may still become one is [`Found::Unknown`] unless it is the `last`. Thus the answer doesn't
/// depend on how much of the text has come.
pub(crate) fn next<M: AsRef<str>>(text: &str, marks: &[M], last: bool) -> Found {
    let position = text.char_indices().map(|(at, _)| at).find(|&at| {
        let rest = &text[at..];
        marks.iter().any(|mark| meets(rest, mark.as_ref(), last))
    });
    match position {
        None if text.is_empty() => Found::Unknown,
        None => Found::Text(text.len()),
        Some(0) => at_beginning(text, marks, last),
        Some(at) => Found::Text(at),
    }
}

/// `text` without any of the marks.
pub(crate) fn without<M: AsRef<str>>(text: &str, marks: &[M]) -> String {
    let (mut rest, mut clean) = (text, String::with_capacity(text.len()));
    loop {
        match next(rest, marks, true) {
            Found::Text(length) => {
                clean.push_str(&rest[..length]);
                rest = &rest[length..];
            }
            Found::Mark(index) => rest = &rest[marks[index].as_ref().len()..],
            Found::Unknown => return clean,
        }
    }
}

fn meets(rest: &str, mark: &str, last: bool) -> bool {
    rest.starts_with(mark) || (!last && mark.starts_with(rest))
}

fn at_beginning<M: AsRef<str>>(text: &str, marks: &[M], last: bool) -> Found {
    let whole = marks.iter().enumerate().filter(|(_, mark)| text.starts_with(mark.as_ref()));
    let longest = whole.max_by_key(|(_, mark)| mark.as_ref().len()).map(|(index, _)| index);
    let may_grow = |mark: &M| mark.as_ref().len() > text.len() && mark.as_ref().starts_with(text);
    match longest {
        _ if !last && marks.iter().any(may_grow) => Found::Unknown,
        Some(index) => Found::Mark(index),
        None => Found::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_longest_mark_is_found_when_it_is_certain() {
        let marks = ["<a>", "<a>b", "xé"];
        for (text, last, expected) in [
            ("one", false, Found::Text(3)),
            ("", false, Found::Unknown),
            ("one <", false, Found::Text(4)),
            ("<a", false, Found::Unknown),
            ("<a", true, Found::Text(2)),
            ("<a>", false, Found::Unknown),
            ("<a>", true, Found::Mark(0)),
            ("<a>c", false, Found::Mark(0)),
            ("<a>bc", false, Found::Mark(1)),
            ("éxé", false, Found::Text(2)),
            ("xé", false, Found::Mark(2)),
        ] {
            assert_eq!(next(text, &marks, last), expected, "{text:?} {last}");
        }
        assert_eq!(without("1<a>2<a>b3<a", &marks), "123<a");
    }
}
