//! `strftime_now(format)` of chat templates: today's date in the words of C's `strftime`.

use time::OffsetDateTime;

/// The moment written by `format`; a letter that isn't known stays as it is.
pub fn strftime(now: OffsetDateTime, format: &str) -> String {
    let mut out = String::new();
    let mut letters = format.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '%' => out.push_str(&directive(now, &mut letters)),
            letter => out.push(letter),
        }
    }
    out
}

fn directive(now: OffsetDateTime, letters: &mut std::str::Chars<'_>) -> String {
    match letters.next() {
        Some('-') => {
            let padded = letters.next().map(|letter| field(now, letter)).unwrap_or_default();
            let unpadded = padded.trim_start_matches(['0', ' ']);
            if unpadded.is_empty() { "0".into() } else { unpadded.into() }
        }
        Some(letter) => field(now, letter),
        None => "%".into(),
    }
}

fn field(now: OffsetDateTime, letter: char) -> String {
    let (date, month, weekday) = (now.date(), now.month().to_string(), now.weekday().to_string());
    let hour12 = (now.hour() + 11) % 12 + 1;
    match letter {
        'Y' => date.year().to_string(),
        'y' => format!("{:02}", date.year().rem_euclid(100)),
        'm' => format!("{:02}", u8::from(now.month())),
        'd' => format!("{:02}", date.day()),
        'e' => format!("{:2}", date.day()),
        'j' => format!("{:03}", date.ordinal()),
        'B' => month,
        'b' | 'h' => month[..3].into(),
        'A' => weekday,
        'a' => weekday[..3].into(),
        'u' => now.weekday().number_from_monday().to_string(),
        'w' => now.weekday().number_days_from_sunday().to_string(),
        'H' => format!("{:02}", now.hour()),
        'I' => format!("{hour12:02}"),
        'p' => if now.hour() < 12 { "AM" } else { "PM" }.into(),
        'M' => format!("{:02}", now.minute()),
        'S' => format!("{:02}", now.second()),
        'f' => format!("{:06}", now.microsecond()),
        'F' => strftime(now, "%Y-%m-%d"),
        'T' | 'X' => strftime(now, "%H:%M:%S"),
        'D' | 'x' => strftime(now, "%m/%d/%y"),
        'R' => strftime(now, "%H:%M"),
        'c' => strftime(now, "%a %b %e %H:%M:%S %Y"),
        's' => now.unix_timestamp().to_string(),
        'z' => "+0000".into(),
        'Z' => "UTC".into(),
        'n' => "\n".into(),
        't' => "\t".into(),
        '%' => "%".into(),
        other => format!("%{other}"),
    }
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn dates_are_written_as_c_does() {
        let now = datetime!(2024-07-05 14:03:09 UTC);
        for (format, expected) in [
            ("%d %b %Y", "05 Jul 2024"),
            ("%Y-%m-%d", "2024-07-05"),
            ("%B %-d, %Y", "July 5, 2024"),
            ("%A %I:%M %p", "Friday 02:03 PM"),
            ("%c|%j|%e", "Fri Jul  5 14:03:09 2024|187| 5"),
            ("100%% %Q %", "100% %Q %"),
            ("", ""),
        ] {
            assert_eq!(strftime(now, format), expected, "{format}");
        }
        assert_eq!(strftime(datetime!(2024-07-05 00:00 UTC), "%-H %I"), "0 12");
    }
}
