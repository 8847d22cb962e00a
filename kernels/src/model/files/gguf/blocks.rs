//! How GGUF files store numbers: plain floats, and blocks of small whole numbers with scales of their own.
//!
//! The layouts are those of ggml's `ggml-common.h`, little endian. What a block decodes to is computed in f32 in the
//! order of ggml's reference, so that the numbers are the same.

use burn::tensor::{bf16, f16};

/// One way of storing numbers.
#[derive(Debug)]
pub struct StoredType {
    /// The number of the type in files.
    pub id: u32,
    /// The name that ggml has for it.
    pub name: &'static str,
    /// Numbers of a block. Rows are whole blocks.
    pub block: usize,
    /// Bytes of a block.
    pub bytes: usize,
    /// Decodes one block.
    decode: fn(&[u8], &mut [f32]),
}

impl PartialEq for StoredType {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

/// The types that are read.
pub(crate) static TYPES: [StoredType; 11] = [
    StoredType { id: 0, name: "F32", block: 1, bytes: 4, decode: decode_f32 },
    StoredType { id: 1, name: "F16", block: 1, bytes: 2, decode: |block, out| out[0] = half(block, 0) },
    StoredType { id: 30, name: "BF16", block: 1, bytes: 2, decode: decode_bf16 },
    StoredType { id: 2, name: "Q4_0", block: 32, bytes: 18, decode: decode_q4_0 },
    StoredType { id: 3, name: "Q4_1", block: 32, bytes: 20, decode: decode_q4_1 },
    StoredType { id: 6, name: "Q5_0", block: 32, bytes: 22, decode: decode_q5_0 },
    StoredType { id: 7, name: "Q5_1", block: 32, bytes: 24, decode: decode_q5_1 },
    StoredType { id: 8, name: "Q8_0", block: 32, bytes: 34, decode: decode_q8_0 },
    StoredType { id: 12, name: "Q4_K", block: 256, bytes: 144, decode: decode_q4_k },
    StoredType { id: 13, name: "Q5_K", block: 256, bytes: 176, decode: decode_q5_k },
    StoredType { id: 14, name: "Q6_K", block: 256, bytes: 210, decode: decode_q6_k },
];

/// Types that ggml has and that are not read, for messages.
const OTHERS: [(u32, &str); 23] = [
    (9, "Q8_1"),
    (10, "Q2_K"),
    (11, "Q3_K"),
    (15, "Q8_K"),
    (16, "IQ2_XXS"),
    (17, "IQ2_XS"),
    (18, "IQ3_XXS"),
    (19, "IQ1_S"),
    (20, "IQ4_NL"),
    (21, "IQ3_S"),
    (22, "IQ2_S"),
    (23, "IQ4_XS"),
    (24, "I8"),
    (25, "I16"),
    (26, "I32"),
    (27, "I64"),
    (28, "F64"),
    (29, "IQ1_M"),
    (34, "TQ1_0"),
    (35, "TQ2_0"),
    (39, "MXFP4"),
    (40, "NVFP4"),
    (41, "Q1_0"),
];

impl StoredType {
    /// The type with a number of the file.
    ///
    /// # Errors
    /// What the type is called, or its number, and which types are read.
    pub fn of(id: u32) -> Result<&'static Self, String> {
        if let Some(found) = TYPES.iter().find(|known| known.id == id) {
            return Ok(found);
        }
        let other = OTHERS.iter().find(|(number, _)| *number == id);
        let name = other.map_or_else(|| format!("of the unknown type {id}"), |(_, name)| (*name).to_owned());
        let read: Vec<&str> = TYPES.iter().map(|known| known.name).collect();
        Err(format!("is {name}; read are {}", read.join(", ")))
    }

    /// Bytes of so many numbers, if they are whole blocks and their bytes can be counted.
    pub(super) fn bytes_of(&self, numbers: u64) -> Option<u64> {
        let blocks = numbers / self.block as u64;
        (numbers.is_multiple_of(self.block as u64)).then(|| blocks.checked_mul(self.bytes as u64))?
    }

    /// Decodes whole blocks.
    ///
    /// # Panics
    /// If the bytes and the numbers are not those of equally many blocks.
    pub fn decode(&self, bytes: &[u8], numbers: &mut [f32]) {
        assert_eq!(bytes.len() / self.bytes, numbers.len() / self.block, "as many blocks");
        assert!(bytes.len().is_multiple_of(self.bytes) && numbers.len().is_multiple_of(self.block));
        for (block, out) in bytes.chunks_exact(self.bytes).zip(numbers.chunks_exact_mut(self.block)) {
            (self.decode)(block, out);
        }
    }
}

fn half(block: &[u8], at: usize) -> f32 {
    f16::from_le_bytes([block[at], block[at + 1]]).to_f32()
}

fn decode_f32(block: &[u8], out: &mut [f32]) {
    out[0] = f32::from_le_bytes([block[0], block[1], block[2], block[3]]);
}

fn decode_bf16(block: &[u8], out: &mut [f32]) {
    out[0] = bf16::from_le_bytes([block[0], block[1]]).to_f32();
}

/// The 32 numbers of 16 bytes: the lower halves first, then the upper ones.
fn nibble(bytes: &[u8], at: usize) -> u8 {
    if at < 16 { bytes[at] & 0x0f } else { bytes[at - 16] >> 4 }
}

fn decode_q4_0(block: &[u8], out: &mut [f32]) {
    let scale = half(block, 0);
    for (at, out) in out.iter_mut().enumerate() {
        *out = (f32::from(nibble(&block[2..], at)) - 8.0) * scale;
    }
}

