//! Experts of a layer that a file has in one tensor, as transformers holds them in memory and writes them where it is told
//! to (`save_original_format = False`). The header is read as if each projection of each expert had a tensor of its own:
//! its rows lie in one piece.

use std::collections::HashSet;

use safetensors::Dtype;
use safetensors::tensor::{Metadata, TensorInfo};

/// Experts of a layer that are taken apart.
const EXPERTS_MAX: usize = 1 << 12;

/// Bytes that a projection has at least, so that a header takes no more memory than its file.
const PROJECTION_BYTES_MIN: usize = 64;

/// Ends of names of such tensors, with the projections that lie in it one behind the other for each expert.
const FUSED: [(&str, &[&str]); 2] =
    [("mlp.experts.gate_up_proj", &["gate_proj", "up_proj"]), ("mlp.experts.down_proj", &["down_proj"])];

/// The header with such tensors taken apart.
///
/// # Errors
/// If a projection stands in the file twice.
pub(super) fn apart(metadata: Metadata) -> Result<Metadata, String> {
    let names = metadata.offset_keys();
    if !names.iter().any(|name| FUSED.iter().any(|(end, _)| name.ends_with(end))) {
        return Ok(metadata);
    }
    let mut tensors = Vec::with_capacity(names.len());
    for name in names {
        let info = metadata.info(&name).expect("the name comes from this header");
        match parts(&name, info) {
            Some(parts) => tensors.extend(parts),
            None => tensors.push((name, info.clone())),
        }
    }
    let mut seen = HashSet::new();
    if let Some((name, _)) = tensors.iter().find(|(name, _)| !seen.insert(name.as_str())) {
        return Err(format!("has tensor `{name}` both by itself and among those of all experts"));
    }
    Metadata::new(metadata.metadata().clone(), tensors).map_err(|error| error.to_string())
}

