//! Damaged files of every kind that is read are read, or refused by an error that names them: without a panic, without
//! memory that the file does not justify, and in time.
//!
//! The files are made of good ones by fixed rules (`damage/mutations.rs`) or written to do harm (`damage/hostile.rs`). Those
//! of a kind are read in a process of their own, which has a limit of memory and of time and tells after each file how far
//! the memory in use had grown. `LONGHAUL_DAMAGED_FILES=10000 cargo test --workspace --test it damage` makes as many of each
//! good file, which is a search for faults that the tests do not know yet.

mod cases;
mod hostile;
mod mutations;
mod readers;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use burn::tensor::Device;
use kernels::Decoder;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use cases::{CaseFile, Good, Kind};

use crate::binary::repository;

/// The variable that tells a test that it is the process that reads.
const READER_VARIABLE: &str = "LONGHAUL_READS_DAMAGED";

/// What begins a line that is told of a file.
const BEGUN: &str = "begun: ";
const TOLD: &str = "told: ";

/// The least number of files of a kind.
const FILES_MIN: usize = 200;

/// Memory that reading may take beside the file: what a process fills once, and of templates the work that one prompt may
/// take.
fn beside_mib(kind: Kind) -> u64 {
    match kind {
        Kind::ChatTemplates | Kind::PromptTemplates => 96,
        _ => 24,
    }
}

/// How many times its size a file may take.
const TIMES_MAX: u64 = 24;

/// The stack that files are read on: threads of a run have no more.
const STACK_BYTES: usize = 2 << 20;

/// Seconds for one file, on a machine that does other work too.
const SECONDS_MAX: f64 = 20.0;

/// Bytes of an error: a message is read by a person.
const MESSAGE_BYTES_MAX: usize = 4000;

/// What became of a file.
#[derive(Debug, Deserialize, Serialize)]
struct Told {
    name: String,
    outcome: Outcome,
    /// Why it was refused, or what the panic said.
    reason: String,
    /// Bytes of the file and those beside it.
    bytes: u64,
    /// How far the memory in use had grown.
    grown_kib: u64,
    seconds: f64,
}

#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
enum Outcome {
    Read,
    Refused,
    Panicked,
}

/// Reads all files of a kind in another process, which is this test again, and looks at what it tells.
fn assert_held(kind: Kind, test: &str) {
    if std::env::var(READER_VARIABLE).is_ok() {
        let reader = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(move || read_all(kind));
        return reader.unwrap().join().unwrap();
    }
    let home = tempfile::tempdir().unwrap();
    let limited = format!(
        "ulimit -v {}; exec timeout -k 5 {} \"$0\" --exact damage::{test} --nocapture --test-threads=1",
        4 << 20,
        if std::env::var(cases::FILES_VARIABLE).is_ok() { 36_000 } else { 900 }
    );
    let output = Command::new("sh")
        .args(["-c", &limited])
        .arg(std::env::current_exe().unwrap())
        .env(READER_VARIABLE, "1")
        .env("TMPDIR", home.path())
        // What is free is returned, so that the next file is seen to take it again.
        .envs([
            ("MALLOC_MMAP_THRESHOLD_", "262144"),
            ("MALLOC_TRIM_THRESHOLD_", "262144"),
            ("MALLOC_ARENA_MAX", "1"),
        ])
        .env("RAYON_NUM_THREADS", "1")
        .current_dir(repository())
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let last = out.lines().rev().find_map(|line| line.strip_prefix(BEGUN)).unwrap_or("none was begun");
    let tail: Vec<&str> = err.lines().rev().take(5).collect();
    assert!(output.status.success(), "{kind:?}: {}, at {last}: {tail:?}", output.status);
    let told = out.lines().filter_map(|line| line.strip_prefix(TOLD));
    let told: Vec<Told> = told.map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_each(kind, &told);
}

fn assert_each(kind: Kind, told: &[Told]) {
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    for Told { name, outcome, reason, bytes, grown_kib, seconds } in told {
        *counts.entry(format!("{outcome:?}")).or_default() += 1;
        let what = format!("{kind:?}, {name}: {outcome:?}: {reason}");
        assert!(*outcome != Outcome::Panicked, "{what}");
        assert!(*seconds <= SECONDS_MAX, "{what}: {seconds} seconds");
        let most = beside_mib(kind) * 1024 + TIMES_MAX * bytes / 1024;
        assert!(*grown_kib <= most, "{what}: {grown_kib} KiB for {bytes} bytes, and at most {most}");
        assert!(reason.len() <= MESSAGE_BYTES_MAX, "{what}: {} bytes", reason.len());
        // A template of a config has no file; it says its line, or what is wrong with all of it.
        let names_file = kind == Kind::PromptTemplates || reason.contains("/case");
        assert!(*outcome != Outcome::Refused || names_file && !reason.is_empty(), "{what}");
    }
    let grown = told.iter().map(|told| told.grown_kib).max().unwrap_or(0);
    let seconds: f64 = told.iter().map(|told| told.seconds).sum();
    let slowest = told.iter().max_by(|one, other| one.seconds.total_cmp(&other.seconds));
    let slowest = slowest.map(|told| (told.seconds, told.name.as_str()));
    let files = told.len();
    println!(
        "{kind:?}: {files} files, {counts:?}, at most {grown} KiB, {seconds:.1} seconds, the slowest {slowest:?}"
    );
    assert!(told.len() >= FILES_MIN, "{kind:?}: {}", told.len());
    let refused = counts.get("Refused").copied().unwrap_or(0);
    assert!(refused * 4 >= told.len(), "{kind:?}: {counts:?}");
}

