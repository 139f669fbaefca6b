//! Instruction sets agree with each other, and exponentials with exact ones.

use super::*;

struct Exp([f32; 8]);

impl Kernel for Exp {
    type Output = [f32; 8];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [f32; 8] {
        let mut result = [0.0; 8];
        simd.store(exp(simd, simd.load(&self.0)), &mut result);
        result
    }
}

#[test]
fn exp_is_close_to_the_exact_one() {
    for isa in [Isa::detect(), Isa::Portable(Portable)] {
        for step in 0..21_800 {
            let x = -87.3 + step as f32 * 0.008;
            let exact = f64::from(x).exp();
            let error = (f64::from(isa.run(Exp([x; 8]))[3]) - exact) / exact;
            assert!(error.abs() < 2e-7, "{}: exp({x}) is off by {error:e}", isa.name());
        }
    }
}

#[test]
fn exp_at_its_limits() {
    for isa in [Isa::detect(), Isa::Portable(Portable)] {
        let x = [f32::NEG_INFINITY, -1e30, -88.0, 0.0, 100.0, f32::INFINITY, f32::NAN, -0.0];
        let result = isa.run(Exp(x));
        assert_eq!(result[..4], [0.0, 0.0, 0.0, 1.0], "{}", isa.name());
        assert!(result[4] > 2e38 && result[4] == result[5], "{result:?}");
        assert!(result[6].is_nan() && result[7] == 1.0, "{result:?}");
    }
}

struct Exp2([f32; 8]);

impl Kernel for Exp2 {
    type Output = [f32; 8];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [f32; 8] {
        let mut result = [0.0; 8];
        simd.store(exp2(simd, simd.load(&self.0)), &mut result);
        result
    }
}

struct WideExp2([f32; 8]);

impl Kernel for WideExp2 {
    type Output = [f32; 16];

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> [f32; 16] {
        let (wide, mut result) = (simd.wide(), [0.0; 16]);
        wide.store(wide.exp2(wide.join([simd.load(&self.0); 2])), &mut result);
        result
    }
}

#[test]
fn exp2_is_close_to_the_exact_one() {
    for isa in [Isa::detect(), Isa::Portable(Portable)] {
        let both = |x: [f32; 8]| {
            let (eight, sixteen) = (isa.run(Exp2(x)), isa.run(WideExp2(x)));
            let equal = sixteen.chunks(8).all(|half| half.iter().zip(eight).all(|(a, b)| a.to_bits() == b.to_bits()));
            assert!(equal, "{}: {eight:?}, {sixteen:?}", isa.name());
            eight
        };
        for step in 0..25_300 {
            let x = -126.0 + step as f32 * 0.01;
            let exact = f64::from(x).exp2();
            let error = (f64::from(both([x; 8])[3]) - exact) / exact;
            assert!(error.abs() < 1e-7, "{}: exp2({x}) is off by {error:e}", isa.name());
        }
        let result = both([f32::NEG_INFINITY, -1e30, -126.5, 0.0, -1.0, 5.0, f32::NAN, -0.0]);
        assert_eq!(result[..6], [0.0, 0.0, 0.0, 1.0, 0.5, 32.0], "{}", isa.name());
        assert!(result[6].is_nan() && result[7] == 1.0, "{result:?}");
    }
}

struct Every;