fn decode_q4_1(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half(block, 0), half(block, 2));
    for (at, out) in out.iter_mut().enumerate() {
        *out = f32::from(nibble(&block[4..], at)) * scale + least;
    }
}

/// A number of five bits, whose fifth stands in a word of 32.
fn five_bits(fifth: &[u8], bytes: &[u8], at: usize) -> f32 {
    let fifth = u32::from_le_bytes([fifth[0], fifth[1], fifth[2], fifth[3]]) >> at & 1;
    f32::from(nibble(bytes, at) | (fifth as u8) << 4)
}

fn decode_q5_0(block: &[u8], out: &mut [f32]) {
    let scale = half(block, 0);
    for (at, out) in out.iter_mut().enumerate() {
        *out = (five_bits(&block[2..6], &block[6..], at) - 16.0) * scale;
    }
}

fn decode_q5_1(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half(block, 0), half(block, 2));
    for (at, out) in out.iter_mut().enumerate() {
        *out = five_bits(&block[4..8], &block[8..], at) * scale + least;
    }
}

fn decode_q8_0(block: &[u8], out: &mut [f32]) {
    let scale = half(block, 0);
    for (byte, out) in block[2..].iter().zip(out) {
        *out = f32::from(byte.cast_signed()) * scale;
    }
}

/// Scale and least number of a part of 32 of a K block: 8 of each, in 6 bits, in 12 bytes.
fn scale_and_least(part: usize, packed: &[u8]) -> [f32; 2] {
    let pair = match part {
        0..4 => [packed[part] & 63, packed[part + 4] & 63],
        _ => [
            packed[part + 4] & 0x0f | packed[part - 4] >> 6 << 4,
            packed[part + 4] >> 4 | packed[part] >> 6 << 4,
        ],
    };
    pair.map(f32::from)
}

fn decode_q4_k(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half(block, 0), half(block, 2));
    for (part, out) in out.chunks_exact_mut(32).enumerate() {
        let [own_scale, own_least] = scale_and_least(part, &block[4..16]);
        let (scale, least) = (scale * own_scale, least * own_least);
        let bytes = &block[16 + part / 2 * 32..][..32];
        for (byte, out) in bytes.iter().zip(out) {
            let number = if part.is_multiple_of(2) { byte & 0x0f } else { byte >> 4 };
            *out = scale * f32::from(number) - least;
        }
    }
}

fn decode_q5_k(block: &[u8], out: &mut [f32]) {
    let (scale, least) = (half(block, 0), half(block, 2));
    for (part, out) in out.chunks_exact_mut(32).enumerate() {
        let [own_scale, own_least] = scale_and_least(part, &block[4..16]);
        let (scale, least) = (scale * own_scale, least * own_least);
        let bytes = &block[48 + part / 2 * 32..][..32];
        for ((byte, fifth), out) in bytes.iter().zip(&block[16..48]).zip(out) {
            let number = if part.is_multiple_of(2) { byte & 0x0f } else { byte >> 4 };
            *out = scale * f32::from(number | (fifth >> part & 1) << 4) - least;
        }
    }
}

fn decode_q6_k(block: &[u8], out: &mut [f32]) {
    let scale = half(block, 208);
    for (at, out) in out.iter_mut().enumerate() {
        // A half of 128 has 64 bytes of lower bits and 32 of upper ones; in it, four parts of 32.
        let (half, part, place) = (at / 128, at % 128 / 32, at % 32);
        let lower = block[half * 64 + part % 2 * 32 + place];
        let lower = if part < 2 { lower & 0x0f } else { lower >> 4 };
        let upper = block[128 + half * 32 + place] >> (2 * part) & 3;
        let own = block[192 + half * 8 + part * 2 + place / 16].cast_signed();
        *out = scale * f32::from(own) * (f32::from(lower | upper << 4) - 32.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Blocks of random bytes with what the `gguf` package decodes them to; `tests/fixtures/make_gguf_fixtures.py`
    /// makes them.
    #[test]
    fn blocks_decode_as_in_the_reference() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/gguf/blocks.safetensors");
        let bytes = std::fs::read(path).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        for kind in &TYPES {
            let blocks = tensors.tensor(&format!("{}.blocks", kind.name)).unwrap();
            let expected = tensors.tensor(&format!("{}.numbers", kind.name)).unwrap();
            let expected: Vec<f32> =
                expected.data().as_chunks().0.iter().map(|each| f32::from_le_bytes(*each)).collect();
            let mut found = vec![f32::NAN; expected.len()];
            kind.decode(blocks.data(), &mut found);
            assert!(expected.len() >= 512 && expected.iter().any(|number| *number < 0.0), "{}", kind.name);
            assert_eq!(found, expected, "{}", kind.name);
        }
        assert_eq!(tensors.len(), 2 * TYPES.len());
    }

    #[test]
    fn a_type_that_is_not_read_is_named() {
        assert_eq!(StoredType::of(14).unwrap().name, "Q6_K");
        assert!(StoredType::of(17).unwrap_err().starts_with("is IQ2_XS; read are F32, F16, BF16, Q4_0"));
        assert!(StoredType::of(99).unwrap_err().starts_with("is of the unknown type 99;"));
    }

    #[test]
    fn bytes_are_counted_in_whole_blocks() {
        let kind = StoredType::of(2).unwrap();
        assert_eq!(kind.bytes_of(64), Some(36));
        assert_eq!(kind.bytes_of(65), None);
        assert_eq!(StoredType::of(0).unwrap().bytes_of(u64::MAX), None);
    }
}
