//! Tiles (AMX): registers of 16 rows by 64 bytes, and products of whole tiles of bytes, summed in 32-bit integers.
//!
//! The compiler knows neither the registers nor the instructions, so that products are pieces of assembly. What they leave in
//! tiles stays there from one to the next: nothing else in the program uses them.
//!
//! A product takes some fifty cycles, of which its multiplier needs sixteen. So other work is begun before its sums are asked
//! for.

use std::{
    arch::{asm, x86_64::__cpuid_count},
    marker::PhantomData,
    sync::OnceLock,
};

use nix::libc;

use super::TILE_ROWS;

/// Bytes of a row of a tile at most: as many as of a row of sums.
const ROW_BYTES: usize = 64;

/// Exists only where the machine has tiles of bytes and the system lets this process have them.
#[derive(Clone, Copy)]
pub(crate) struct Tiles(());

/// A row of a tile: a line of the cache.
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct TileRow(pub(crate) [u8; ROW_BYTES]);

impl TileRow {
    /// Of nothing.
    pub(crate) const ZERO: Self = Self([0; ROW_BYTES]);
}

/// This thread's tiles, in the shape of some products, as long as this lives.
pub(crate) struct Shaped {
    /// Rows that are multiplied,
    rows: usize,
    /// and bytes of each.
    bytes: usize,
    /// Another thread has tiles of its own.
    of_thread: PhantomData<*const ()>,
}

impl Tiles {
    /// The proof, if this machine has it.
    pub(crate) fn detect() -> Option<Self> {
        static FOUND: OnceLock<bool> = OnceLock::new();
        FOUND.get_or_init(|| has_tiles() && permitted()).then_some(Self(()))
    }

    /// Shapes this thread's tiles for products of `rows` rows, of each of which `bytes` are multiplied: whole fours of them.
    /// Fewer rows take less time.
    #[inline(always)]
    pub(crate) fn shaped(self, rows: usize, bytes: usize) -> Shaped {
        assert!((1..=TILE_ROWS).contains(&rows), "rows of a tile");
        assert!((4..=ROW_BYTES).contains(&bytes) && bytes.is_multiple_of(4), "bytes of a tile's row");
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        let (sums, x, w) = ((rows, ROW_BYTES), (rows, bytes), (bytes / 4, ROW_BYTES));
        for (tile, (rows, bytes)) in [sums, sums, x, x, w, w, sums, sums].into_iter().enumerate() {
            (config.rows[tile], config.bytes[tile]) = (rows as u8, bytes as u16);
        }
        // SAFETY: `self` proves that the machine has tiles; the configuration has the 64 bytes of the format (Intel's manual,
        // LDTILECFG), of palette 1, and within its bounds, as asserted. No code but what is between here and the drop of
        // what is returned uses the thread's tiles.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, preserves_flags, readonly)) };
        Shaped { rows, bytes, of_thread: PhantomData }
    }
}

/// What LDTILECFG reads.
#[repr(C, align(64))]
struct Config {
    palette: u8,
    start_row: u8,
    reserved: [u8; 14],
    bytes: [u16; 16],
    rows: [u8; 16],
}

/// Rows of a tile in two planes, of upper bytes and of lower ones.
#[derive(Clone, Copy)]
pub(crate) struct PlaneRows<'a> {
    pub(crate) planes: [&'a [u8]; 2],
    /// How far apart rows lie.
    pub(crate) stride: usize,
}

/// Multiplies two planes of rows with two of what they are multiplied with: upper with upper ones into tile `$sums`, upper
/// with lower ones and lower with upper ones into tile `$mixed`.
macro_rules! add_planes {
    ($product:literal, $a:expr, $b:expr, $sums:literal, $mixed:literal) => {
        asm!(
            "tileloadd tmm2, [{a_upper} + {a_stride}]",
            "tileloadd tmm4, [{b_upper} + {b_stride}]",
            concat!($product, " tmm", $sums, ", tmm2, tmm4"),
            "tileloadd tmm5, [{b_lower} + {b_stride}]",
            concat!($product, " tmm", $mixed, ", tmm2, tmm5"),
            "tileloadd tmm3, [{a_lower} + {a_stride}]",
            concat!($product, " tmm", $mixed, ", tmm3, tmm4"),
            a_upper = in(reg) $a.planes[0].as_ptr(),
            a_lower = in(reg) $a.planes[1].as_ptr(),
            a_stride = in(reg) $a.stride,
            b_upper = in(reg) $b.planes[0].as_ptr(),
            b_lower = in(reg) $b.planes[1].as_ptr(),
            b_stride = in(reg) $b.stride,
            options(nostack, preserves_flags, readonly),
        )
    };
}

/// Products of planes, in 16 columns of sums.
impl Shaped {
    /// Forgets the sums of product `TURN` (0 or 1).
    #[inline(always)]
    pub(crate) fn clear<const TURN: usize>(&self) {
        // SAFETY: nothing but tiles is written, and those this value has for itself.
        unsafe {
            match TURN {
                0 => asm!("tilezero tmm0", "tilezero tmm1", options(nomem, nostack, preserves_flags)),
                _ => asm!("tilezero tmm6", "tilezero tmm7", options(nomem, nostack, preserves_flags)),
            }
        }
    }

