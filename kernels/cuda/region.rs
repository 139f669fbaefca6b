//! Memory for as long as its owner lives.

use super::driver::{Driver, Pointer};
use crate::Result;

/// Memory for as long as its owner lives.
pub(crate) struct Region {
    pointer: Pointer,
    driver: Driver,
}

impl Region {
    /// Takes memory and fills it; pieces lie one after the other.
    pub(crate) fn with<'a>(
        driver: &Driver,
        bytes: usize,
        purpose: &str,
        pieces: impl IntoIterator<Item = &'a [u8]>,
    ) -> Result<Self> {
        let region = Self { pointer: driver.allocate(bytes.max(1), purpose)?, driver: driver.clone() };
        let mut filled = 0;
        for piece in pieces {
            assert!(filled + piece.len() <= bytes, "the pieces fit into the region");
            // SAFETY: within the memory just taken, as was asserted.
            unsafe { driver.copy_in(region.pointer.offset(filled), piece) }?;
            filled += piece.len();
        }
        Ok(region)
    }

    /// Takes memory, zeroed.
    pub(crate) fn zeroed(driver: &Driver, bytes: usize, purpose: &str) -> Result<Self> {
        let region = Self { pointer: driver.allocate(bytes.max(1), purpose)?, driver: driver.clone() };
        // SAFETY: the memory just taken.
        unsafe { driver.zero(region.pointer, bytes) }?;
        Ok(region)
    }

    pub(crate) fn pointer(&self) -> Pointer {
        self.pointer
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        // SAFETY: taken from this driver; who could refer to it is being dropped.
        unsafe { self.driver.free(self.pointer) };
    }
}
