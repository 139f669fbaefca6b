//! A rank's vitals as they lie in shared memory: atomics only, one writer of each.

use std::sync::atomic::{
    AtomicU32, AtomicU64,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

use kernels::sensors::{Reading, Throttle};

use super::shm::{PAGE_BYTES, shared_struct};

shared_struct! {
    /// The vitals segment's first page.
    pub(super) struct BoardHeader {
        magic: AtomicU64,
        layout_version: AtomicU64,
        epoch: AtomicU64,
        world_size: AtomicU64,
    }
}

shared_struct! {
    /// One rank's page. Fields are as of `Vitals`.
    #[repr(align(4096))]
    pub(super) struct Page {
        pub(super) attached: AtomicU32,
        pub(super) state: AtomicU32,
        pub(super) phase: AtomicU32,
        /// Bits of an `f32`.
        pub(super) load_progress: AtomicU32,
        pub(super) pid: AtomicU64,
        pub(super) step: AtomicU64,
        /// `CLOCK_MONOTONIC`, which all processes of a machine share.
        pub(super) last_progress_ns: AtomicU64,
        pub(super) step_time_us: AtomicU64,
        /// [`UNTOLD`] where the device doesn't tell.
        pub(super) collective_wait_us: AtomicU64,
        pub(super) tokens_total: AtomicU64,
        pub(super) rss_bytes: AtomicU64,
        pub(super) device_memory_bytes: AtomicU64,
        pub(super) kv_blocks_total: AtomicU64,
        pub(super) sensors: Sensors,
        pub(super) device: Text,
        pub(super) error: Text,
    }
}

const _: () = assert!(size_of::<Page>() == PAGE_BYTES);

shared_struct! {
    /// What the device's sensors said last. Fields are as of `Reading`; what is not told is [`UNTOLD`].
    pub(super) struct Sensors {
        /// `CLOCK_MONOTONIC`; zero before the first reading.
        read_ns: AtomicU64,
        memory_used_bytes: AtomicU64,
        memory_total_bytes: AtomicU64,
        temperature_c: AtomicU64,
        utilization_percent: AtomicU64,
        power_mw: AtomicU64,
        power_limit_mw: AtomicU64,
        throttle: AtomicU64,
        ecc_errors: AtomicU64,
    }
}

/// No figure, for the device doesn't tell.
pub(super) const UNTOLD: u64 = u64::MAX;

impl Sensors {
    pub(super) fn write(&self, reading: &Reading, now_ns: u64) {
        let write = |to: &AtomicU64, value: Option<u64>| to.store(value.unwrap_or(UNTOLD), Relaxed);
        write(&self.memory_used_bytes, reading.memory_used_bytes);
        write(&self.memory_total_bytes, reading.memory_total_bytes);
        write(&self.temperature_c, reading.temperature_c);
        write(&self.utilization_percent, reading.utilization_percent);
        write(&self.power_mw, reading.power_mw);
        write(&self.power_limit_mw, reading.power_limit_mw);
        write(&self.throttle, reading.throttle.map(Throttle::bits));
        write(&self.ecc_errors, reading.ecc_errors);
        // SYNC: figures before their time (meets `read`)
        self.read_ns.store(now_ns, Release);
    }

    /// What was written last, and when; figures may be of two readings that follow each other.
    pub(super) fn read(&self) -> Option<(Reading, u64)> {
        let told = |from: &AtomicU64| Some(from.load(Relaxed)).filter(|value| *value != UNTOLD);
        // SYNC: figures before their time (meets `write`)
        let read_ns = Some(self.read_ns.load(Acquire)).filter(|time| *time != 0)?;
        let reading = Reading {
            memory_used_bytes: told(&self.memory_used_bytes),
            memory_total_bytes: told(&self.memory_total_bytes),
            temperature_c: told(&self.temperature_c),
            utilization_percent: told(&self.utilization_percent),
            power_mw: told(&self.power_mw),
            power_limit_mw: told(&self.power_limit_mw),
            throttle: told(&self.throttle).map(Throttle::from_bits),
            ecc_errors: told(&self.ecc_errors),
        };
        Some((reading, read_ns))
    }
}

const TEXT_WORDS: usize = 128;
/// The longest text, bytes; what is longer is cut.
pub(super) const TEXT_BYTES_MAX: usize = TEXT_WORDS * 8;

shared_struct! {
    /// A short text that may be replaced while others read it.
    pub(super) struct Text {
        /// Odd while the text is being replaced.
        edition: AtomicU64,
        length: AtomicU64,
        words: [AtomicU64; TEXT_WORDS],
    }
}

impl Text {
    /// Replaces the text; cuts it at the last whole character that fits.
    pub(super) fn write(&self, text: &str) {
        let text = &text[..text.floor_char_boundary(TEXT_BYTES_MAX)];
        let edition = self.edition.load(Relaxed) | 1;
        self.edition.store(edition, Relaxed);
        // SYNC: text torn (meets `read`): who sees a word of this text sees the odd edition at its second look.
        fence(Release);
        for (word, bytes) in self.words.iter().zip(text.as_bytes().chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.store(u64::from_le_bytes(whole), Relaxed);
        }
        self.length.store(text.len() as u64, Relaxed);
        // SYNC: text whole (meets `read`)
        self.edition.store(edition.wrapping_add(1), Release);
    }

    /// The text. If its writer keeps replacing it, or died while doing so, what stands there: better torn than untold.
    pub(super) fn read(&self) -> String {
        (0..4).find_map(|_attempt| self.read_whole()).unwrap_or_else(|| self.copy())
    }

    /// The text, unless it was being replaced meanwhile.
    fn read_whole(&self) -> Option<String> {
        // SYNC: text whole (meets `write`)
        let edition = self.edition.load(Acquire);
        let text = self.copy();
        // SYNC: text torn (meets `write`)
        fence(Acquire);
        (edition.is_multiple_of(2) && self.edition.load(Relaxed) == edition).then_some(text)
    }

    fn copy(&self) -> String {
        let length = self.length.load(Relaxed).min(TEXT_BYTES_MAX as u64) as usize;
        let words = self.words.iter().take(length.div_ceil(8));
        let mut bytes: Vec<u8> = words.flat_map(|word| word.load(Relaxed).to_le_bytes()).collect();
        bytes.truncate(length);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// "shrdvitl" in the bytes of a little-endian machine.
const MAGIC: u64 = u64::from_le_bytes(*b"shrdvitl");
/// One higher whenever anything here changes.
const LAYOUT_VERSION: u64 = 3;

impl BoardHeader {
    pub(super) fn write(&self, world_size: usize, epoch: u64) {
        self.layout_version.store(LAYOUT_VERSION, Relaxed);
        self.epoch.store(epoch, Relaxed);
        self.world_size.store(world_size as u64, Relaxed);
        // SYNC: board is complete (meets `difference`)
        self.magic.store(MAGIC, Release);
    }

    /// What differs from what was expected: (field, expected, found).
    pub(super) fn difference(&self, world_size: usize, epoch: u64) -> Option<(&'static str, u64, u64)> {
        // SYNC: board is complete (meets `write`)
        let magic = self.magic.load(Acquire);
        let fields = [
            ("magic number", MAGIC, magic),
            ("layout version", LAYOUT_VERSION, self.layout_version.load(Relaxed)),
            ("epoch", epoch, self.epoch.load(Relaxed)),
            ("world size", world_size as u64, self.world_size.load(Relaxed)),
        ];
        fields.into_iter().find(|(_, expected, found)| expected != found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text() -> Text {
        Text {
            edition: AtomicU64::new(0),
            length: AtomicU64::new(0),
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    #[test]
    fn a_text_is_read_as_written_and_cut_where_it_must_be() {
        let page = text();
        assert_eq!(page.read(), "");
        for written in ["cpu", "cuda:0 NVIDIA H100", "", "größer", &"x".repeat(TEXT_BYTES_MAX)] {
            page.write(written);
            assert_eq!(page.read(), written);
        }
        page.write(&("x".to_owned() + &"ü".repeat(TEXT_BYTES_MAX / 2)));
        assert_eq!(page.read(), "x".to_owned() + &"ü".repeat(TEXT_BYTES_MAX / 2 - 1));
    }

    #[test]
    fn a_page_of_lies_is_read_without_harm() {
        let page = text();
        page.length.store(u64::MAX, Relaxed);
        page.words.iter().for_each(|word| word.store(u64::MAX, Relaxed));
        assert!(page.read().chars().all(|c| c == char::REPLACEMENT_CHARACTER));
        page.edition.store(7, Relaxed); // its writer died in the middle
        assert!(!page.read().is_empty());
    }

    #[test]
    fn a_text_is_never_seen_half_replaced() {
        let page = text();
        let (short, long) = ("a".repeat(8), "b".repeat(64));
        page.write(&short);
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for _ in 0..20_000 {
                    page.write(&long);
                    page.write(&short);
                }
            });
            while !writer.is_finished() {
                if let Some(seen) = page.read_whole() {
                    assert!(seen == short || seen == long, "{seen}");
                }
            }
        });
    }
}
