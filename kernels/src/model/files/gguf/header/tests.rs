//! Headers of files that are whole, and of files that are broken in all ways that a header can be.

use super::*;

/// A header under test, as bytes.
#[derive(Clone, Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn begin(tensors: u64, keys: u64) -> Self {
        let mut bytes = Self(b"GGUF".to_vec());
        bytes.0.extend(3_u32.to_le_bytes());
        bytes.u64(tensors).u64(keys)
    }

    fn u32(mut self, number: u32) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn u64(mut self, number: u64) -> Self {
        self.0.extend(number.to_le_bytes());
        self
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }

    fn text(self, text: &str) -> Self {
        self.u64(text.len() as u64).raw(text.as_bytes())
    }

    /// A tensor of F32.
    fn tensor(self, name: &str, dims: &[u64], start: u64) -> Self {
        let begun = self.text(name).u32(dims.len() as u32);
        dims.iter().fold(begun, |bytes, dim| bytes.u64(*dim)).u32(0).u64(start)
    }

    /// Fills up to the alignment, and adds so many bytes of tensors.
    fn ended(mut self, bytes: usize) -> Self {
        let start = self.0.len().next_multiple_of(32);
        self.0.resize(start + bytes, 0);
        self
    }

    fn read(&self) -> Result<Header, KernelError> {
        Header::read(Path::new("a.gguf"), self.0.as_slice(), self.0.len() as u64)
    }

    fn error(&self) -> String {
        let error = self.read().unwrap_err().to_string();
        error.strip_prefix("a.gguf: ").unwrap_or_else(|| panic!("{error} names no file")).to_owned()
    }
}

#[test]
fn keys_of_all_types_and_tensors_are_read() {
    let bytes = Bytes::begin(2, 7)
        .text("a.size")
        .u32(4)
        .u32(7)
        .text("a.below")
        .u32(1)
        .raw(&[0xff])
        .text("a.eps")
        .u32(6)
        .raw(&1e-5_f32.to_le_bytes())
        .text("a.flag")
        .u32(7)
        .raw(&[1])
        .text("a.name")
        .u32(8)
        .text("böse")
        .text("a.names")
        .u32(9)
        .u32(8)
        .u64(2)
        .text("")
        .text("x")
        .text("a.equal")
        .u32(9)
        .u32(5)
        .u64(2)
        .u32(4)
        .u32(4)
        .tensor("first", &[4, 2], 0)
        .tensor("second", &[3], 32)
        .ended(44);
    let Header { metadata, tensors } = bytes.read().unwrap();
    assert_eq!(metadata.size("a.size").unwrap(), Some(7));
    assert_eq!(metadata.size("a.equal").unwrap(), Some(4));
    assert_eq!(metadata.number("a.eps").unwrap(), Some(1e-5));
    assert_eq!(metadata.flag("a.flag").unwrap(), Some(true));
    assert_eq!(metadata.text("a.name").unwrap(), Some("böse"));
    assert_eq!(metadata.texts("a.names").unwrap().unwrap(), ["", "x"]);
    assert_eq!(metadata.text("a.other").unwrap(), None);
    let wrong = metadata.size("a.below").unwrap_err().to_string();
    assert!(wrong.contains("`a.below` is -1; it must be a whole number"), "{wrong}");
    assert!(metadata.size("a.name").is_err() && metadata.flag("a.size").is_err());
    let start = bytes.0.len() as u64 - 44;
    assert_eq!((tensors[0].start, tensors[0].bytes, tensors[0].numbers()), (start, 32, 8));
    assert_eq!((tensors[1].start, tensors[1].bytes), (start + 32, 12));
}

#[test]
fn other_files_are_refused_by_name() {
    assert!(Bytes(b"PK\x03\x04....".to_vec()).error().contains("is no GGUF file"));
    let version = |number: u32| Bytes(b"GGUF".to_vec()).u32(number).u64(0).u64(0);
    assert!(version(3).read().is_ok() && version(2).read().is_ok());
    assert!(version(1).error().contains("of version 1; read are 2 and 3"));
    assert!(version(3_u32.swap_bytes()).error().contains("big-endian"));
}

#[test]
fn every_end_within_a_header_is_an_error() {
    let whole =
        Bytes::begin(1, 2).text("a.names").u32(9).u32(8).u64(1).text("x").text("a.size").u32(4).u32(1);
    let whole = whole.tensor("first", &[8], 0).ended(32);
    assert!(whole.read().is_ok());
    for length in 0..whole.0.len() {
        let error = Bytes(whole.0[..length].to_vec()).error();
        assert!(error.contains("truncated"), "{length}: {error}");
    }
}

