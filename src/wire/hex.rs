//! Lower-case hexadecimal, as info hashes, keys and binary JSON fields are written.

use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};

/// The lower-case hexadecimal text of `bytes`.
#[must_use]
pub fn encode(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// Writes the lower-case hexadecimal text of `bytes` behind `out`.
pub fn append(bytes: &[u8], out: &mut String) {
    HEXLOWER.encode_append(bytes, out);
}

/// Reads hexadecimal of either case; `None` for an odd length or a character that is not a hexadecimal digit.
#[must_use]
pub fn decode(text: &str) -> Option<Vec<u8>> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()
}

/// Reads exactly `N` bytes of hexadecimal; `None` for any other length.
#[must_use]
pub fn decode_array<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    let fits = text.len() == 2 * N && HEXLOWER_PERMISSIVE.decode_mut(text.as_bytes(), &mut bytes).is_ok();
    fits.then_some(bytes)
}