/// What the process that reads does.
fn read_all(kind: Kind) {
    let told = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !rollout::panic_is_caught() {
            told(panic);
        }
    }));
    let home = tempfile::tempdir().unwrap();
    for case in kind.cases() {
        println!("\n{BEGUN}{}", case.name);
        let folder = home.path().join("case");
        case.write(&folder);
        let (before, begun) = (memory_kib(), Instant::now());
        let read = catch_unwind(AssertUnwindSafe(|| kind.read(&folder)));
        let (outcome, reason) = match read {
            Ok(Ok(())) => (Outcome::Read, String::new()),
            Ok(Err(reason)) => (Outcome::Refused, reason),
            Err(panic) => (Outcome::Panicked, said(&*panic)),
        };
        let told = Told {
            outcome,
            reason,
            bytes: case.bytes(),
            grown_kib: peak_kib().saturating_sub(before),
            seconds: begun.elapsed().as_secs_f64(),
            name: case.name,
        };
        println!("\n{TOLD}{}", serde_json::to_string(&told).unwrap());
        std::fs::remove_dir_all(&folder).unwrap();
    }
}

fn said(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no text").to_owned()
}

/// The memory in use, from which on the peak is counted anew.
fn memory_kib() -> u64 {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    status_kib("VmRSS:")
}

fn peak_kib() -> u64 {
    status_kib("VmHWM:")
}

