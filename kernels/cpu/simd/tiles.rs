//! Tiles (AMX): registers of 16 rows by 64 bytes, and products of whole tiles of bytes, summed in 32-bit integers.
//!
//! The compiler knows neither the registers nor the instructions, so that products are pieces of assembly. What they leave in
//! tiles stays there from one to the next: nothing else in the program uses them.
//!
//! A product takes some fifty cycles, of which its multiplier needs sixteen. So two of them are on their way at once: one is
//! begun before the sums of the one before are asked for.

use std::{
    arch::{asm, x86_64::__cpuid_count},
    marker::PhantomData,
    sync::OnceLock,
};

use nix::libc;

use super::{Line, TILE_ROWS};

/// Bytes of a row of a tile at most: as many as of a row of sums.
const ROW_BYTES: usize = 64;

/// Exists only where the machine has tiles of bytes and the system lets this process have them.
#[derive(Clone, Copy)]
pub(crate) struct Tiles(());

/// Sums of products, one row after the other: 32-bit integers (little-endian).
#[derive(Clone, Copy)]
#[repr(align(64))]
pub(crate) struct SumRow(pub(crate) [u8; ROW_BYTES]);

impl SumRow {
    /// Sums of nothing.
    pub(crate) const ZERO: Self = Self([0; ROW_BYTES]);
}

/// This thread's tiles, in the shape of some products, as long as this lives.
pub(crate) struct Shaped {
    /// Bytes of a row that are multiplied.
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

