//! The meeting place of CPU ranks: a segment of shared memory in which collectives happen.

/// This rank's place among the ranks that compute together.
pub struct Group {}

impl Group {
    /// A rank alone: every collective is done at once.
    pub fn solo() -> Self {
        Self {}
    }
}