#[test]
fn counts_and_lengths_that_cannot_be_take_no_memory() {
    const HUGE: u64 = 1 << 63;
    for (bytes, said) in [
        (Bytes::begin(HUGE, 0), "tensors are not in the 0 bytes"),
        (Bytes::begin(0, HUGE), "keys are not in the 0 bytes"),
        (Bytes::begin(0, 1).u64(HUGE).raw(&[0; 20]), "the name of key 0 has 9223372036854775808 bytes"),
        (Bytes::begin(0, 1).text("a").u32(8).u64(HUGE), "the value of `a` has 9223372036854775808 bytes"),
        (Bytes::begin(0, 1).text("a").u32(9).u32(8).u64(HUGE), "entries of `a` are not in the 0 bytes"),
        (
            Bytes::begin(0, 1).text("a").u32(9).u32(4).u64(3).raw(&[0; 8]),
            "3 entries of `a` are not in the 8 bytes",
        ),
    ] {
        assert!(bytes.error().contains(said), "{}", bytes.error());
    }
}

#[test]
fn broken_values_are_named() {
    let value = |kind: u32| Bytes::begin(0, 1).text("a").u32(kind);
    for (bytes, said) in [
        (value(77).raw(&[0; 8]), "a value of the unknown type 77 under `a`"),
        (value(7).raw(&[2]), "has 2 for the value of `a`"),
        (value(8).u64(2).raw(&[0xc3, 0x28]), "the value of `a` that is not UTF-8"),
        (value(9).u32(9).u64(0), "lists inside the list `a`"),
        (value(9).u32(78).u64(0), "entries of the unknown type 78 in `a`"),
        (value(9).u32(10).u64(1).u64(u64::MAX), "has 18446744073709551615 in `a`"),
        (Bytes::begin(0, 1).u64(1).raw(&[0xff; 30]), "the name of key 0 that is not UTF-8"),
        (Bytes::begin(0, 2).text("a").u32(7).raw(&[0]).text("a").u32(7).raw(&[0]), "has the key `a` twice"),
        (Bytes::begin(0, 1).text("general.alignment").u32(4).u32(0), "it must be a power of two"),
        (Bytes::begin(0, 1).text("general.alignment").u32(4).u32(48), "it must be a power of two"),
    ] {
        assert!(bytes.error().contains(said), "{}", bytes.error());
    }
}

#[test]
fn broken_tensors_are_named() {
    let kind = |kind: u32| Bytes::begin(1, 0).text("t").u32(1).u64(32).u32(kind).u64(0).ended(128);
    for (bytes, said) in [
        (kind(10), "tensor `t` is Q2_K; read are F32"),
        (kind(1000), "tensor `t` is of the unknown type 1000"),
        (Bytes::begin(1, 0).tensor("t", &[], 0).ended(32), "tensor `t` with 0 dimensions"),
        (Bytes::begin(1, 0).tensor("t", &[1; 5], 0).ended(32), "tensor `t` with 5 dimensions"),
        (Bytes::begin(1, 0).tensor("t", &[4, 0], 0).ended(32), "tensor `t` has dimensions [4, 0]"),
        (Bytes::begin(1, 0).tensor("t", &[1 << 40, 1 << 40], 0).ended(32), "tensor `t` has dimensions"),
        (Bytes::begin(1, 0).tensor("t", &[1 << 62], 0).ended(32), "tensor `t` has dimensions"),
        (Bytes::begin(1, 0).text("t").u32(1).u64(33).u32(2).u64(0).ended(64), "has rows of 33 numbers; Q4_0"),
        (
            Bytes::begin(1, 0).tensor("t", &[4], 8).ended(64),
            "begins at 8, which is no multiple of the alignment 32",
        ),
        (Bytes::begin(1, 0).tensor("t", &[4], u64::MAX - 31).ended(64), "is truncated in tensor `t`"),
        (Bytes::begin(1, 0).tensor("t", &[9], 0).ended(32), "is truncated in tensor `t`: 36 bytes"),
        (Bytes::begin(2, 0).tensor("t", &[4], 0).tensor("t", &[4], 32).ended(64), "has tensor `t` twice"),
        (
            Bytes::begin(2, 0).tensor("t", &[16], 0).tensor("u", &[4], 32).ended(64),
            "has tensors `t` and `u` in the same place",
        ),
    ] {
        assert!(bytes.error().contains(said), "{}", bytes.error());
    }
}
