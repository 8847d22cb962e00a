//! Reads any bytes as a GGUF file: nothing may panic, take memory beyond what the bytes justify, or place a tensor
//! outside of them.

#![no_main]

use std::path::Path;

use kernels::{GgufHeader, GgufModel};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(header) = GgufHeader::read(Path::new("fuzzed.gguf"), bytes, bytes.len() as u64) else { return };
    for tensor in &header.tensors {
        let place = tensor.start as usize..(tensor.start + tensor.bytes) as usize;
        let stored = &bytes[place];
        let mut numbers = vec![0.0; tensor.numbers() as usize];
        tensor.kind.decode(stored, &mut numbers);
    }
    let _ = GgufModel::config_of(&header);
});
