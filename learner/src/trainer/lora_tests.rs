//! Training of adapters alone: what moves, what does not, and what a checkpoint of it holds.

use std::path::Path;

use burn::tensor::Device;
use kernels::{Decoder, GradientSums, Lora};
use safetensors::View;

use super::*;
use crate::checkpoint::{self, Restore};
use crate::config::{GradientsConfig, LearnerConfig, SftConfig};
use crate::optimizer::moments::Moment;
use crate::testing::{
    adapted, cpu, decoder, groups, learner_config, lora_section, optimizer_config, relative_error,
    trained_of, weights_of,
};

const TARGETS: [&str; 3] = ["q_proj", "v_proj", "down_proj"];

fn config() -> LearnerConfig {
    LearnerConfig { lora: Some(lora_section(&TARGETS)), ..learner_config() }
}

fn base(letter: &str) -> BaseModel {
    BaseModel { path: format!("/models/{letter}").into(), sha256: letter.repeat(64) }
}

fn learner_of(config: LearnerConfig, decoder: Decoder, optimizer: &str) -> Trainer {
    let learner = Trainer::new(cpu(), decoder, config, optimizer_config(optimizer), 1.0, 10, None).unwrap();
    learner.with_base(Some(base("a")))
}

fn learner(optimizer: &str) -> Trainer {
    learner_of(config(), adapted(decoder(1), &TARGETS), optimizer)
}

/// Numbers of each matrix of the adapters.
fn matrices(decoder: &Decoder) -> Vec<(String, Vec<f32>)> {
    let numbers = |tensor: &burn::tensor::Tensor<2>| tensor.to_data().iter::<f32>().collect();
    decoder.trained().into_iter().map(|own| (own.name, numbers(own.value))).collect()
}

// The worst fault is an adapter that trains nothing, and the next one a base that moves.
#[test]
fn every_matrix_of_the_adapters_moves_and_no_parameter_of_the_base() {
    for optimizer in ["adamw", "sgd"] {
        let mut learner = learner(optimizer);
        let (frozen, before) = (weights_of(learner.decoder()), matrices(learner.decoder()));
        assert_eq!(before.len(), 2 * 3 * 2, "A and B of three projections in two layers");
        let report = learner.step(&groups()).unwrap();
        assert!(report.update.unwrap().grad_norm > 0.0);
        assert_eq!(weights_of(learner.decoder()), frozen);
        for ((name, before), (_, after)) in before.iter().zip(matrices(learner.decoder())) {
            assert_ne!(*before, after, "{optimizer}: {name} has not moved");
        }
    }
}

/// A new adapter adds nothing: the first step moves B alone, and the second one A too.
#[test]
fn a_new_adapter_begins_to_move_by_b() {
    let mut model = decoder(1);
    let form = lora_section(&TARGETS).form();
    model.lora = Some(Lora::new(form, &model.config, Path::new("base"), 3, &Device::flex()).unwrap());
    let mut learner = learner_of(config(), model.clone(), "sgd");
    let plain = Trainer::new(cpu(), decoder(1), learner_config(), optimizer_config("sgd"), 1.0, 10, None);
    let moved = |before: &Decoder, after: &Decoder, part: &str| {
        let pairs = matrices(before).into_iter().zip(matrices(after));
        let mut of_part = pairs.filter(|((name, _), _)| name.contains(part)).peekable();
        assert!(of_part.peek().is_some());
        of_part.map(|((_, before), (_, after))| before != after).collect::<Vec<_>>()
    };
    let report = learner.step(&groups()).unwrap();
    // The loss of the first step is that of the base.
    let expected = plain.unwrap().step(&groups()).unwrap().update.unwrap().loss;
    let loss = report.update.unwrap().loss;
    assert!((loss - expected).abs() < 1e-9, "{loss} and {expected}");
    assert!(moved(&model, learner.decoder(), "lora_B").into_iter().all(|moved| moved));
    assert!(moved(&model, learner.decoder(), "lora_A").into_iter().all(|moved| !moved));
    let first = learner.decoder().clone();
    learner.step(&groups()).unwrap();
    assert!(moved(&first, learner.decoder(), "lora_A").into_iter().all(|moved| moved));
}

