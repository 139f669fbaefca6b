//! Finds markers in a text that comes in pieces.

/// What stands at the beginning of a text.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// This many bytes of ordinary text.
    Text(usize),
    /// A marker, by its index.
    Marker(usize),
    /// What may become a marker, or nothing: more text is needed.
    Unknown,
}

/// What `text` begins with. Of several markers the one that begins first counts, and of those that begin together the
/// longest; a text that may still become one is [`Found::Unknown`] unless it is the `last`. Thus the answer doesn't
/// depend on how much of the text has come.
pub(crate) fn next<M: AsRef<str>>(text: &str, markers: &[M], last: bool) -> Found {
    let position = text.char_indices().map(|(at, _)| at).find(|&at| {
        let rest = &text[at..];
        markers.iter().any(|marker| meets(rest, marker.as_ref(), last))
    });
    match position {
        None if text.is_empty() => Found::Unknown,
        None => Found::Text(text.len()),
        Some(0) => at_beginning(text, markers, last),
        Some(at) => Found::Text(at),
    }
}

/// `text` without any of the markers.
pub(crate) fn without<M: AsRef<str>>(text: &str, markers: &[M]) -> String {
    let (mut rest, mut clean) = (text, String::with_capacity(text.len()));
    loop {
        match next(rest, markers, true) {
            Found::Text(length) => {
                clean.push_str(&rest[..length]);
                rest = &rest[length..];
            }
            Found::Marker(index) => rest = &rest[markers[index].as_ref().len()..],
            Found::Unknown => return clean,
        }
    }
}

fn meets(rest: &str, marker: &str, last: bool) -> bool {
    rest.starts_with(marker) || (!last && marker.starts_with(rest))
}

fn at_beginning<M: AsRef<str>>(text: &str, markers: &[M], last: bool) -> Found {
    let whole = markers.iter().enumerate().filter(|(_, marker)| text.starts_with(marker.as_ref()));
    let longest = whole.max_by_key(|(_, marker)| marker.as_ref().len()).map(|(index, _)| index);
    let may_grow = |marker: &M| marker.as_ref().len() > text.len() && marker.as_ref().starts_with(text);
    match longest {
        _ if !last && markers.iter().any(may_grow) => Found::Unknown,
        Some(index) => Found::Marker(index),
        None => Found::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_and_longest_marker_is_found_when_it_is_certain() {
        let markers = ["<a>", "<a>b", "xé"];
        for (text, last, expected) in [
            ("one", false, Found::Text(3)),
            ("", false, Found::Unknown),
            ("one <", false, Found::Text(4)),
            ("<a", false, Found::Unknown),
            ("<a", true, Found::Text(2)),
            ("<a>", false, Found::Unknown),
            ("<a>", true, Found::Marker(0)),
            ("<a>c", false, Found::Marker(0)),
            ("<a>bc", false, Found::Marker(1)),
            ("éxé", false, Found::Text(2)),
            ("xé", false, Found::Marker(2)),
        ] {
            assert_eq!(next(text, &markers, last), expected, "{text:?} {last}");
        }
        assert_eq!(without("1<a>2<a>b3<a", &markers), "123<a");
    }
}
