//! Where the body of an HTTP/1.1 answer begins and ends (RFC 9112, section 6), read as its bytes come.

use super::failure::Failure;

/// How a body's end is known.
#[derive(Debug)]
pub enum Framing {
    /// In chunks, each with its length before it.
    Chunked(Chunk),
    /// So many bytes are still to come.
    Length(u64),
    /// When the connection ends.
    Connection,
}

/// Which part of a chunk comes next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Chunk {
    /// Its length, of which this was read so far; none before the first digit.
    Length(Option<u64>),
    /// The rest of the line behind this length.
    Extension(u64),
    /// So many bytes of content.
    Content(u64),
    /// The end of line behind the content.
    Close,
    /// Lines behind the last chunk; whether this one is empty so far.
    Trailer {
        /// It is.
        empty: bool,
    },
    /// Nothing.
    Done,
}

impl Framing {
    /// Adds what of `wire` is content to `content`; true once the body is whole.
    pub fn decode(&mut self, wire: &[u8], content: &mut Vec<u8>) -> Result<bool, Failure> {
        match self {
            Self::Chunked(chunk) => chunk.decode(wire, content),
            Self::Length(left) => {
                let taken = wire.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                content.extend_from_slice(&wire[..taken]);
                *left -= taken as u64;
                Ok(*left == 0)
            }
            Self::Connection => {
                content.extend_from_slice(wire);
                Ok(false)
            }
        }
    }
}

impl Chunk {
    fn decode(&mut self, mut wire: &[u8], content: &mut Vec<u8>) -> Result<bool, Failure> {
        while let Some(&byte) = wire.first() {
            let taken = match self {
                Self::Content(left) => {
                    let taken = wire.len().min(usize::try_from(*left).unwrap_or(usize::MAX));
                    content.extend_from_slice(&wire[..taken]);
                    let left = *left - taken as u64;
                    *self = if left == 0 { Self::Close } else { Self::Content(left) };
                    taken
                }
                Self::Done => break,
                _ => {
                    *self = self.after(byte)?;
                    1
                }
            };
            wire = &wire[taken..];
        }
        Ok(*self == Self::Done)
    }

    /// The state after a byte that is no content.
    fn after(self, byte: u8) -> Result<Self, Failure> {
        let wrong = || Failure::Malformed("a chunk without its length".into());
        Ok(match (self, byte) {
            (Self::Length(length), b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                let digit = (byte as char).to_digit(16).ok_or_else(wrong)?;
                let shifted = length.unwrap_or(0).checked_mul(16).ok_or_else(wrong)?;
                Self::Length(Some(shifted + u64::from(digit)))
            }
            (Self::Length(Some(length)) | Self::Extension(length), b'\n') => match length {
                0 => Self::Trailer { empty: true },
                length => Self::Content(length),
            },
            (Self::Length(Some(length)), b'\r' | b';' | b' ' | b'\t') => Self::Extension(length),
            (Self::Extension(length), _) => Self::Extension(length),
            (Self::Close, b'\r') => Self::Close,
            (Self::Close, b'\n') => Self::Length(None),
            (Self::Trailer { empty: true }, b'\n') => Self::Done,
            (Self::Trailer { empty: false }, b'\n') => Self::Trailer { empty: true },
            (Self::Trailer { empty }, b'\r') => Self::Trailer { empty },
            (Self::Trailer { .. }, _) => Self::Trailer { empty: false },
            _ => return Err(wrong()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_the_same_wherever_their_bytes_are_cut() {
        let wire = b"5\r\nhello\r\n1A;x=y\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\nX-Trailer: 1\r\n\r\nmore";
        let whole = wire.len() - b"more".len();
        for cut in 0..=wire.len() {
            let (mut framing, mut content) = (Framing::Chunked(Chunk::Length(None)), Vec::new());
            let early = framing.decode(&wire[..cut], &mut content).unwrap();
            assert_eq!(early, cut >= whole, "cut at {cut}");
            assert!(framing.decode(&wire[cut..], &mut content).unwrap(), "cut at {cut}");
            assert_eq!(content, b"helloabcdefghijklmnopqrstuvwxyz", "cut at {cut}");
        }
    }

    #[test]
    fn bodies_with_a_length_end_after_it() {
        let (mut framing, mut content) = (Framing::Length(5), Vec::new());
        assert!(!framing.decode(b"hel", &mut content).unwrap());
        assert!(framing.decode(b"lo and more", &mut content).unwrap());
        assert_eq!(content, b"hello");
        assert!(!Framing::Connection.decode(b"x", &mut content).unwrap());
    }

    #[test]
    fn nonsense_is_no_chunk() {
        for wire in [&b"x\r\n"[..], b"\r\n", b"fffffffffffffffff\r\n", b"1\r\nabc"] {
            let mut framing = Framing::Chunked(Chunk::Length(None));
            assert!(framing.decode(wire, &mut Vec::new()).is_err(), "{wire:?}");
        }
    }
}
