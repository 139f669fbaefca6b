//! How large the machine's caches are, as far as measuring depends on it.

use std::{fs, path::Path};

/// Taken for the last cache where the system does not tell.
const LAST_CACHE_BYTES: usize = 32 << 20;
/// The least that goes round, whatever a virtual machine says of its caches: the largest weight measured fits.
const COLD_BYTES_MIN: usize = 128 << 20;
/// The most: a last cache that is larger than a quarter of it belongs to many cores, and holds others' data.
const COLD_BYTES_MAX: usize = 512 << 20;

/// Bytes through which cold operands go round: several times the last cache, since caches do not forget in strict order.
pub(super) fn cold_bytes() -> usize {
    let last = last_cache_bytes(Path::new("/sys/devices/system/cpu/cpu0/cache")).unwrap_or(LAST_CACHE_BYTES);
    (4 * last).clamp(COLD_BYTES_MIN, COLD_BYTES_MAX)
}

/// The largest cache that the first core uses.
fn last_cache_bytes(folder: &Path) -> Option<usize> {
    let sizes = fs::read_dir(folder).ok()?.flatten().filter_map(|entry| {
        let text = fs::read_to_string(entry.path().join("size")).ok()?;
        bytes(text.trim())
    });
    sizes.max()
}

/// `32K`, `1M`, `512`
fn bytes(text: &str) -> Option<usize> {
    let (digits, unit) = match text.as_bytes().last()? {
        b'K' => (&text[..text.len() - 1], 1 << 10),
        b'M' => (&text[..text.len() - 1], 1 << 20),
        _ => (text, 1),
    };
    digits.parse::<usize>().ok()?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_the_kernel_writes_them() {
        for (text, expected) in
            [("32K", Some(32 << 10)), ("1M", Some(1 << 20)), ("512", Some(512)), ("", None), ("K", None), ("-1K", None)]
        {
            assert_eq!(bytes(text), expected, "{text:?}");
        }
    }

    #[test]
    fn what_goes_round_is_more_than_the_last_cache() {
        assert_eq!(last_cache_bytes(Path::new("/nowhere")), None);
        assert!((COLD_BYTES_MIN..=COLD_BYTES_MAX).contains(&cold_bytes()));
    }
}