/// The gradients are those that whole matrices would have had, by the chain rule.
#[test]
fn a_step_of_descent_follows_the_gradient_of_the_sum() {
    let model = adapted(decoder(1), &TARGETS);
    let mut whole =
        Trainer::new(cpu(), model.clone().merged(), learner_config(), optimizer_config("sgd"), 1.0, 10, None)
            .unwrap();
    let mut adapters = learner("sgd");
    let rate = optimizer_config("sgd").learning_rate;
    let merged = model.clone().merged();
    whole.step(&groups()).unwrap();
    adapters.step(&groups()).unwrap();
    let lora = model.lora.as_ref().unwrap();
    let mut expected = Vec::new();
    let (before, after) = (merged.weights.tensors().named(), whole.decoder().weights.tensors().named());
    for ((_, adapter), ((_, before), (_, after))) in
        lora.adapters.named().into_iter().zip(before.into_iter().zip(after))
    {
        let Some(adapter) = adapter else { continue };
        let gradient = (before.clone() - after.clone()) * (adapter.scale / rate);
        let a = adapter.a.clone() - adapter.b.clone().transpose().matmul(gradient.clone()) * rate;
        let b = adapter.b.clone() - gradient.matmul(adapter.a.clone().transpose()) * rate;
        expected.extend([a, b].iter().flat_map(|matrix| matrix.to_data().iter::<f32>().collect::<Vec<_>>()));
    }
    let error = relative_error(&trained_of(adapters.decoder()), &expected);
    assert!(error < 1e-4, "{error}");
}

// Invariant 6 for adapters.
#[test]
fn no_cut_changes_the_update_of_adapters() {
    let step = |tokens, layer_chunk, head_chunk, whole: bool| {
        let mut config = LearnerConfig { batch_tokens_max: tokens, ..config() };
        if whole {
            config.gradients = GradientsConfig::Whole {};
        } else {
            let chunks = config.gradients.streambp_mut().unwrap();
            (chunks.layer_chunk_tokens, chunks.head_chunk_tokens) = (layer_chunk, head_chunk);
        }
        let mut learner = learner_of(config, adapted(decoder(1), &TARGETS), "sgd");
        learner.step(&groups()).unwrap();
        trained_of(learner.decoder())
    };
    let expected = step(1000, 1, 1, true);
    for (tokens, layer, head) in [(1, 1, 1), (20, 7, 3), (40, 500, 500), (1000, 16, 1000)] {
        let error = relative_error(&step(tokens, layer, head, false), &expected);
        assert!(error < 1e-5, "budget {tokens}, chunks {layer} and {head}: {error}");
    }
}

/// As torch's AdamW: every matrix decays, one of a single row too.
#[test]
fn all_matrices_of_adapters_decay() {
    let mut section = lora_section(&TARGETS);
    section.rank = 1;
    let mut model = decoder(1);
    let lora = Lora::new(section.form(), &model.config, Path::new("base"), 3, &Device::flex()).unwrap();
    model.lora = Some(lora);
    assert!(model.trained().iter().all(|own| own.is_matrix));
    let mut optimizer = optimizer_config("sgd");
    optimizer.weight_decay = 0.5;
    let config = LearnerConfig { lora: Some(section), ..learner_config() };
    let before = trained_of(&model);
    let mut learner = Trainer::new(cpu(), model, config, optimizer, 1.0, 10, None).unwrap();
    // Only equal rewards: nothing but decay.
    learner.step(&groups()[1..]).unwrap();
    let kept = 1.0 - 0.5 * 0.5;
    let expected: Vec<f32> = before.iter().map(|number| number * kept).collect();
    assert!(relative_error(&trained_of(learner.decoder()), &expected) < 1e-6);
    assert!(before.iter().any(|number| *number != 0.0));
}

#[test]
fn moments_and_gradients_are_those_of_adapters_alone() {
    let mut learner = learner("adamw");
    learner.step(&groups()).unwrap();
    let trained = learner.decoder().trained_count();
    let moments = learner.state.optimizer.moments.as_ref().unwrap();
    let bytes: usize = moments.iter().flat_map(Moment::stored).map(|(_, tensor)| tensor.data_len()).sum();
    assert_eq!(bytes, 2 * 4 * trained);
    let gradients = learner.state.gradients();
    assert!(matches!(gradients, GradientSums::LowRank(_)));
    assert_eq!(
        gradients.values().iter().map(|sum| sum.dims().iter().product::<usize>()).sum::<usize>(),
        trained
    );
}

#[test]
fn a_config_and_a_model_that_disagree_are_refused() {
    let new = |config, decoder| {
        let learner = Trainer::new(cpu(), decoder, config, optimizer_config("sgd"), 1.0, 10, None);
        learner.unwrap_err().to_string()
    };
    let message = new(config(), decoder(1));
    assert!(message.starts_with("learner.lora: the model has no adapters"), "{message}");
    let message = new(learner_config(), adapted(decoder(1), &TARGETS));
    assert!(message.starts_with("learner.lora: is missing, and the model has adapters"), "{message}");
    let message = new(config(), adapted(decoder(1), &["q_proj", "v_proj"]));
    assert!(
        message.starts_with("learner.lora: target_modules: ") && message.contains("down_proj"),
        "{message}"
    );
    let sft = SftConfig { batch_tokens_max: 64, gradients: GradientsConfig::default(), lora: None };
    let adapters = adapted(decoder(1), &TARGETS);
    let message = Trainer::supervised(cpu(), adapters, sft, optimizer_config("sgd"), 1).unwrap_err();
    assert!(message.to_string().starts_with("sft.lora: is missing"), "{message}");
}

