//! Server-sent events, read as their bytes come.

use super::failure::Failure;

/// The longest line that is kept until its end comes, bytes.
const LINE_BYTES_MAX: usize = 64 << 20;

/// A stream of events, cut anywhere. One `data:` line is one event, as every server of OpenAI's protocol writes them.
#[derive(Debug, Default)]
pub struct EventStream {
    /// The beginning of a line whose end has not come.
    partial: Vec<u8>,
}

impl EventStream {
    /// Takes more bytes and gives each event's data that is complete now.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        mut take: impl FnMut(&[u8]) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            let line = &bytes[..end];
            if self.partial.is_empty() {
                data(line).map_or(Ok(()), &mut take)?;
            } else {
                self.partial.extend_from_slice(line);
                let told = data(&self.partial).map_or(Ok(()), &mut take);
                self.partial.clear();
                told?;
            }
            bytes = &bytes[end + 1..];
        }
        if self.partial.len() + bytes.len() > LINE_BYTES_MAX {
            return Err(Failure::Malformed(format!("a line of more than {LINE_BYTES_MAX} bytes")));
        }
        self.partial.extend_from_slice(bytes);
        Ok(())
    }
}

fn data(line: &[u8]) -> Option<&[u8]> {
    line.strip_prefix(b"data:").map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_the_same_wherever_their_bytes_are_cut() {
        let stream =
            "data: {\"a\": 1}\n\n: a comment\r\nevent: x\r\ndata:{\"b\":\"ü\"}\r\n\r\ndata: [DONE]\n\n".as_bytes();
        for cut in 0..=stream.len() {
            for second in cut..=stream.len() {
                let (mut events, mut found) = (EventStream::default(), Vec::new());
                for part in [&stream[..cut], &stream[cut..second], &stream[second..]] {
                    let mut take = |data: &[u8]| {
                        found.push(String::from_utf8(data.to_vec()).unwrap());
                        Ok(())
                    };
                    events.feed(part, &mut take).unwrap();
                }
                assert_eq!(found, ["{\"a\": 1}", "{\"b\":\"ü\"}", "[DONE]"], "cut at {cut} and {second}");
            }
        }
    }

    #[test]
    fn a_fault_in_an_event_ends_the_reading() {
        let mut events = EventStream::default();
        assert!(events.feed(b"data: x\n\n", |_| Err(Failure::Empty)).is_err());
    }
}
