//! Which shapes of a new decoder can be: asked for by `[model.create]` and by the measurements.

use kernels::{DecoderConfig, LlamaShape};

/// A size of a shape that cannot be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct ShapeFault {
    /// The field of [`LlamaShape`].
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

/// Checks that there can be a decoder of this shape, before one is made.
///
/// # Errors
/// The first field whose value cannot be.
pub fn check_shape(shape: &LlamaShape) -> Result<(), ShapeFault> {
    let fault = |field: &'static str, reason: String| Err(ShapeFault { field, reason });
    let &LlamaShape { hidden, layers, heads, kv_heads, .. } = shape;
    let sizes = [
        ("hidden", hidden),
        ("layers", layers),
        ("heads", heads),
        ("kv_heads", kv_heads),
        ("intermediate", shape.intermediate),
        ("vocabulary", shape.vocabulary),
        ("positions", shape.positions),
    ];
    if let Some((field, _)) = sizes.iter().find(|(_, size)| *size == 0) {
        return fault(field, "must be at least 1, got 0".to_owned());
    }
    // The two halves of a head are rotated against each other.
    if !hidden.is_multiple_of(2 * heads) {
        return fault("heads", format!("{heads} heads of an even width do not divide hidden = {hidden}"));
    }
    if !heads.is_multiple_of(kv_heads) {
        return fault("kv_heads", format!("{kv_heads} does not divide heads = {heads}"));
    }
    if !(shape.rope_theta.is_finite() && shape.rope_theta > 0.0) {
        return fault("rope_theta", format!("must be above 0, got {}", shape.rope_theta));
    }
    // What every decoder must obey, whatever it is made from.
    DecoderConfig::llama(*shape).check().or_else(|reason| fault("shape", reason))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_that_cannot_be_is_named() {
        let shape = LlamaShape {
            hidden: 64,
            layers: 2,
            heads: 4,
            kv_heads: 2,
            intermediate: 96,
            vocabulary: 24,
            positions: 128,
            rms_eps: 1e-6,
            rope_theta: 10_000.0,
        };
        let fault = |shape: LlamaShape| check_shape(&shape).map_err(|fault| fault.to_string());
        assert_eq!(fault(shape), Ok(()));
        for (other, said) in [
            (LlamaShape { layers: 0, ..shape }, "layers: must be at least 1, got 0"),
            (LlamaShape { heads: 3, ..shape }, "heads: 3 heads of an even width do not divide hidden = 64"),
            (LlamaShape { hidden: 60, ..shape }, "heads: 4 heads of an even width do not divide hidden = 60"),
            (LlamaShape { kv_heads: 3, ..shape }, "kv_heads: 3 does not divide heads = 4"),
            (LlamaShape { rope_theta: 0.0, ..shape }, "rope_theta: must be above 0, got 0"),
        ] {
            assert_eq!(fault(other), Err(said.to_owned()));
        }
        let deep = fault(LlamaShape { layers: 1 << 20, ..shape }).unwrap_err();
        assert!(deep.starts_with("shape: `num_hidden_layers` is 1048576"), "{deep}");
    }
}