/// The projections of a tensor that has those of all experts.
fn parts(name: &str, info: &TensorInfo) -> Option<Vec<(String, TensorInfo)>> {
    let (layer, projections) =
        FUSED.iter().find_map(|(end, projections)| Some((name.strip_suffix(end)?, *projections)))?;
    let [experts, rows, columns] = *info.shape.as_slice() else { return None };
    let (mut start, end) = info.data_offsets;
    let count = experts.checked_mul(projections.len()).filter(|_| (1..=EXPERTS_MAX).contains(&experts))?;
    let bytes = (end - start) / count;
    let is_read = matches!(info.dtype, Dtype::F32 | Dtype::BF16 | Dtype::F16);
    if !is_read || bytes < PROJECTION_BYTES_MIN || !rows.is_multiple_of(projections.len()) {
        return None;
    }
    let mut parts = Vec::with_capacity(count);
    for expert in 0..experts {
        for projection in projections {
            let own = TensorInfo {
                dtype: info.dtype,
                shape: vec![rows / projections.len(), columns],
                data_offsets: (start, start + bytes),
            };
            parts.push((format!("{layer}mlp.experts.{expert}.{projection}.weight"), own));
            start += bytes;
        }
    }
    Some(parts)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::path::Path;

    use burn::tensor::Device;
    use safetensors::tensor::TensorView;
    use safetensors::{Dtype, SafeTensors};

    use crate::flex::StoredNumbers;
    use crate::model::config::DecoderConfig;
    use crate::model::files::{check, load};

    const FILE: &str = "model.safetensors";

    /// A tensor of a file: shape and bytes of f32.
    type Raw = (Vec<usize>, Vec<u8>);

    fn fixture() -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/parity/qwen3_moe_normalised")
    }

    /// The tensors of the fixture, those of experts together.
    fn fused() -> BTreeMap<String, Raw> {
        let bytes = std::fs::read(fixture().join(FILE)).unwrap();
        let file = SafeTensors::deserialize(&bytes).unwrap();
        let mut tensors: BTreeMap<String, Raw> = BTreeMap::new();
        // The order of the names is that of the experts, as there are fewer than ten, and of gate before up.
        let mut names = file.names();
        names.sort();
        for name in names {
            let view = file.tensor(name).unwrap();
            assert_eq!(view.dtype(), Dtype::F32);
            let (name, shape) = match name.split_once(".experts.") {
                None => (name.to_owned(), view.shape().to_vec()),
                Some((layer, own)) => {
                    let end = if own.contains("down") { "down_proj" } else { "gate_up_proj" };
                    (format!("{layer}.experts.{end}"), [&[1][..], view.shape()].concat())
                }
            };
            let own = tensors.entry(name.clone()).or_insert_with(|| (shape.clone(), Vec::new()));
            own.1.extend(view.data());
        }
        for (name, (shape, bytes)) in &mut tensors {
            if name.contains(".experts.") {
                shape[1] *= if name.ends_with("down_proj") { 1 } else { 2 };
                shape[0] = bytes.len() / 4 / (shape[1] * shape[2]);
            }
        }
        tensors
    }

    fn write(dir: &Path, tensors: &BTreeMap<String, Raw>) {
        let views = tensors.iter().map(|(name, (shape, bytes))| {
            (name.clone(), TensorView::new(Dtype::F32, shape.clone(), bytes).unwrap())
        });
        std::fs::write(dir.join(FILE), safetensors::serialize(views, None).unwrap()).unwrap();
    }

    #[test]
    fn experts_in_one_tensor_are_the_experts_of_the_model() {
        let (config, dir) = (DecoderConfig::read(&fixture()).unwrap(), tempfile::tempdir().unwrap());
        write(dir.path(), &fused());
        check(dir.path(), &config).unwrap();
        let [found, expected] = [dir.path(), fixture().as_path()].map(|dir| {
            let weights = load(dir, &config, &Device::flex()).unwrap();
            let all = weights.named();
            let numbers = all
                .iter()
                .map(|(name, value)| (name.clone(), StoredNumbers::of(value).numbers().into_owned()));
            numbers.collect::<BTreeMap<_, _>>()
        });
        assert!(found.keys().any(|name| name.contains(".experts.7.up_proj")));
        assert!(found == expected);
    }

    #[test]
    fn experts_of_other_sizes_and_twice_are_refused_by_name() {
        let (config, dir) = (DecoderConfig::read(&fixture()).unwrap(), tempfile::tempdir().unwrap());
        let refusal = |tensors: &BTreeMap<String, Raw>| {
            write(dir.path(), tensors);
            let error = check(dir.path(), &config).unwrap_err().to_string();
            assert_eq!(load(dir.path(), &config, &Device::flex()).unwrap_err().to_string(), error);
            assert!(error.contains(FILE), "{error}");
            error
        };
        let (good, name) = (fused(), "model.layers.0.mlp.experts.down_proj");
        let mut fewer = good.clone();
        let (shape, bytes) = fewer.get_mut(name).unwrap();
        bytes.truncate(bytes.len() / shape[0] * 7);
        shape[0] = 7;
        assert!(refusal(&fewer).contains("lacks tensor `model.layers.0.mlp.experts.7.down_proj.weight`"));
        let mut turned = good.clone();
        turned.get_mut(name).unwrap().0.swap(1, 2);
        assert!(refusal(&turned).contains("has shape [12, 24]"), "{}", refusal(&turned));
        let mut twice = good.clone();
        twice.insert(
            "model.layers.0.mlp.experts.3.down_proj.weight".to_owned(),
            (vec![24, 12], vec![0; 24 * 12 * 4]),
        );
        assert!(refusal(&twice).contains("experts.3.down_proj.weight` both by itself and among"));
        let mut flat = good;
        let (shape, _) = flat.get_mut(name).unwrap();
        *shape = vec![shape[0] * shape[1], shape[2]];
        assert!(refusal(&flat).contains("`model.layers.0.mlp.experts.down_proj`, for which"));
    }
}
