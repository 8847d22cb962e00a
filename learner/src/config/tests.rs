//! What the sections accept, refuse and fill in.

use super::*;
use serde_json::json;

fn minimal() -> serde_json::Value {
    json!({
        "groups_per_step": 8, "batch_tokens_max": 4096, "dynamic_sampling": "drop",
        "advantage": {"kind": "grpo_lambda", "lambda": 0.2, "alpha": 0.2},
        "importance": {"kind": "pois"},
    })
}

fn read(value: serde_json::Value) -> Result<LearnerConfig, String> {
    serde_json::from_value(value).map_err(|error| error.to_string())
}

#[test]
fn a_method_that_is_not_named_is_off() {
    let config = read(minimal()).unwrap();
    assert!(!config.mpt.enabled && !config.kl.enabled && config.gradients == GradientsConfig::default());
    assert_eq!((config.mpt.tau, config.mpt.sigma), (0.99, 0.2));
    assert_eq!((config.clip.low, config.clip.high), (0.2, 0.2));
    config.check().unwrap();
}

#[test]
fn unknown_keys_are_refused_in_every_section() {
    for (pointer, section) in [
        ("/advantage", json!({"kind": "grpo", "lambda": 0.2})),
        ("/advantage", json!({"kind": "grpo_lambda", "lamda": 0.2})),
        ("/importance", json!({"kind": "sais", "cap": 2.0})),
        ("/mismatch", json!({"kind": "tis", "cup": 2.0})),
        ("/mismatch", json!({"kind": "none", "cap": 2.0})),
        ("/extra", json!(1)),
    ] {
        let mut config = minimal();
        config[&pointer[1..]] = section;
        let message = read(config).unwrap_err();
        assert!(message.contains("unknown field"), "{pointer}: {message}");
    }
}

fn streambp(config: &mut LearnerConfig) -> &mut StreambpConfig {
    config.gradients.streambp_mut().expect("the default")
}

/// Makes a config wrong in one place.
type Spoil = fn(&mut LearnerConfig);

#[test]
fn errors_name_the_key() {
    let cases: [(&str, Spoil); 13] = [
        ("learner.groups_per_step", |config| config.groups_per_step = 0),
        ("learner.batch_tokens_max", |config| config.batch_tokens_max = 0),
        ("learner.advantage.alpha", |config| {
            config.advantage =
                AdvantageConfig::GrpoLambda { lambda: 0.2, alpha: 1.5, surrogates: Surrogates::Ignore }
        }),
        ("learner.mismatch.cap", |config| config.mismatch = Some(MismatchConfig::Tis { cap: 0.0 })),
        ("learner.mismatch.cap", |config| config.mismatch = Some(MismatchConfig::Tis { cap: f64::INFINITY })),
        ("learner.mismatch.cap", |config| config.mismatch = Some(MismatchConfig::Tis { cap: f64::NAN })),
        ("learner.mismatch.kind", |config| {
            config.mismatch = Some(MismatchConfig::Tis { cap: 2.0 });
            config.importance.kind = ImportanceKind::Sais;
        }),
        ("learner.clip.high", |config| config.clip.high = -0.1),
        ("learner.mpt.tau", |config| config.mpt.tau = 1.5),
        ("learner.gradients.layer_chunk_tokens", |config| streambp(config).layer_chunk_tokens = 0),
        ("learner.gradients.layer_inputs_dir", |config| {
            streambp(config).layer_inputs_dir = Some("anywhere".into())
        }),
        ("learner.kl.coefficient", |config| config.kl.coefficient = f64::NAN),
        ("learner.kl.reference", |config| config.kl.enabled = true),
    ];
    for (key, spoil) in cases {
        let mut config = read(minimal()).unwrap();
        spoil(&mut config);
        let message = config.check().unwrap_err().to_string();
        assert!(message.starts_with(key), "{key}: {message}");
    }
}

#[test]
fn rounded_rollouts_are_corrected_by_default_and_others_are_not() {
    let by_default = MismatchConfig::by_default;
    assert_eq!(by_default(false, ImportanceKind::Pois), MismatchConfig::None {});
    assert_eq!(by_default(true, ImportanceKind::Pois), MismatchConfig::Tis { cap: 2.0 });
    assert_eq!(by_default(true, ImportanceKind::Sais), MismatchConfig::None {});
    let mut config = minimal();
    config["mismatch"] = json!({"kind": "tis"});
    let config = read(config).unwrap();
    assert_eq!(config.mismatch, Some(MismatchConfig::Tis { cap: 2.0 }));
    config.check().unwrap();
    assert_eq!(read(serde_json::to_value(&config).unwrap()).unwrap(), config);
}

#[test]
fn what_is_written_is_read_again() {
    let config = read(minimal()).unwrap();
    assert_eq!(read(serde_json::to_value(&config).unwrap()).unwrap(), config);
}
