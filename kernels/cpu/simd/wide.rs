//! Sixteen lanes: one register where the machine has such, and two vectors of eight elsewhere. Products with rearranged
//! weights are written in them, and attention's: nothing there ever goes across lanes.

use super::{Simd, exp2};

/// An instruction set whose presence its value proves, and sixteen-lane arithmetic in it. What an operation means, [`Simd`]
/// says.
pub(crate) trait Wide: Copy {
    /// How many registers a vector takes.
    const REGISTERS: usize;

    /// Eight-lane arithmetic beside it.
    type Eight: Simd;
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;

    /// Two vectors of eight lanes as one.
    fn join(self, halves: [<Self::Eight as Simd>::F; 2]) -> Self::F;
    /// A vector as two of eight lanes.
    fn halves(self, value: Self::F) -> [<Self::Eight as Simd>::F; 2];
    fn load(self, from: &[f32; 16]) -> Self::F;
    fn splat(self, value: f32) -> Self::F;
    fn store(self, value: Self::F, to: &mut [f32; 16]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    fn first(self, a: Self::F, count: usize, other: Self::F) -> Self::F;
    /// As [`exp2`] of eight lanes, bit for bit.
    fn exp2(self, x: Self::F) -> Self::F;

    fn splat_int(self, value: i32) -> Self::I;
    fn bytes(self, from: &[u8; 16]) -> Self::I;
    fn signed_bytes(self, from: &[u8; 16]) -> Self::I;
    fn words(self, from: &[u8; 64]) -> Self::I;
    /// Sixteen numbers (little-endian).
    fn store_words(self, value: Self::I, to: &mut [u8; 64]);
    /// The lowest byte of each number.
    fn low_bytes(self, a: Self::I) -> [u8; 16];
    fn add_int(self, a: Self::I, b: Self::I) -> Self::I;
    fn dot_pairs(self, a: Self::I, b: Self::I) -> Self::I;
    fn dot_quads(self, sum: Self::I, a: Self::I, b: Self::I) -> Self::I;
    fn even_and_odd(self, a: Self::I) -> (Self::I, Self::I);
    fn and(self, a: Self::I, b: Self::I) -> Self::I;
    fn or(self, a: Self::I, b: Self::I) -> Self::I;
    fn shift_left<const BY: i32>(self, a: Self::I) -> Self::I;
    fn shift_right<const BY: i32>(self, a: Self::I) -> Self::I;
    fn float(self, a: Self::I) -> Self::F;
    fn round(self, a: Self::F) -> Self::I;
    fn bits(self, a: Self::I) -> Self::F;
    fn half_bytes(self, bytes: &[u8; 32]) -> Self::F;
}

/// Two vectors of eight lanes, the lower lanes first.
#[derive(Clone, Copy)]
pub(crate) struct Two<S>(pub(super) S);

/// Operations on both, one after the other: of values and of halves of arrays.
macro_rules! of_both {
    ($($name:ident$(::<$by:ident>)?($($value:ident: $type:ident),*) -> $result:ident;)+) => {
        $(
            #[inline(always)]
            fn $name$(<const $by: i32>)?(self, $($value: Self::$type),*) -> Self::$result {
                let simd = self.0;
                [simd.$name$(::<$by>)?($($value[0]),*), simd.$name$(::<$by>)?($($value[1]),*)]
            }
        )+
    };
}

macro_rules! from_both {
    ($($name:ident(&[u8; $bytes:literal]) -> $result:ident;)+) => {
        $(
            #[inline(always)]
            fn $name(self, from: &[u8; $bytes]) -> Self::$result {
                let (lower, upper) = from.split_at($bytes / 2);
                let simd = self.0;
                [simd.$name(lower.try_into().expect("half")), simd.$name(upper.try_into().expect("half"))]
            }
        )+
    };
}

impl<S: Simd> Wide for Two<S> {
    const REGISTERS: usize = 2;

    type Eight = S;
    type F = [S::F; 2];
    type I = [S::I; 2];

    #[inline(always)]
    fn join(self, halves: [S::F; 2]) -> Self::F {
        halves
    }

    #[inline(always)]
    fn halves(self, value: Self::F) -> [S::F; 2] {
        value
    }

    #[inline(always)]
    fn load(self, from: &[f32; 16]) -> Self::F {
        let [lower, upper] = from.as_chunks().0 else { unreachable!("two halves") };
        [self.0.load(lower), self.0.load(upper)]
    }

    of_both! {
        add(a: F, b: F) -> F;
        sub(a: F, b: F) -> F;
        mul(a: F, b: F) -> F;
        max(a: F, b: F) -> F;
        fma(a: F, b: F, c: F) -> F;
        add_int(a: I, b: I) -> I;
        dot_pairs(a: I, b: I) -> I;
        dot_quads(sum: I, a: I, b: I) -> I;
        and(a: I, b: I) -> I;
        or(a: I, b: I) -> I;
        shift_left::<BY>(a: I) -> I;
        shift_right::<BY>(a: I) -> I;
        float(a: I) -> F;
        round(a: F) -> I;
        bits(a: I) -> F;
    }

    from_both! {
        bytes(&[u8; 16]) -> I;
        signed_bytes(&[u8; 16]) -> I;
        words(&[u8; 64]) -> I;
        half_bytes(&[u8; 32]) -> F;
    }

    #[inline(always)]
    fn store_words(self, value: Self::I, to: &mut [u8; 64]) {
        for (half, to) in value.into_iter().zip(to.as_chunks_mut::<32>().0) {
            let mut words = [0; 8];
            self.0.store_int(half, &mut words);
            to.copy_from_slice(words.map(i32::to_le_bytes).as_flattened());
        }
    }

    #[inline(always)]
    fn low_bytes(self, a: Self::I) -> [u8; 16] {
        let mut words = [[0; 8]; 2];
        for (half, words) in a.into_iter().zip(&mut words) {
            self.0.store_int(half, words);
        }
        let (words, mut bytes) = (words.as_flattened(), [0; 16]);
        for (byte, word) in bytes.iter_mut().zip(words) {
            *byte = *word as u8;
        }
        bytes
    }

    #[inline(always)]
    fn first(self, a: Self::F, count: usize, other: Self::F) -> Self::F {
        let simd = self.0;
        [simd.first(a[0], count, other[0]), simd.first(a[1], count.saturating_sub(8), other[1])]
    }

    #[inline(always)]
    fn exp2(self, x: Self::F) -> Self::F {
        x.map(|x| exp2(self.0, x))
    }

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        [self.0.splat(value); 2]
    }

    #[inline(always)]
    fn splat_int(self, value: i32) -> Self::I {
        [self.0.splat_int(value); 2]
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32; 16]) {
        let [lower, upper] = to.as_chunks_mut().0 else { unreachable!("two halves") };
        self.0.store(value[0], lower);
        self.0.store(value[1], upper);
    }

    #[inline(always)]
    fn even_and_odd(self, a: Self::I) -> (Self::I, Self::I) {
        let [(first_even, first_odd), (second_even, second_odd)] =
            [self.0.even_and_odd(a[0]), self.0.even_and_odd(a[1])];
        ([first_even, second_even], [first_odd, second_odd])
    }
}