impl Kernel for Every {
    type Output = Vec<[f32; 8]>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let mut results = Vec::new();
        let a = simd.load(&[1.0, -2.0, 3.5, 1e-3, 7.0, 0.0, -1e4, 2.0]);
        let b = simd.load(&[0.5, 4.0, -3.5, 1e3, 0.25, 1.0, 8.0, -2.0]);
        let bytes = [0, 1, 15, 16, 127, 128, 200, 255];
        let bits = [0x3c00, 0xc000, 0x0001, 0x7bff, 0x3555, 0x8000, 0x0400, 0x4248];
        let int = simd.bytes(&bytes);
        let words = |step: usize| simd.words(&std::array::from_fn(|at| (at * step) as u8));
        let (power, n) = simd.exp2_round(simd.load(&[-126.0, -1.4, -0.6, 0.0, 0.4, 1.6, 3.0, 127.0]));
        for value in [
            simd.add(a, b),
            simd.sub(a, b),
            simd.mul(a, b),
            simd.div(a, b),
            simd.min(a, b),
            simd.max(a, b),
            simd.fma(simd.splat(2.0), a, b),
            simd.first(a, 3, b),
            simd.first(a, 8, b),
            simd.zero_below(a, b, simd.splat(0.5)),
            simd.splat(simd.max_lane(a)),
            simd.splat(simd.sum(a)),
            simd.splat(simd.sum4([b, a, b, a])[1]),
            simd.splat(simd.sum4([b, a, b, a])[2]),
            simd.float(int),
            simd.float(simd.signed_bytes(&bytes)),
            simd.float(simd.and(int, simd.splat_int(0x35))),
            simd.float(simd.or(int, simd.splat_int(0x135))),
            simd.float(simd.shift_left::<3>(int)),
            simd.float(simd.shift_right::<3>(int)),
            simd.float(simd.shift_right_each(simd.splat_int(-1), simd.bytes(&[8, 9, 10, 11, 12, 24, 30, 31]))),
            simd.float(simd.round(a)),
            simd.bits(simd.shift_left::<22>(int)),
            simd.bits(simd.and(simd.shift_left::<20>(simd.signed_bytes(&bytes)), simd.splat_int(!0x7800_0000))),
            simd.pick([a, b], simd.bytes(&[0, 15, 7, 8, 3, 12, 9, 6])),
            simd.pick([a, b], simd.signed_bytes(&[0x81, 0xf2, 0x1d, 0x2e, 0xff, 0x80, 0x44, 0x7b])),
            simd.splat_halves(&[0x55, 0x35, 0, 0xc0]).0,
            simd.splat_halves(&[0x55, 0x35, 0, 0xc0]).1,
            simd.halves(&bits),
            simd.half_bytes(&[0, 0x3c, 0, 0xc0, 1, 0, 0xff, 0x7b, 0x55, 0x35, 0, 0x80, 0, 4, 0x48, 0x42]),
            simd.bits(simd.and(simd.words(&std::array::from_fn(|at| at as u8 * 7)), simd.splat_int(0x3fff_ffff))),
            simd.float(simd.add_int(int, simd.signed_bytes(&bytes))),
            simd.float(simd.dot_pairs(words(37), words(91))),
            simd.float(simd.dot_quads(int, words(37), words(91))),
            simd.float(simd.even_and_odd(words(91)).0),
            simd.float(simd.even_and_odd(words(91)).1),
            simd.float(simd.split_quads(simd.shorts(a, simd.mul(b, simd.splat(31.25))))),
            simd.float(simd.pair_quads(simd.shorts(a, simd.mul(b, simd.splat(31.25))))),
            simd.float(simd.shorts(a, simd.mul(b, simd.splat(31.25)))),
            simd.bfloats(&bits),
            power,
            n,
        ] {
            let mut lanes = [0.0; 8];
            simd.store(value, &mut lanes);
            results.push(lanes);
        }
        results
    }
}

struct EveryWide;

impl Kernel for EveryWide {
    type Output = Vec<[f32; 16]>;

    #[inline(always)]
    fn run<S: Simd>(self, simd: S) -> Self::Output {
        let wide = simd.wide();
        let mut results = Vec::new();
        let bytes: [u8; 16] = std::array::from_fn(|at| (at * 37 + 120) as u8);
        let words = |step: usize| wide.words(&std::array::from_fn(|at| (at * step) as u8));
        let (int, signed) = (wide.bytes(&bytes), wide.signed_bytes(&bytes));
        let (a, b) = (wide.float(int), wide.float(signed));
        let (even, odd) = wide.even_and_odd(words(91));
        let lanes: [f32; 16] = std::array::from_fn(|at| at as f32 - 3.5);
        for value in [
            wide.load(&lanes),
            wide.join([simd.splat(1.5), simd.load(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0])]),
            a,
            b,
            wide.add(a, b),
            wide.sub(a, b),
            wide.mul(a, b),
            wide.max(a, b),
            wide.fma(wide.splat(1.5), a, b),
            wide.first(a, 3, b),
            wide.first(a, 11, b),
            wide.first(a, 40, b),
            wide.float(wide.round(wide.mul(a, wide.splat(0.25)))),
            wide.float(wide.bytes(&wide.low_bytes(words(91)))),
            wide.join(wide.halves(b)),
            wide.float(wide.add_int(int, signed)),
            wide.float(wide.dot_pairs(words(37), words(91))),
            wide.float(wide.dot_quads(int, words(37), words(91))),
            wide.float(even),
            wide.float(odd),
            wide.float(wide.and(int, wide.splat_int(0x35))),
            wide.float(wide.or(int, wide.splat_int(0x135))),
            wide.float(wide.shift_left::<3>(int)),
            wide.float(wide.shift_right::<3>(words(91))),
            wide.bits(wide.shift_left::<22>(int)),
            wide.half_bytes(&std::array::from_fn(|at| (at * 29 % 120) as u8)),
        ] {
            let mut lanes = [0.0; 16];
            wide.store(value, &mut lanes);
            results.push(lanes);
        }
        results
    }
}

#[test]
fn instruction_sets_agree() {
    let (portable, portable_wide) = (Isa::Portable(Portable).run(Every), Isa::Portable(Portable).run(EveryWide));
    for isa in [Isa::detect(), Isa::without_avx512()] {
        assert_eq!(isa.run(Every), portable, "{}", isa.name());
        assert_eq!(isa.run(EveryWide), portable_wide, "{}", isa.name());
    }
}
