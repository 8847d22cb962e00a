//! Sliding windows as the config files of several families say them: `use_sliding_window`, `sliding_window` and
//! `layer_types`.

use serde_json::{Value, json};

use crate::KernelError;
use crate::model::config::DecoderConfig;
use crate::model::keys::Keys;
use crate::model::spec::{AttentionVariant, ModelSpec};
use crate::rope::{Rope, RopeScaling};

/// The word for a layer without a window in `layer_types`.
pub(super) const FULL: &str = "full_attention";
/// The word for a layer with one.
pub(super) const SLIDING: &str = "sliding_attention";

/// Whether the layers have a window by `layer_types`, in their order; `None` where the key is absent.
pub(super) fn layer_types(keys: &Keys<'_>, layers: usize) -> Result<Option<Vec<bool>>, KernelError> {
    let Some(types) = keys.get("layer_types") else { return Ok(None) };
    let kinds = types.as_array().filter(|kinds| kinds.len() == layers).ok_or_else(|| {
        keys.wrong("layer_types", format!("is no list of `num_hidden_layers` {layers} entries"))
    })?;
    let kind = |kind: &Value| match kind.as_str() {
        Some(FULL) => Ok(false),
        Some(SLIDING) => Ok(true),
        _ => Err(keys.wrong("layer_types", format!("has {kind}; computed are {FULL} and {SLIDING}"))),
    };
    kinds.iter().map(kind).collect::<Result<_, _>>().map(Some)
}

/// The `sliding_window` of a file, with the class default where the key is absent.
pub(super) fn window(keys: &Keys<'_>, default: Option<usize>) -> Result<Option<usize>, KernelError> {
    match keys.size("sliding_window")? {
        Some(0) => Err(keys.wrong("sliding_window", "is 0; a token sees itself")),
        None if !keys.map.contains_key("sliding_window") => Ok(default),
        stated => Ok(stated),
    }
}

/// The window of each layer in families whose files switch it on by `use_sliding_window`. Without `layer_types`,
/// `slides` says which layers have it.
pub(super) fn switched_windows(
    keys: &Keys<'_>,
    layers: usize,
    default: Option<usize>,
    slides: impl Fn(usize) -> bool,
) -> Result<Vec<Option<usize>>, KernelError> {
    let is_on = keys.flag("use_sliding_window")?.unwrap_or(false);
    let window = window(keys, default)?.filter(|_| is_on);
    let types = layer_types(keys, layers)?;
    if window.is_none() && types.iter().flatten().any(|slides| *slides) {
        let reason = format!("has {SLIDING}, but `use_sliding_window` and `sliding_window` set no window");
        return Err(keys.wrong("layer_types", reason));
    }
    let slides = |layer: usize| types.as_ref().map_or_else(|| slides(layer), |types| types[layer]);
    Ok((0..layers).map(|layer| window.filter(|_| slides(layer))).collect())
}

/// Attention of the layers, as one variant where all are equal.
pub(super) fn variants(all: impl IntoIterator<Item = AttentionVariant>) -> Vec<AttentionVariant> {
    let mut variants: Vec<_> = all.into_iter().collect();
    if variants.windows(2).all(|pair| pair[0] == pair[1]) {
        variants.truncate(1);
    }
    variants
}

/// [`variants`] of layers that have the same frequencies.
pub(super) fn with_windows(rope: &Rope, windows: Vec<Option<usize>>) -> Vec<AttentionVariant> {
    variants(windows.into_iter().map(|window| AttentionVariant { window, rope: rope.clone() }))
}

/// Writes the windows of a family whose files switch them on.
pub(super) fn write_switched(config: &DecoderConfig, value: &mut Value) {
    let windows: Vec<_> = (0..config.layers).map(|layer| config.spec.attention_of(layer).window).collect();
    let first = windows.iter().position(Option::is_some);
    value["use_sliding_window"] = json!(first.is_some());
    if let Some(first) = first {
        value["sliding_window"] = json!(windows[first]);
        // transformers before 4.52 reads this one.
        value["max_window_layers"] = json!(first);
        let kind = |window: &Option<usize>| if window.is_some() { SLIDING } else { FULL };
        value["layer_types"] = json!(windows.iter().map(kind).collect::<Vec<_>>());
    }
}

/// Whether the layers differ by their windows alone, which all have one size, and by whether they rotate.
pub(super) fn one_window(spec: &ModelSpec) -> bool {
    let mut windows = spec.attention.iter().filter_map(|variant| variant.window);
    let first = windows.next();
    let rope = spec.rope();
    windows.all(|window| Some(window) == first)
        && spec.attention.iter().all(|own| own.rope == *rope || own.rope.scaling == RopeScaling::Absent)
}

/// [`one_window`], and all layers rotate.
pub(super) fn one_window_and_rope(spec: &ModelSpec) -> bool {
    one_window(spec) && spec.ropes().len() == 1
}
