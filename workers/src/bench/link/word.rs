//! What a frame begins with: what its reader is to do with it.

/// What the echo is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Word {
    /// To publish the same frame.
    Return,
    /// To publish how many nanoseconds ago this was said, by the clock that all processes of the machine share.
    Stamp(u64),
    /// To do nothing.
    Pass,
}

/// Bytes of a word: what to do, and a number.
pub(super) const BYTES: usize = 16;

impl Word {
    /// Writes it to the beginning of a frame.
    pub(super) fn write(self, frame: &mut [u8]) {
        let [what, number] = match self {
            Word::Return => [0, 0],
            Word::Stamp(nanoseconds) => [1, nanoseconds],
            Word::Pass => [2, 0],
        };
        frame[..8].copy_from_slice(&u64::to_le_bytes(what));
        frame[8..BYTES].copy_from_slice(&number.to_le_bytes());
    }

    /// Reads it; none where a frame begins with something else.
    pub(super) fn read(frame: &[u8]) -> Option<Self> {
        let ([what, number], _) = frame.get(..BYTES)?.as_chunks::<8>().0.split_first_chunk()?;
        match (u64::from_le_bytes(*what), u64::from_le_bytes(*number)) {
            (0, 0) => Some(Word::Return),
            (1, nanoseconds) => Some(Word::Stamp(nanoseconds)),
            (2, 0) => Some(Word::Pass),
            _ => None,
        }
    }
}

/// The clock that all processes of the machine share, in nanoseconds.
pub(super) fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_survives_its_frame() {
        let mut frame = [0xaa; 64];
        for word in [Word::Return, Word::Stamp(u64::MAX), Word::Pass] {
            word.write(&mut frame);
            assert_eq!(Word::read(&frame), Some(word));
            assert_eq!(Word::read(&frame[..BYTES - 1]), None);
        }
        assert_eq!(Word::read(&[7; 16]), None);
    }
}