    /// Shapes this thread's tiles for products of [`TILE_ROWS`] rows, of each of which `bytes` are multiplied: whole fours of
    /// them.
    #[inline(always)]
    pub(crate) fn shaped(self, bytes: usize) -> Shaped {
        assert!((4..=ROW_BYTES).contains(&bytes) && bytes.is_multiple_of(4), "bytes of a tile's row");
        let mut config = Config { palette: 1, start_row: 0, reserved: [0; 14], bytes: [0; 16], rows: [0; 16] };
        let (sums, x, w) = ((TILE_ROWS, ROW_BYTES), (TILE_ROWS, bytes), (bytes / 4, ROW_BYTES));
        for (tile, (rows, bytes)) in [sums, sums, x, x, w, w, sums, sums].into_iter().enumerate() {
            (config.rows[tile], config.bytes[tile]) = (rows as u8, bytes as u16);
        }
        // SAFETY: `self` proves that the machine has tiles; the configuration has the 64 bytes of the format (Intel's manual,
        // LDTILECFG), of palette 1, and within its bounds, as asserted. No code but what is between here and the drop of
        // what is returned uses the thread's tiles.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const config, options(nostack, preserves_flags, readonly)) };
        Shaped { bytes, of_thread: PhantomData }
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

/// Multiplies into the sums of one of two products on their way, with weights of its own: the numbers of the tiles.
macro_rules! begin {
    ($x:expr, $w:expr, $sums:literal, $rows:literal, $weights:literal) => {
        asm!(
            concat!("tileloadd tmm", $weights, ", [{w} + {stride}]"),
            concat!("tileloadd tmm", $rows, ", [{x} + {stride}]"),
            concat!("tilezero tmm", $sums),
            concat!("tdpbssd tmm", $sums, ", tmm", $rows, ", tmm", $weights),
            x = in(reg) $x,
            w = in(reg) $w,
            stride = in(reg) ROW_BYTES,
            options(nostack, preserves_flags, readonly),
        )
    };
}

/// The same once more, with the weights that are there.
macro_rules! go_on {
    ($x:expr, $sums:literal, $rows:literal, $weights:literal) => {
        asm!(
            concat!("tileloadd tmm", $rows, ", [{x} + {stride}]"),
            concat!("tilezero tmm", $sums),
            concat!("tdpbssd tmm", $sums, ", tmm", $rows, ", tmm", $weights),
            x = in(reg) $x,
            stride = in(reg) ROW_BYTES,
            options(nostack, preserves_flags, readonly),
        )
    };
}

macro_rules! store {
    ($tile:literal, $sums:expr) => {
        asm!(
            concat!("tilestored [{sums} + {stride}], tmm", $tile),
            sums = in(reg) $sums,
            stride = in(reg) ROW_BYTES,
            options(nostack, preserves_flags),
        )
    };
}

impl Shaped {
    /// Begins product `TURN` (0 or 1): sixteen columns of sums, `sums[m][n] = Σ x[m][k] · w[k / 4][4 n + k mod 4]`, over
    /// the bytes `k` of each row of `x` from byte `at` on; where `BOTH`, another sixteen, with bytes from `first` on.
    #[inline(always)]
    pub(crate) fn begin<const TURN: usize, const BOTH: bool>(
        &self,
        x: &[Line],
        [first, at]: [usize; 2],
        w: &[[u8; 64]],
    ) {
        assert!(x.len() >= TILE_ROWS && w.len() >= self.bytes / 4, "rows of the shape");
        assert!(first.max(at) + self.bytes <= size_of::<Line>(), "bytes of a row");
        let from = |at| x.as_ptr().cast::<u8>().wrapping_add(at);
        let (x, y, w) = (from(at), from(first), w.as_ptr());
        // SAFETY: the tiles have 16 rows of `self.bytes`, as this value proves, and what is read was found to be
        // there. Nothing but tiles is written, and those this value has for itself.
        unsafe {
            if TURN == 0 {
                begin!(x, w, "1", "3", "4");
                if BOTH {
                    go_on!(y, "0", "2", "4");
                }
            } else {
                begin!(x, w, "7", "3", "5");
                if BOTH {
                    go_on!(y, "6", "2", "5");
                }
            }
        }
    }

    /// The sums of product `TURN`: from `first` on where `BOTH`, then from `at` on.
    #[inline(always)]
    pub(crate) fn end<const TURN: usize, const BOTH: bool>(&self, sums: &mut [[SumRow; TILE_ROWS]; 2]) {
        let [first, second] = sums.each_mut().map(|sums| sums.as_mut_ptr());
        // SAFETY: tiles of sums have 16 rows, as this value proves, and so has what is written.
        unsafe {
            if TURN == 0 {
                if BOTH {
                    store!("0", first);
                }
                store!("1", second);
            } else {
                if BOTH {
                    store!("6", first);
                }
                store!("7", second);
            }
        }
    }
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
        assert!(there(a, TILE_ROWS, self.bytes) && there(b, self.bytes / 4, ROW_BYTES), "rows of the shape");
        // SAFETY: the tiles have 16 rows of `self.bytes`, as this value proves, and what is read was found to
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
        assert!(sums.iter().all(|sums| sums.len() >= (TILE_ROWS - 1) * stride + ROW_BYTES), "rows of sums");
        let [first, second] = sums.map(|sums| sums.as_mut_ptr());
        // SAFETY: tiles of sums have 16 rows, as this value proves, and those were found to be there.
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

    /// Against the plain sum, of whole rows and of parts of them.
    #[test]
    fn products_are_those_of_bytes() {
        let Some(tiles) = Tiles::detect() else { return };
        [16, 32, 64].into_iter().for_each(|bytes| check(tiles, bytes));
    }

    fn check(tiles: Tiles, bytes: usize) {
        let row = |row: usize, step: usize| std::array::from_fn(|at| (row * 89 + at * step) as u8);
        let x: Vec<[u8; 64]> = (0..TILE_ROWS).map(|at| row(at, 37)).collect();
        let w: Vec<[u8; 64]> = (0..bytes / 4).map(|at| row(at, 101)).collect();
        let last = 64 - bytes;
        let expected = |at: usize| -> Vec<i32> {
            let term = |m: usize, n: usize, k: usize| {
                i32::from(x[m][at + k].cast_signed()) * i32::from(w[k / 4][4 * n + k % 4].cast_signed())
            };
            (0..16 * TILE_ROWS).map(|sum| (0..bytes).map(|k| term(sum / 16, sum % 16, k)).sum()).collect()
        };
        let numbers =
            |bytes: &[u8]| -> Vec<i32> { bytes.as_chunks().0.iter().copied().map(i32::from_le_bytes).collect() };
        let sums_of = |sums: &[SumRow]| -> Vec<i32> { sums.iter().flat_map(|row| numbers(&row.0)).collect() };
        let lines: Vec<Line> =
            x.iter().map(|row| Line(numbers(row).as_chunks().0.try_into().expect("two halves"))).collect();
        let mut sums = [[SumRow([1; 64]); TILE_ROWS]; 2];
        let shaped = tiles.shaped(bytes);
        shaped.begin::<0, true>(&lines, [0, last], &w);
        shaped.begin::<1, false>(&lines, [0, 0], &w);
        shaped.end::<0, true>(&mut sums);
        assert_eq!(sums_of(&sums[0]), expected(0), "rows of {bytes}");
        assert_eq!(sums_of(&sums[1]), expected(last), "rows of {bytes}");
        shaped.begin::<0, true>(&lines, [last, 0], &w);
        shaped.end::<1, false>(&mut sums);
        assert_eq!(sums_of(&sums[0]), expected(0), "rows of {bytes}, left alone");
        assert_eq!(sums_of(&sums[1]), expected(0), "rows of {bytes}");
        shaped.begin::<1, true>(&lines, [0, last], &w);
        shaped.end::<0, true>(&mut sums);
        assert_eq!(sums_of(&sums[0]), expected(last), "rows of {bytes}");
        shaped.end::<1, true>(&mut sums);
        assert_eq!(sums_of(&sums[1]), expected(last), "rows of {bytes}");
    }
}
