//! Vectors of sixteen lanes, and of eight where no sixteen are left: what a micro-kernel of attention needs of either.

use crate::cpu::{
    KvFormat,
    simd::{LANES, Simd, Wide},
};

/// Arithmetic in vectors of some length. Slices have at least as many elements.
pub(super) trait Lanes: Copy {
    /// Their length.
    const COUNT: usize;

    /// That many f32.
    type F: Copy;

    fn splat(self, value: f32) -> Self::F;
    fn load(self, from: &[f32]) -> Self::F;
    /// Of elements of a cache.
    fn decode<G: KvFormat>(self, from: &[G::Bits]) -> Self::F;
    fn store(self, value: Self::F, to: &mut [f32]);
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
}

/// Eight lanes.
#[derive(Clone, Copy)]
pub(super) struct Eight<S>(pub(super) S);

/// Sixteen lanes.
#[derive(Clone, Copy)]
pub(super) struct Sixteen<S>(pub(super) S);

impl<S: Simd> Lanes for Eight<S> {
    const COUNT: usize = LANES;

    type F = S::F;

    #[inline(always)]
    fn splat(self, value: f32) -> S::F {
        self.0.splat(value)
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> S::F {
        self.0.load(from.first_chunk().expect("eight"))
    }

    #[inline(always)]
    fn decode<G: KvFormat>(self, from: &[G::Bits]) -> S::F {
        G::load(self.0, from.first_chunk().expect("eight"))
    }

    #[inline(always)]
    fn store(self, value: S::F, to: &mut [f32]) {
        self.0.store(value, to.first_chunk_mut().expect("eight"));
    }

    #[inline(always)]
    fn mul(self, a: S::F, b: S::F) -> S::F {
        self.0.mul(a, b)
    }

    #[inline(always)]
    fn fma(self, a: S::F, b: S::F, c: S::F) -> S::F {
        self.0.fma(a, b, c)
    }
}

impl<S: Simd> Lanes for Sixteen<S> {
    const COUNT: usize = 2 * LANES;

    type F = <S::Wide as Wide>::F;

    #[inline(always)]
    fn splat(self, value: f32) -> Self::F {
        self.0.wide().splat(value)
    }

    #[inline(always)]
    fn load(self, from: &[f32]) -> Self::F {
        self.0.wide().load(from.first_chunk().expect("sixteen"))
    }

    #[inline(always)]
    fn decode<G: KvFormat>(self, from: &[G::Bits]) -> Self::F {
        G::load_wide(self.0, from.first_chunk().expect("sixteen"))
    }

    #[inline(always)]
    fn store(self, value: Self::F, to: &mut [f32]) {
        self.0.wide().store(value, to.first_chunk_mut().expect("sixteen"));
    }

    #[inline(always)]
    fn mul(self, a: Self::F, b: Self::F) -> Self::F {
        self.0.wide().mul(a, b)
    }

    #[inline(always)]
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F {
        self.0.wide().fma(a, b, c)
    }
}