    /// Adds to product `TURN`: of the upper bytes, and, apart, upper ones times lower ones and lower ones times upper ones.
    /// Where `A_SIGNED`, the bytes of `a` have a sign and those of `b` have none; else it is the other way round. A row of
    /// `b` has four bytes, neighbours in a row of `a`, for each of 16 columns.
    #[inline(always)]
    pub(crate) fn add_planes<const TURN: usize, const A_SIGNED: bool>(&self, a: PlaneRows, b: PlaneRows) {
        let there = |rows: PlaneRows, count: usize, bytes: usize| {
            rows.planes.iter().all(|plane| plane.len() >= (count - 1) * rows.stride + bytes)
        };
        assert!(there(a, self.rows, self.bytes) && there(b, self.bytes / 4, ROW_BYTES), "rows of the shape");
        // SAFETY: the tiles have the rows and bytes that this value tells, as it proves, and what is read was found to
        // be there. Nothing but tiles is written, and those this value has for itself.
        unsafe {
            match (TURN, A_SIGNED) {
                (0, true) => add_planes!("tdpbsud", a, b, "0", "1"),
                (0, false) => add_planes!("tdpbusd", a, b, "0", "1"),
                (_, true) => add_planes!("tdpbsud", a, b, "6", "7"),
                (_, false) => add_planes!("tdpbusd", a, b, "6", "7"),
            }
        }
    }

    /// Stores the sums of product `TURN`: rows of 16 32-bit integers, `stride` bytes apart.
    #[inline(always)]
    pub(crate) fn store<const TURN: usize>(&self, sums: [&mut [u8]; 2], stride: usize) {
        assert!(sums.iter().all(|sums| sums.len() >= (self.rows - 1) * stride + ROW_BYTES), "rows of sums");
        let [first, second] = sums.map(|sums| sums.as_mut_ptr());
        // SAFETY: tiles of sums have the rows that this value tells, as it proves, and those were found to be there.
        unsafe {
            match TURN {
                0 => asm!(
                    "tilestored [{first} + {stride}], tmm0",
                    "tilestored [{second} + {stride}], tmm1",
                    first = in(reg) first, second = in(reg) second, stride = in(reg) stride,
                    options(nostack, preserves_flags),
                ),
                _ => asm!(
                    "tilestored [{first} + {stride}], tmm6",
                    "tilestored [{second} + {stride}], tmm7",
                    first = in(reg) first, second = in(reg) second, stride = in(reg) stride,
                    options(nostack, preserves_flags),
                ),
            }
        }
    }
}

/// What rows and weights in two planes, upper bytes and lower ones, are multiplied to: sums of upper bytes times upper ones,
/// of upper ones times lower ones either way, and of lower ones times lower ones. A word is `256 · upper + lower`.
pub(crate) type WordSums = [[TileRow; TILE_ROWS]; 3];

/// Products of words, in 16 columns of sums, whole rows deep. All bytes have a sign, but for the lower ones of weights.
impl Shaped {
    /// Forgets all sums.
    #[inline(always)]
    pub(crate) fn clear_words(&self) {
        // SAFETY: nothing but tiles is written, and those this value has for itself.
        unsafe { asm!("tilezero tmm0", "tilezero tmm1", "tilezero tmm6", options(nomem, nostack, preserves_flags)) };
    }

    /// Adds to the sums: `x[upper, lower]`, a plane's rows side by side, times `w[upper, lower]`, a row of which has four bytes
    /// for each of 16 columns. Where `BYTES`, words of `x` are their lower bytes.
    #[inline(always)]
    pub(crate) fn add_words<const BYTES: bool>(&self, x: [&[TileRow]; 2], w: &[[TileRow; TILE_ROWS]; 2]) {
        assert!(self.bytes == ROW_BYTES && x.iter().all(|plane| plane.len() >= self.rows), "rows of the shape");
        let [x_upper, x_lower] = x.map(<[TileRow]>::as_ptr);
        let [w_upper, w_lower] = w.each_ref().map(|plane| plane.as_ptr());
        // SAFETY: the tiles have the rows that this value tells, as it proves, and what is read was found to be there; those
        // of weights have 16, since rows have 64 bytes. Nothing but tiles is written, and those this value has for itself.
        unsafe {
            asm!(
                "tileloadd tmm3, [{x} + {stride}]",
                "tileloadd tmm4, [{w} + {stride}]",
                "tdpbssd tmm1, tmm3, tmm4",
                "tileloadd tmm5, [{v} + {stride}]",
                "tdpbsud tmm6, tmm3, tmm5",
                x = in(reg) x_lower,
                w = in(reg) w_upper,
                v = in(reg) w_lower,
                stride = in(reg) ROW_BYTES,
                options(nostack, preserves_flags, readonly),
            );
            if !BYTES {
                asm!(
                    "tileloadd tmm2, [{x} + {stride}]",
                    "tdpbsud tmm1, tmm2, tmm5",
                    "tdpbssd tmm0, tmm2, tmm4",
                    x = in(reg) x_upper,
                    stride = in(reg) ROW_BYTES,
                    options(nostack, preserves_flags, readonly),
                );
            }
        }
    }

