//! Blocks of our own formats from scales and quants that somebody else chose.

use half::f16;

/// Appends one WInt8 block.
pub fn store_wint8(scale: f32, quants: &[i8; 128], to: &mut Vec<u8>) {
    to.extend(scale.to_le_bytes());
    to.extend(quants.map(|quant| quant as u8));
}

/// Appends one F8_E4M3 block. None of the codes stands for not-a-number (0x7f, 0xff): the caller has refused them.
pub fn store_f8(scale: f32, codes: &[u8; 128], to: &mut Vec<u8>) {
    to.extend(scale.to_le_bytes());
    to.extend(codes);
}

/// Appends one block of 4-bit weights, 0 to 15 each: `WInt4` where they are 128, `WInt4G32` where they are 32.
///
/// # Panics
/// Where the zero point is more than 16. Another number of weights does not compile.
pub fn store_wint4<const N: usize>(scale: f16, zero_point: u8, quants: &[u8; N], to: &mut Vec<u8>) {
    const { assert!(N == 128 || N == 32, "a block has 128 weights or 32") };
    assert!(zero_point <= 16, "zero point {zero_point} of 16");
    to.extend(scale.to_le_bytes());
    to.push(zero_point);
    if N == 128 {
        to.push(0);
    }
    for quants in quants.as_chunks::<32>().0 {
        to.extend((0..16).map(|i| quants[i] & 15 | quants[i + 16] << 4));
    }
}
