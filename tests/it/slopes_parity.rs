//! Gradients of log-probabilities and entropies against PyTorch, for every parameter and on every gradient path.
//! `tests/fixtures/reference_losses.py` made the numbers and shares no code with longhaul. Fails when the derivative of
//! an entropy, or invariant 4 for it, is broken.

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use kernels::{
    ChunkPlan, Cpu, Decoder, GradientPath, LayerInputs, OnDevice, Packed, Slopes, TokenStats, TrainingEngine,
};
use safetensors::SafeTensors;

/// Of the norm of a tensor's gradient.
const RELATIVE_ERROR_MAX: f64 = 1e-4;

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// The recorded completions as sequences of tokens, and the slopes of the fixture's sum, which number the completion
/// tokens through.
fn recording() -> (Packed, Slopes) {
    let groups = rollout::read_groups(&fixtures().join("replay/completions.jsonl")).unwrap();
    let (mut packed, mut slopes) = (Packed::empty(), Slopes::default());
    let mut place = 0;
    for scored in groups.iter().flat_map(|group| &group.completions) {
        let prompt = &scored.completion.prompt.tokens;
        let ids = [&prompt[..], &scored.completion.token_ids()].concat();
        packed.push(&ids, None);
        for entry in 0..ids.len() {
            // Entry k belongs to token k + 1; the last one to none.
            let is_completion = (prompt.len() - 1..ids.len() - 1).contains(&entry);
            let number = f64::from(place);
            slopes.logprob.push(if is_completion { (0.9 * number).sin() as f32 } else { 0.0 });
            slopes.entropy.push(if is_completion { (1.3 * number).cos() as f32 } else { 0.0 });
            place += i32::from(is_completion);
        }
    }
    (packed, slopes)
}

fn norm(numbers: impl Iterator<Item = f64>) -> f64 {
    numbers.map(|number| number * number).sum::<f64>().sqrt()
}

#[test]
fn slopes_by_logprob_and_entropy_give_the_gradients_of_pytorch() {
    let bytes = std::fs::read(fixtures().join("slopes/gradients.safetensors")).unwrap();
    let expected = SafeTensors::deserialize(&bytes).unwrap();
    let decoder = Decoder::load(&fixtures().join("replay/model"), &Device::flex()).unwrap();
    let (packed, slopes) = recording();
    for (path, layer_chunk_tokens, head_chunk_tokens) in [
        (GradientPath::Unchunked, 1, 1),
        (GradientPath::Checkpointed, 1, 1),
        (GradientPath::StreamBp, 7, 3),
        (GradientPath::StreamBp, 1000, 1000),
    ] {
        let plan = ChunkPlan {
            path,
            layer_chunk_tokens,
            head_chunk_tokens,
            attention_kept_bytes: 0,
            activations_kept_bytes: 0,
            layer_inputs: LayerInputs::Memory,
            temperature: 0.85,
        };
        let engines: [&dyn TrainingEngine; 2] = [&Cpu::default(), &OnDevice::new(Device::flex())];
        for engine in engines {
            let mut sums = decoder.weights.tensors().zeros_like(engine.operations());
            let mut loss = |_: &TokenStats| slopes.clone();
            engine.gradients(&decoder, &packed, &plan, (&mut sums).into(), &mut loss).unwrap();
            for (name, sum) in sums.named() {
                let stored = expected.tensor(&format!("factors/{name}")).unwrap();
                let (numbers, _) = stored.data().as_chunks::<4>();
                let expected = numbers.iter().map(|bytes| f64::from(f32::from_le_bytes(*bytes)));
                let found: Vec<f64> = sum.to_data().iter::<f64>().collect();
                assert_eq!(found.len(), numbers.len(), "{name}");
                let error = norm(found.iter().zip(expected.clone()).map(|(a, b)| a - b)) / norm(expected);
                assert!(
                    error < RELATIVE_ERROR_MAX,
                    "{engine:?}, {path:?}: the gradient of {name} is off by {error}"
                );
            }
        }
    }
}
