//! Models whose files are in half precision: commands that only decode hold them as they are, and compute the same.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use safetensors::tensor::{Dtype, SafeTensors, TensorView};
use serde_json::Value;

use crate::binary::{longhaul, repository, success, text_of};

/// The quickstart's model with its matrices and norms in bf16, cut off and not rounded.
fn in_half_precision(to: &Path) -> String {
    let from = repository().join("models/quickstart");
    for name in ["config.json", "tokenizer.json", "tokenizer_config.json"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
    let bytes = fs::read(from.join("model.safetensors")).unwrap();
    let tensors = SafeTensors::deserialize(&bytes).unwrap();
    let halves: HashMap<String, (Vec<usize>, Vec<u8>)> = tensors
        .iter()
        .map(|(name, tensor)| {
            assert_eq!(tensor.dtype(), Dtype::F32);
            let upper = tensor.data().chunks_exact(4).flat_map(|each| [each[2], each[3]]);
            (name.to_owned(), (tensor.shape().to_vec(), upper.collect()))
        })
        .collect();
    let views = halves.iter().map(|(name, (shape, data))| {
        (name.clone(), TensorView::new(Dtype::BF16, shape.clone(), data).unwrap())
    });
    fs::write(to.join("model.safetensors"), safetensors::serialize(views, None).unwrap()).unwrap();
    to.to_str().unwrap().to_owned()
}

/// Log-probabilities of two texts under a model.
fn logprobs(model: &str, extra: &[&str]) -> Vec<f64> {
    let place = tempfile::tempdir().unwrap();
    let path = |name: &str| place.path().join(name).to_str().unwrap().to_owned();
    let (input, output) = (path("in.jsonl"), path("out.jsonl"));
    fs::write(&input, "{\"tokens\":[1,5,9,3,7,7,2,11,4]}\n{\"tokens\":[8,6,15,2,2]}\n").unwrap();
    let arguments = ["logprobs", "--model", model, "--input", &input, "--output", &output];
    success(&[&arguments[..], extra].concat());
    let text = fs::read_to_string(&output).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let numbers = |row: Value| -> Vec<f64> {
        row["logprobs"].as_array().unwrap().iter().map(|number| number.as_f64().unwrap()).collect()
    };
    let all: Vec<f64> = rows.flat_map(numbers).collect();
    assert_eq!(all.len(), 12);
    all
}

fn largest_difference(found: &[f64], expected: &[f64]) -> f64 {
    let differences = found.iter().zip(expected).map(|(found, expected)| (found - expected).abs());
    differences.fold(0.0, f64::max)
}

/// The training forward and cached decoding, by default and as asked for.
#[test]
fn files_in_half_precision_have_the_numbers_of_their_widened_weights() {
    let place = tempfile::tempdir().unwrap();
    let half = in_half_precision(place.path());
    let wide = logprobs(&half, &["--set", "model.dtype=f32"]);
    for extra in
        [&[][..], &["--cached"], &["--set", "model.dtype=bf16"], &["--cached", "--set", "model.dtype=f32"]]
    {
        let difference = largest_difference(&logprobs(&half, extra), &wide);
        assert!(difference < 1e-5, "{extra:?}: {difference}");
    }
    // Weights in f32 are rounded where they are asked for in bf16, and not by themselves.
    let whole = "models/quickstart";
    let exact = logprobs(whole, &[]);
    assert_eq!(logprobs(whole, &["--set", "model.dtype=f32"]), exact);
    for cached in [&[][..], &["--cached"]] {
        let rounded = logprobs(whole, &[&["--set", "model.dtype=bf16"][..], cached].concat());
        let difference = largest_difference(&rounded, &exact);
        assert!((1e-5..0.2).contains(&difference), "{cached:?}: {difference}");
    }
}

#[test]
fn an_answer_is_the_same_from_files_in_half_precision() {
    let place = tempfile::tempdir().unwrap();
    let half = in_half_precision(place.path());
    let prompt = ["generate", "--model", &half, "--prompt", "4+3*2-5=", "--set", "rollout.temperature=0"];
    let answer = success(&prompt);
    assert!(answer.trim().len() > 1, "{answer}");
    for dtype in ["model.dtype=f32", "model.dtype=bf16"] {
        assert_eq!(success(&[&prompt[..], &["--set", dtype]].concat()), answer, "{dtype}");
    }
    let refused = longhaul(&[&prompt[..], &["--set", "model.dtype=f16"]].concat());
    let said = text_of(&refused);
    assert!(!refused.status.success() && said.contains("model.dtype"), "{said}");
    assert!(said.contains("f16") && said.contains("bf16"), "{said}");
}

/// Passes with weights in bf16 that are all trained are for who embeds the learner.
#[test]
fn weights_in_bf16_are_refused_where_all_are_trained() {
    let refused = longhaul(&["check", "configs/quickstart.toml", "--set", "model.dtype=bf16"]);
    let said = text_of(&refused);
    assert!(
        !refused.status.success() && said.contains("model.dtype: bf16 is for the base of adapters"),
        "{said}"
    );
}
