//! FP8 numbers with four bits of exponent and three of mantissa, without infinities: e4m3fn of Micikevicius et al.
//! 2022, "FP8 Formats for Deep Learning".

/// The greatest of them.
pub const E4M3_MAX: f32 = 448.0;

/// The value of a code. The two codes for not-a-number (0x7f and 0xff) give ±480, as everywhere where weights are read:
/// whoever takes codes from a file refuses them.
#[inline]
pub const fn decode_e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (code as u32 >> 3 & 15, (code & 7) as f32);
    let magnitude =
        if exponent == 0 { mantissa * power_of_two(-9) } else { (8.0 + mantissa) * power_of_two(exponent as i32 - 10) };
    if code & 0x80 == 0 { magnitude } else { -magnitude }
}

const fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}

/// The code of the nearest number, of the even one where two are as near; beyond ±448, the code of ±448. So it is for
/// not-a-number, which no weight should be.
#[inline]
pub fn encode_e4m3(value: f32) -> u8 {
    const LEAST_NORMAL: f32 = power_of_two(-6);
    let magnitude = value.abs().min(E4M3_MAX);
    let code = if magnitude < LEAST_NORMAL {
        // Steps of 2⁻⁹ from zero on; eight of them are the least normal number, and have its code.
        (magnitude * power_of_two(9)).round_ties_even() as u8
    } else {
        // Adds half of the last place that stays (a little less where that is even), then cuts; a carry is the next
        // exponent.
        let bits = magnitude.to_bits();
        let rounded = bits + 0x7_ffff + (bits >> 20 & 1);
        ((rounded >> 20) - ((127 - 7) << 3)) as u8
    };
    code | if value.is_sign_negative() { 0x80 } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finite() -> impl Iterator<Item = u8> {
        (0..=255).filter(|code| code & 0x7f != 0x7f)
    }

    #[test]
    fn codes_come_back() {
        for code in finite() {
            assert_eq!(encode_e4m3(decode_e4m3(code)), code, "{code:#x}");
        }
    }

    /// Between neighbours, the middle goes to the even one and everything else to the nearer one.
    #[test]
    fn rounds_to_the_nearest_and_middles_to_even() {
        for code in finite().filter(|code| code & 0x7f < 0x7e) {
            let middle = (decode_e4m3(code) + decode_e4m3(code + 1)) / 2.0;
            let [inner, outer] = [middle.abs().next_down(), middle.abs().next_up()].map(|m| m.copysign(middle));
            assert_eq!(encode_e4m3(inner), code, "{inner}");
            assert_eq!(encode_e4m3(middle), code + (code & 1), "{middle}");
            assert_eq!(encode_e4m3(outer), code + 1, "{outer}");
        }
    }

    #[test]
    fn saturates() {
        for (value, code) in [
            (448.1, 0x7e),
            (-1e30, 0xfe),
            (f32::INFINITY, 0x7e),
            (f32::MIN_POSITIVE, 0),
            (-0.0, 0x80),
            (f32::NAN, 0x7e),
        ] {
            assert_eq!(encode_e4m3(value), code, "{value}");
        }
    }

    /// All values by the ml_dtypes package.
    #[test]
    fn agrees_with_the_golden_values() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/golden/gguf/dequant_vectors.json");
        let golden: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let values = golden["e4m3fn"].as_array().unwrap();
        assert_eq!(values.len(), 256);
        for code in finite() {
            assert_eq!(Some(f64::from(decode_e4m3(code))), values[usize::from(code)].as_f64(), "{code:#x}");
        }
    }
}
