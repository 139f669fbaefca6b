//! Little-endian numbers and strings, one after the other, never past the end.

/// Reads forward through a file's bytes. Every fault says where.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    position: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, position: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.position
    }

    /// Bytes still to be read.
    pub(super) fn remaining(&self) -> usize {
        self.bytes.len() - self.position
    }

    /// The next `count` bytes.
    pub(super) fn take(&mut self, count: usize) -> Result<&'a [u8], String> {
        if count > self.remaining() {
            let (position, remaining) = (self.position, self.remaining());
            return Err(format!("is truncated or corrupt: {count} bytes expected at {position}, {remaining} are left"));
        }
        let taken = &self.bytes[self.position..self.position + count];
        self.position += count;
        Ok(taken)
    }

    /// The next bytes as an array, to make a number of.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], String> {
        Ok(self.take(N)?.try_into().expect("take gives as many as asked for"))
    }

    pub(super) fn u32(&mut self) -> Result<u32, String> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, String> {
        self.array().map(u64::from_le_bytes)
    }

    /// A string: its length as u64, then UTF-8.
    pub(super) fn string(&mut self) -> Result<&'a str, String> {
        let position = self.position;
        let length = self.u64()?;
        let bytes = self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
        std::str::from_utf8(bytes).map_err(|_| format!("is corrupt: the string at byte {position} is not UTF-8"))
    }
}