fn status_kib(key: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[test]
fn damaged_gguf_files_are_held() {
    assert_held(Kind::Gguf, "damaged_gguf_files_are_held");
}

#[test]
fn damaged_weights_are_held() {
    assert_held(Kind::Weights, "damaged_weights_are_held");
}

#[test]
fn damaged_files_of_a_model_are_held() {
    assert_held(Kind::ModelFiles, "damaged_files_of_a_model_are_held");
}

#[test]
fn damaged_chat_templates_are_held() {
    assert_held(Kind::ChatTemplates, "damaged_chat_templates_are_held");
}

#[test]
fn damaged_prompt_templates_are_held() {
    assert_held(Kind::PromptTemplates, "damaged_prompt_templates_are_held");
}

#[test]
fn damaged_lines_are_held() {
    assert_held(Kind::Lines, "damaged_lines_are_held");
}

#[test]
fn damaged_columns_are_held() {
    assert_held(Kind::Columns, "damaged_columns_are_held");
}

#[test]
fn damaged_adapters_are_held() {
    assert_held(Kind::Adapters, "damaged_adapters_are_held");
}

#[test]
fn damaged_configs_of_runs_are_held() {
    assert_held(Kind::RunConfigs, "damaged_configs_of_runs_are_held");
}

/// A model with one file changed, and why it is refused.
fn refusal(good: &str, file: &str, change: impl FnOnce(Vec<u8>) -> Vec<u8>) -> String {
    let home = tempfile::tempdir().unwrap();
    let mut change = Some(change);
    for CaseFile { name, bytes } in Good::folder(&repository().join("tests/fixtures/parity").join(good)).files
    {
        let bytes = match change.take_if(|_| name == file) {
            Some(change) => change(bytes),
            None => bytes,
        };
        std::fs::write(home.path().join(name), bytes).unwrap();
    }
    assert!(change.is_none(), "{good} has no {file}");
    let message = Decoder::load(home.path(), &Device::flex()).unwrap_err().to_string();
    assert!(message.contains(home.path().to_str().unwrap()), "{message}");
    message
}

fn with_key(bytes: &[u8], key: &str, value: &Value) -> Vec<u8> {
    let mut config: Value = serde_json::from_slice(bytes).unwrap();
    config[key] = value.clone();
    config.to_string().into_bytes()
}

#[test]
fn absurd_sizes_are_refused_by_their_key() {
    for (key, value, said) in [
        ("num_hidden_layers", json!(1_000_000_000), "at most 4096"),
        ("num_hidden_layers", json!(-1), "a whole number that is not negative"),
        ("num_hidden_layers", json!(0), "above 0"),
        ("num_hidden_layers", json!("two"), "a whole number"),
        ("hidden_size", json!(0), "hidden_size"),
        ("num_attention_heads", json!(5), "num_attention_heads"),
        ("num_attention_heads", json!(0), "num_attention_heads"),
        ("num_key_value_heads", json!(3), "num_key_value_heads"),
        ("head_dim", json!(3), "an even number"),
        ("vocab_size", json!(1_u64 << 40), "below 2^32"),
        ("intermediate_size", json!(u32::MAX), "config asks for"),
        ("max_position_embeddings", json!(1_u64 << 40), "positions"),
        ("rms_norm_eps", json!(-1), "not negative"),
        ("rope_parameters", json!({"rope_type": "default", "rope_theta": 0}), "above 1"),
        ("model_type", json!("x".repeat(1 << 20)), "`model_type` is \"xxx"),
    ] {
        let message = refusal("llama_tied", "config.json", |bytes| with_key(&bytes, key, &value));
        assert!(message.contains(said) && message.len() < MESSAGE_BYTES_MAX, "{key}: {message}");
    }
    let message = refusal("llama_tied", "config.json", |bytes| {
        let sizes = ["hidden_size", "num_attention_heads", "head_dim"];
        sizes.into_iter().fold(bytes, |bytes, key| with_key(&bytes, key, &json!(1_u64 << 31)))
    });
    assert!(message.contains("numbers; at most"), "{message}");
    let message = refusal("llama_tied", "config.json", |bytes| [bytes, vec![b' '; 5 << 20]].concat());
    assert!(message.contains("has more than the"), "{message}");
}

#[test]
fn shards_lie_in_their_directory() {
    let index = "model.safetensors.index.json";
    for (value, said) in [
        (json!({"model.norm.weight": "../outside.safetensors"}), "no file name"),
        (json!({"model.norm.weight": "/etc/hostname"}), "no file name"),
        (json!({"model.norm.weight": ".."}), "no file name"),
        (json!({"model.norm.weight": 1}), "no file name"),
        (json!({"model.norm.weight": "config.json"}), "config.json"),
        (json!({"model.norm.weight": "absent.safetensors"}), "absent.safetensors"),
        (json!({}), "lacks tensor"),
        (json!([]), "no object `weight_map`"),
    ] {
        let message = refusal("llama_sharded", index, |bytes| with_key(&bytes, "weight_map", &value));
        assert!(message.contains(said), "{value}: {message}");
    }
}

/// Changes the header of a safetensors file, and its numbers.
fn with_header(bytes: &[u8], change: impl FnOnce(&mut Value), numbers: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let mut header: Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    change(&mut header);
    let (header, mut rest) = (header.to_string(), bytes[8 + length..].to_vec());
    numbers(&mut rest);
    [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &rest].concat()
}

#[test]
fn tensors_that_cannot_be_are_refused_by_their_name() {
    const NORM: &str = "model.norm.weight";
    let changed = |change: &dyn Fn(&mut Value)| {
        refusal("llama_tied", "model.safetensors", |bytes| with_header(&bytes, change, |_| ()))
    };
    for (key, value, said) in [
        ("dtype", json!("I32"), "is I32; read are F32, BF16 and F16"),
        ("dtype", json!("F32x"), "header"),
        ("shape", json!([-1]), "header"),
        ("shape", json!([0]), "header"),
        ("shape", json!([u64::MAX, u64::MAX]), "header"),
        ("data_offsets", json!([0, 4]), "header"),
        ("data_offsets", json!([u64::MAX - 4, u64::MAX]), "header"),
        ("data_offsets", json!([8, 4]), "header"),
    ] {
        let message = changed(&|header| header[NORM][key] = value.clone());
        assert!(
            message.contains("model.safetensors") && message.contains(said),
            "{key} = {value}: {message}"
        );
    }
    let renamed = |to: &'static str| {
        changed(&move |header| {
            let norm = header.as_object_mut().unwrap().remove(NORM).unwrap();
            header[to] = norm;
        })
    };
    assert!(renamed("model.norm.weights").contains("`model.norm.weights`, for which a llama model"));
    let message = refusal("llama_tied", "model.safetensors", |bytes| {
        with_header(&bytes, |_| (), |numbers| numbers[..4].copy_from_slice(&f32::NAN.to_le_bytes()))
    });
    assert!(message.contains("tensor `") && message.contains("holds NaN"), "{message}");
}

/// The good files of each kind are read: else all that is damaged would be refused for another reason.
#[test]
fn what_is_not_damaged_is_read() {
    for kind in Kind::ALL {
        assert_good_are_read(kind);
    }
}

fn assert_good_are_read(kind: Kind) {
    let home = tempfile::tempdir().unwrap();
    let folder: &Path = &home.path().join("case");
    for case in kind.undamaged() {
        case.write(folder);
        // Some templates of the fixtures raise on purpose for these messages.
        let is_template = matches!(kind, Kind::ChatTemplates | Kind::PromptTemplates);
        let read = kind.read(folder);
        assert!(read.is_ok() || is_template, "{kind:?}, {}: {read:?}", case.name);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