/// The penalty needs no second model.
#[test]
fn the_reference_is_the_model_without_its_adapters() {
    let with_penalty = |reference: Option<Decoder>| {
        let mut config = config();
        config.kl = serde_json::from_value(serde_json::json!({"enabled": true, "coefficient": 0.1})).unwrap();
        let model = adapted(decoder(1), &TARGETS);
        let mut learner =
            Trainer::new(cpu(), model, config, optimizer_config("sgd"), 1.0, 10, reference).unwrap();
        let kl = learner.step(&groups()).unwrap().update.unwrap().tokens.unwrap().kl.unwrap();
        (kl, trained_of(learner.decoder()))
    };
    let own = with_penalty(None);
    assert!(own.0 > 0.0, "adapters must lead away from the base");
    assert_eq!(own, with_penalty(Some(decoder(1))));
}

fn load(dir: &Path) -> Decoder {
    let home = dir.parent().unwrap();
    let place = kernels::ModelPlace { base: home.join("base"), adapter: Some(dir.to_owned()) };
    Decoder::load_at(&place, &kernels::model::families::ALL, &Device::flex()).unwrap()
}

fn resumed(dir: &Path, base: BaseModel) -> Result<Trainer, LearnerError> {
    let mut learner = learner_of(config(), load(dir), "adamw").with_base(Some(base));
    checkpoint::load(dir, &mut learner, Restore::Everything)?;
    Ok(learner)
}

// Invariant 9 for adapters.
#[test]
fn a_checkpoint_holds_adapters_alone_and_a_resumed_run_is_the_run() {
    let home = tempfile::tempdir().unwrap();
    decoder(1).save(&home.path().join("base")).unwrap();
    let dir = home.path().join("step-2");
    let mut unbroken = learner("adamw");
    unbroken.step(&groups()).unwrap();
    unbroken.step(&groups()).unwrap();
    checkpoint::save(&dir, &unbroken, &[]).unwrap();
    let files = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name());
    let mut files: Vec<String> = files.map(|name| name.to_string_lossy().into_owned()).collect();
    files.sort();
    let expected = [
        "adapter_config.json",
        "adapter_model.safetensors",
        "manifest.json",
        "optimizer.safetensors",
        "trainer_state.json",
    ];
    assert_eq!(files, expected);
    let moments = std::fs::metadata(dir.join("optimizer.safetensors")).unwrap().len();
    let numbers = 2 * 4 * unbroken.decoder().trained_count() as u64;
    assert!(moments > numbers && moments < numbers + 8192, "{moments} bytes for {numbers}");
    let mut resumed = resumed(&dir, base("a")).unwrap();
    assert_eq!(resumed.version(), 2);
    assert_eq!(trained_of(resumed.decoder()), trained_of(unbroken.decoder()));
    let (one, other) = (unbroken.step(&groups()).unwrap(), resumed.step(&groups()).unwrap());
    assert_eq!(one.update, other.update);
    assert_eq!(trained_of(unbroken.decoder()), trained_of(resumed.decoder()));
}

#[test]
fn a_checkpoint_of_another_base_is_refused_by_name() {
    let home = tempfile::tempdir().unwrap();
    decoder(1).save(&home.path().join("base")).unwrap();
    let dir = home.path().join("step-0");
    checkpoint::save(&dir, &learner("adamw"), &[]).unwrap();
    let message = resumed(&dir, base("b")).unwrap_err().to_string();
    assert!(
        message.contains("belong to the model of /models/a") && message.contains("/models/b is another"),
        "{message}"
    );
    // Where it lies does not matter.
    resumed(&dir, BaseModel { path: "/elsewhere".into(), ..base("a") }).unwrap();
    let mut whole =
        Trainer::new(cpu(), decoder(1), learner_config(), optimizer_config("adamw"), 1.0, 10, None).unwrap();
    let message = checkpoint::load(&dir, &mut whole, Restore::Optimizer).unwrap_err().to_string();
    assert!(message.contains("a run that trained adapters to the model of /models/a"), "{message}");
    let other = home.path().join("whole");
    checkpoint::save(&other, &whole, &[]).unwrap();
    let message =
        checkpoint::load(&other, &mut learner("adamw"), Restore::Optimizer).unwrap_err().to_string();
    assert!(message.contains("a run that trained all weights"), "{message}");
}
