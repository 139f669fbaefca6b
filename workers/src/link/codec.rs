//! Frames as bytes: bincode's standard encoding, bounded both ways.

use serde::{Serialize, de::DeserializeOwned};

use super::{error::LinkError, ring::layout::CAPACITY_MAX};

/// What decoding one frame may claim. The codec counts a number at its full width, a frame is at most half of a ring,
/// and no number is encoded in less than an eighth of its width: no honest frame meets this limit.
const CLAIM_BYTES_MAX: usize = CAPACITY_MAX / 2 * 8;

fn config() -> impl bincode::config::Config {
    bincode::config::standard().with_limit::<CLAIM_BYTES_MAX>()
}

/// Encodes `value` into `frame`, replacing what was there.
pub fn encode(value: &impl Serialize, frame: &mut Vec<u8>) {
    frame.clear();
    let encoded = bincode::serde::encode_into_std_write(value, frame, config());
    encoded.expect("numbers, options and lists are always encodable, and a vector takes them all");
}

/// Decodes a frame out of `segment`. Bytes left over are as wrong as missing ones.
pub fn decode<T: DeserializeOwned>(frame: &[u8], segment: &str) -> Result<T, LinkError> {
    let corrupt = |found| LinkError::Corrupt { segment: segment.to_owned(), found };
    match bincode::serde::decode_from_slice(frame, config()) {
        Ok((value, used)) if used == frame.len() => Ok(value),
        Ok((_, used)) => Err(corrupt(format!("{} bytes follow the end of a frame", frame.len() - used))),
        Err(error) => Err(corrupt(format!("an undecodable frame ({error})"))),
    }
}
