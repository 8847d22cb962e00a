//! The header of a safetensors file. The crate's own reader keeps every value of it in a form of its own before it knows what
//! they are, which takes some sixty times the bytes of a list of numbers, and takes the last of two tensors of one name.

use std::collections::{HashMap, HashSet};
use std::fmt;

use safetensors::tensor::{Metadata, TensorInfo};
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

/// The key under which what is no tensor stands.
const BESIDE: &str = "__metadata__";

/// Reads a header.
///
/// # Errors
/// Says what is wrong, with the tensor where it is one.
pub(super) fn parse(header: &[u8]) -> Result<Metadata, String> {
    let broken = |reason: String| format!("has a broken safetensors header: {reason}");
    let Header { beside, mut tensors } =
        serde_json::from_slice(header).map_err(|error| broken(error.to_string()))?;
    if let Some((name, TensorInfo { dtype, shape, data_offsets: (start, end) })) =
        tensors.iter().find(|(_, info)| !fits(info))
    {
        return Err(broken(format!(
            "tensor `{name}` of type {dtype:?} and shape {shape:?} cannot lie from {start} to {end}"
        )));
    }
    tensors.sort_by_key(|(_, info)| info.data_offsets);
    Metadata::new(beside, tensors).map_err(|error| broken(error.to_string()))
}

/// Whether a tensor has as many bytes as its shape and type make.
fn fits(info: &TensorInfo) -> bool {
    let bits = info.shape.iter().try_fold(info.dtype.bitsize(), |bits, size| bits.checked_mul(*size));
    let (start, end) = info.data_offsets;
    bits.filter(|bits| bits.is_multiple_of(8)).map(|bits| bits / 8) == end.checked_sub(start) && end >= start
}

struct Header {
    beside: Option<HashMap<String, String>>,
    tensors: Vec<(String, TensorInfo)>,
}

impl<'de> Deserialize<'de> for Header {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(HeaderVisitor)
    }
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Header;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object of tensors")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Header, M::Error> {
        let mut header = Header { beside: None, tensors: Vec::new() };
        let mut names = HashSet::new();
        while let Some(name) = map.next_key::<String>()? {
            if name == BESIDE {
                header.beside = map.next_value()?;
                continue;
            }
            if !names.insert(name.clone()) {
                return Err(M::Error::custom(format!("tensor `{name}` stands twice")));
            }
            header.tensors.push((name, map.next_value()?));
        }
        Ok(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tensors_come_with_their_places() {
        let metadata = parse(
            br#"{"b": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]}, "__metadata__": {"format": "pt"},
                "a": {"dtype": "F16", "shape": [1, 2], "data_offsets": [0, 4]}}  "#,
        )
        .unwrap();
        assert_eq!(metadata.offset_keys(), ["a", "b"]);
        assert_eq!((metadata.data_len(), &metadata.info("a").unwrap().shape[..]), (12, &[1, 2][..]));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (header, said) in [
            (
                r#"{"a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}, "a": 1}"#,
                "tensor `a` stands twice",
            ),
            (r#"{"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}"#, "tensor `a` of type"),
            (r#"{"a": {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]}}"#, "`a`"),
            (
                r#"{"a": {"dtype": "F32", "shape": [1], "shape": [1], "data_offsets": [0, 4]}}"#,
                "duplicate field",
            ),
            (r#"{"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}"#, "line 1"),
            ("[]", "an object of tensors"),
            ("{", "EOF"),
        ] {
            let error = parse(header.as_bytes()).unwrap_err();
            assert!(error.starts_with("has a broken") && error.contains(said), "{header}: {error}");
        }
    }
}
