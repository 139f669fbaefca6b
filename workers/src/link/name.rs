//! What segments are called.

use std::{fmt, str::FromStr};

use super::error::LinkError;

/// A server start's random name: 16 hexadecimal digits, so that two servers never meet in `/dev/shm`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkName(u64);

/// What a segment is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// The ring from the server to all ranks.
    Steps,
    /// The ring from rank 0 to the server.
    Reports,
    /// The ring from the server to rank 0, with what guided sequences may go on with.
    Masks,
    /// The ranks' pages of counters.
    Vitals,
    /// Where CPU ranks meet for collectives.
    Meeting,
}

impl LinkName {
    /// A name that nobody has.
    pub fn random() -> Self {
        Self(rand::random())
    }

    /// The segment's name as `shm_open` wants it: `/shardwire.<16 hex>.<epoch>.<role>`.
    pub fn segment(self, epoch: u64, role: Role) -> String {
        format!("/shardwire.{self}.{epoch}.{role}")
    }
}

impl fmt::Display for LinkName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for LinkName {
    type Err = LinkError;

    fn from_str(text: &str) -> Result<Self, LinkError> {
        let hexadecimal = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        match u64::from_str_radix(text, 16) {
            Ok(number) if hexadecimal => Ok(Self(number)),
            _ => Err(LinkError::Config(format!("{text:?} is not the name of a link (16 hexadecimal digits)"))),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Steps => "steps",
            Self::Reports => "reports",
            Self::Masks => "masks",
            Self::Vitals => "vitals",
            Self::Meeting => "meeting",
        })
    }
}

impl Role {
    /// Who reads this ring at `index`, for people.
    pub fn reader(self, index: usize) -> String {
        match self {
            Self::Reports => "the server".to_owned(),
            _ => format!("rank {index}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_its_text() {
        let name = LinkName::random();
        assert_eq!(name.to_string().parse::<LinkName>().unwrap(), name);
        let segment = LinkName(0xfeed).segment(3, Role::Vitals);
        assert_eq!(segment, "/shardwire.000000000000feed.3.vitals");
    }

    #[test]
    fn text_that_is_no_name_is_refused() {
        for text in ["", "feed", "+00000000000feed", "../../etc/passwd", "000000000000feeg", "0000000000000feed"] {
            assert!(matches!(text.parse::<LinkName>(), Err(LinkError::Config(_))), "{text}");
        }
    }
}