    /// Stores the sums; where `BYTES`, not the first ones.
    #[inline(always)]
    pub(crate) fn store_words<const BYTES: bool>(&self, sums: &mut WordSums) {
        let [uppers, mixed, lowers] = sums.each_mut().map(|sums| sums.as_mut_ptr());
        // SAFETY: tiles of sums have 16 rows at most, and so has what is written.
        unsafe {
            if !BYTES {
                asm!(
                    "tilestored [{sums} + {stride}], tmm0",
                    sums = in(reg) uppers, stride = in(reg) ROW_BYTES,
                    options(nostack, preserves_flags),
                );
            }
            asm!(
                "tilestored [{mixed} + {stride}], tmm1",
                "tilestored [{lowers} + {stride}], tmm6",
                mixed = in(reg) mixed, lowers = in(reg) lowers, stride = in(reg) ROW_BYTES,
                options(nostack, preserves_flags),
            );
        }
    }
}

impl Drop for Shaped {
    /// A thread whose tiles are in use has 8 KiB more to be saved whenever it is put aside.
    #[inline(always)]
    fn drop(&mut self) {
        // SAFETY: tiles exist, as this value proves, and nobody uses them any more.
        unsafe { asm!("tilerelease", options(nomem, nostack, preserves_flags)) };
    }
}

/// Whether the processor has tiles and their products of bytes (leaf 7: AMX-TILE and AMX-INT8).
fn has_tiles() -> bool {
    const AMX: u32 = 1 << 24 | 1 << 25;
    __cpuid_count(0, 0).eax >= 7 && __cpuid_count(7, 0).edx & AMX == AMX
}

/// Asks the system for tiles, which a process has only once it asked: Linux saves 8 KiB more for it then.
fn permitted() -> bool {
    const ARCH_REQ_XCOMP_PERM: libc::c_long = 0x1023;
    const XFEATURE_XTILEDATA: libc::c_long = 18;
    // SAFETY: the call takes two numbers and changes nothing but what the process may use. A kernel that does not know it
    // says so.
    unsafe { libc::syscall(libc::SYS_arch_prctl, ARCH_REQ_XCOMP_PERM, XFEATURE_XTILEDATA) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Planes = [[TileRow; TILE_ROWS]; 2];

    /// Against the plain sums, of all rows and of fewer.
    #[test]
    fn products_of_words_are_those_of_their_bytes() {
        let Some(tiles) = Tiles::detect() else { return };
        for rows in [1, 7, TILE_ROWS] {
            check::<false>(tiles, rows);
            check::<true>(tiles, rows);
        }
    }

    fn check<const BYTES: bool>(tiles: Tiles, rows: usize) {
        let row = |row: usize, step: usize| TileRow(std::array::from_fn(|at| (row * 89 + at * step) as u8));
        let planes =
            |step: usize| -> Planes { [0, 7].map(|plane| std::array::from_fn(|at| row(at + plane, step + plane))) };
        let (x, w) = (planes(37), planes(101));
        let x_byte = |plane: usize, m: usize, k: usize| i32::from(x[plane][m].0[k].cast_signed());
        let w_byte = |plane: usize, n: usize, k: usize| {
            let byte = w[plane][k / 4].0[4 * n + k % 4];
            if plane == 0 { i32::from(byte.cast_signed()) } else { i32::from(byte) }
        };
        let dot = |[of_x, of_w]: [usize; 2], m, n| -> i32 {
            (0..ROW_BYTES).map(|k| x_byte(of_x, m, k) * w_byte(of_w, n, k)).sum()
        };
        let mut sums = [[TileRow([1; 64]); TILE_ROWS]; 3];
        let shaped = tiles.shaped(rows, ROW_BYTES);
        shaped.clear_words();
        shaped.add_words::<BYTES>([&x[0], &x[1]], &w);
        shaped.add_words::<BYTES>([&x[0], &x[1]], &w);
        shaped.store_words::<BYTES>(&mut sums);
        for (m, n) in (0..TILE_ROWS).flat_map(|m| (0..16).map(move |n| (m, n))) {
            let found = sums.map(|sums| i32::from_le_bytes(sums[m].0[4 * n..][..4].try_into().expect("a number")));
            let mixed = if BYTES { dot([1, 0], m, n) } else { dot([0, 1], m, n) + dot([1, 0], m, n) };
            let mut expected = [dot([0, 0], m, n), mixed, dot([1, 1], m, n)].map(|sum| 2 * sum);
            if m >= rows {
                expected = [0x0101_0101; 3];
            } else if BYTES {
                expected[0] = 0x0101_0101;
            }
            assert_eq!(found, expected, "{rows} rows, {BYTES}, at {m}, {n}");
        }
    }
}
