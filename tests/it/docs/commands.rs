//! Every command that a document shows is run: those in `sh` blocks, and the examples of `--help`. Each runs in a
//! folder that looks like the repository and holds what a reader would have, with numbers that are small.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::binary::{repository, text_of};
use crate::documents::{Document, documents};

/// What the test does with a command of the documents.
enum Entry {
    /// Runs it as it stands, with these arguments behind it.
    Run(&'static str),
    /// Runs it with something else in the place of a part of it, and these arguments behind it.
    Instead(&'static [(&'static str, &'static str)], &'static str),
    /// Does not run it, for this reason.
    Skip(&'static str),
}

use Entry::{Instead, Run, Skip};

/// A quickstart of 41 steps with one group of two short completions each.
const SMALL: &str = "--set run.steps=41 --set rollout.group_size=2 --set rollout.output_tokens_max=8 \
    --set rollout.segments_max=2 --set rollout.trajectories_open_max=2 --set queue.groups_max=2 \
    --set learner.groups_per_step=1 --set eval.problems=2 --set eval.every_steps=0 --set checkpoint.every_steps=10 \
    --set checkpoint.keep_last=9";

/// The same for a run on data in a file.
const MINE: &str = "--set run.steps=2 --set rollout.group_size=2 --set rollout.output_tokens_max=8 \
    --set rollout.segments_max=2 --set rollout.trajectories_open_max=2 --set queue.groups_max=2 \
    --set learner.groups_per_step=1 --set learner.dynamic_sampling=off --set eval.problems=2";

const EVALUATED: &str = "--set eval.problems=2 --set rollout.output_tokens_max=8";

/// Two rows of a model of 60,000 parameters.
const SEGMENTS: &str =
    "--shape 32,1,1,1,64,32 --slots 4 --lengths constant:8 --set rollout.output_tokens_max=16";

const SIMULATED: &str = "--steps 8";

const TINY: &str = "32,1,1,1,64,32";

const PEER: Entry = Skip("needs torch, transformers, TRL or llama.cpp");
const DOWNLOAD: Entry = Skip("downloads");
const CARGO: Entry = Skip("cargo itself, which runs this test");

/// All commands of the documents. A command that is not here fails the test.
const COMMANDS: &[(&str, Entry)] = &[
    // README.md and docs/guide/quickstart.md
    ("cargo run --release -- train configs/quickstart.toml", Run(SMALL)),
    (
        "cargo run --release -- eval configs/quickstart.toml --model runs/quickstart-1/checkpoints/step-30",
        Run(EVALUATED),
    ),
    (
        "cargo run --release -- generate --model models/quickstart --prompt '7*2-1-9+2*3=' --set rollout.temperature=0",
        Run(""),
    ),
    (
        "cargo run --release -- generate --model runs/quickstart-1/checkpoints/step-30 --prompt '7*2-1-9+2*3=' --set \
         rollout.temperature=0",
        Run("--set rollout.output_tokens_max=8"),
    ),
    // docs/guide/evaluation.md
    (
        "longhaul eval my.toml --model models/smollm2 --output answers.jsonl --json numbers.json",
        Instead(&[("answers.jsonl", "evaluated.jsonl")], EVALUATED),
    ),
    (
        "longhaul compare runs/quickstart-1/evals/step-0 runs/quickstart-1/evals/step-30",
        Instead(&[("step-30", "step-41")], ""),
    ),
    // docs/guide/resume.md
    ("longhaul train configs/quickstart.toml --resume", Run(SMALL)),
    ("longhaul train configs/quickstart.toml --resume runs/second", Run(SMALL)),
    ("longhaul train configs/quickstart.toml --run runs/second --resume", Run(SMALL)),
    (
        "longhaul train configs/quickstart.toml --resume runs/second/checkpoints/step-40 --overwrite",
        Run(SMALL),
    ),
    ("longhaul train configs/quickstart.toml --fork runs/second", Run(SMALL)),
    (
        "LONGHAUL_FAULTS=\"actor:panic@40, scorer:delay=200%0.1, checkpoint:fail@2, seed=7\" longhaul train \
         configs/quickstart.toml",
        Instead(&[("delay=200", "delay=1")], SMALL),
    ),
    // docs/guide/lora.md
    (
        "longhaul check configs/quickstart.toml --set learner.lora.rank=8 --set learner.lora.alpha=16.0 --set \
         learner.lora.target_modules=all-linear",
        Run(""),
    ),
    (
        "longhaul train configs/quickstart.toml --run runs/lora --set learner.lora.rank=8 --set learner.lora.alpha=16.0 \
         --set learner.lora.target_modules=all-linear --set optimizer.learning_rate=1e-3",
        Run(SMALL),
    ),
    (
        "longhaul generate --model runs/lora/checkpoints/step-30 --prompt '4+3*2-5=' --set rollout.temperature=0",
        Run("--set rollout.output_tokens_max=8"),
    ),
    (
        "longhaul eval configs/quickstart.toml --model runs/lora/checkpoints/step-30 --base models/quickstart",
        Run(EVALUATED),
    ),
    // docs/guide/your-own-model.md
    // The stub is the quickstart's model, which has 1024 positions.
    // docs/guide/data.md
    ("longhaul data my.toml --show 3", Run("--set rollout.output_tokens_max=64")),
    ("longhaul data configs/quickstart.toml --show 2", Run("")),
    ("longhaul filter my.toml --samples 8 --min 1 --max 7 --output filtered.jsonl", Run(MINE)),
    ("longhaul check my.toml", Run("--set rollout.output_tokens_max=64")),
    ("longhaul eval my.toml --model models/smollm2", Run(EVALUATED)),
    (
        "longhaul eval my.toml --model models/smollm2 --set eval.problems=64 --set eval.temperature=0.8 --set \
         eval.pass_k=4 --json",
        Instead(&[("eval.problems=64", "eval.problems=2")], "--set rollout.output_tokens_max=8"),
    ),
    ("longhaul score --rewards my.toml --input answers.jsonl --output scored.jsonl", Run("")),
    (
        "longhaul sft my_sft.toml --run runs/start",
        Run("--set sft.steps_max=2 --set sft.batch_size=2 --set sft.output_tokens_max=8"),
    ),
    ("longhaul train my.toml --run runs/mine", Run(MINE)),
    ("longhaul train my.toml --run runs/mine --resume", Run(MINE)),
    // docs/guide/models-in-and-out.md
    (
        "longhaul import gguf SmolLM2-135M-Instruct.Q4_1.gguf models/smollm2",
        Instead(&[("models/smollm2", "models/imported")], ""),
    ),
    (
        "longhaul import peft models/smollm2 my-adapter models/merged",
        Instead(&[("models/smollm2 my-adapter", "fixtures/parity/llama_untied_gqa fixtures/peft/plain")], ""),
    ),
    ("longhaul export runs/quickstart-1/checkpoints/step-30 exported --dtype bf16", Run("")),
    (
        "longhaul export models/smollm2 smollm2-gguf --gguf f16",
        Instead(&[("models/smollm2", "models/imported")], ""),
    ),
    // docs/guide/plugins.md
    (
        "echo '{\"id\":0,\"prompt\":\"1+1=\",\"completion\":\"It is 2\",\"answer\":\"2\",\"fields\":{},\"tokens\":4,\
         \"truncated\":false}' | python3 my_reward.py",
        Run(""),
    ),
    ("longhaul score --rewards F.toml --input answers.jsonl --output scored.jsonl", Run("")),
    // docs/guide/measuring-segments.md
    (
        "longhaul bench segments --segments 0,1,2,4 --json > rows.jsonl",
        Instead(&[("0,1,2,4", "0,1"), ("bench segments", SEGMENTS_STEPS)], SEGMENTS),
    ),
    ("longhaul simulate --costs-of rows.jsonl", Run(SIMULATED)),
    // bench/peers/README.md
    ("python3 -m venv /tmp/peers", DOWNLOAD),
    ("/tmp/peers/bin/pip install torch transformers trl datasets gguf", DOWNLOAD),
    ("/tmp/peers/bin/pip install llama-cpp-python", DOWNLOAD),
    ("cargo build --release", CARGO),
    ("shape=576,30,9,3,1536,49152", Run("")),
    (
        "longhaul bench decode --shape $shape --batches 1,16 --contexts 512 --repeats 5 --json",
        Instead(&[("$shape", TINY), ("512", "8"), ("--repeats 5", "--repeats 1")], ""),
    ),
    (
        "python bench/peers/decode_transformers.py --shape $shape --batches 1,16 --contexts 512 --threads 2 --repeats 5",
        PEER,
    ),
    (
        "python bench/peers/decode_llama_cpp.py --shape $shape --batches 1,16 --contexts 512 --threads 2 --repeats 5",
        PEER,
    ),
    (
        "python bench/peers/decode_llama_cpp.py --shape $shape --batches 1,16 --contexts 512 --threads 2 --repeats 5 \
         --flash off",
        PEER,
    ),
    ("python bench/peers/decode_llama_cpp.py --shape $shape --check", PEER),
    ("python bench/peers/grpo_trl.py --write-model /tmp/grpo_model", PEER),
    ("python bench/peers/grpo_trl.py --model /tmp/grpo_model --steps 12 --threads 2", PEER),
    (
        "longhaul train bench/peers/grpo_longhaul.toml --set model.path=/tmp/grpo_model --run /tmp/grpo_run --overwrite",
        // The model is one that a peer writes, and its prompts have letters that the quickstart's model has not.
        Instead(
            &[("/tmp/grpo_model", "models/quickstart"), ("/tmp/grpo_run", "runs/grpo")],
            "--set data.path=train.jsonl --set run.steps=3 --set rollout.group_size=2 --set learner.groups_per_step=1 \
             --set rollout.output_tokens_max=8 --set rollout.trajectories_open_max=2 --set queue.groups_max=1",
        ),
    ),
    (
        "python bench/peers/grpo_metrics.py /tmp/grpo_run/metrics.jsonl",
        Instead(&[("python", "python3"), ("/tmp/grpo_run", "runs/grpo")], ""),
    ),
    (
        "longhaul bench streambp --shape 256,6,8,8,768,4096 --tokens 4096,16384 --repeats 5 --paths \
         checkpointed,streambp --activations-kept-mib 0 --json",
        Instead(&[("256,6,8,8,768,4096", TINY), ("4096,16384", "64"), ("--repeats 5", "--repeats 1")], ""),
    ),
    (
        "python bench/peers/streambp_torch.py --shape 256,6,8,8,768,4096 --tokens 4096,16384 --repeats 5 --paths \
         checkpointed --threads 2",
        PEER,
    ),
    // CONTRIBUTING.md
    ("cargo test --workspace", CARGO),
    ("cargo clippy --workspace --all-targets", CARGO),
    ("cargo fmt --check", CARGO),
    // docs/reference/cli.md: the examples of --help
    (
        "longhaul train configs/quickstart.toml --set run.seed=2 --run runs/second",
        Instead(&[("runs/second", "runs/third")], SMALL),
    ),
    (
        "longhaul sft configs/quickstart_sft.toml --run runs/start",
        Instead(
            &[("runs/start", "runs/begun")],
            "--set sft.steps_max=2 --set sft.phases=[] --set sft.batch_size=2 --set eval.problems=2",
        ),
    ),
    (
        "longhaul eval configs/quickstart.toml --model runs/quickstart-1/checkpoints/step-30 --json",
        Run(EVALUATED),
    ),
    (
        "longhaul eval configs/quickstart.toml --model models/quickstart --output answers.jsonl --json numbers.json",
        Instead(&[("answers.jsonl", "evaluated.jsonl")], EVALUATED),
    ),
    (
        "longhaul generate --model models/quickstart --prompt '4+3*2-5=' --set rollout.temperature=0",
        Run("--set rollout.output_tokens_max=8"),
    ),
    ("longhaul generate --model models/quickstart --prompt '4+3*2-5=' --set model.dtype=bf16", Run("")),
    ("echo '{\"text\":\"4+3*2-5=\"}' > prompts.jsonl", Run("")),
    (
        "longhaul generate --model models/quickstart --input prompts.jsonl --output answers.jsonl",
        Instead(&[("answers.jsonl", "generated.jsonl")], "--set rollout.output_tokens_max=8"),
    ),
    ("echo '{\"tokens\":[1,5,9]}' > in.jsonl", Run("")),
    ("longhaul logprobs --model models/quickstart --input in.jsonl --output out.jsonl", Run("")),
    ("echo '{\"text\":\"1+2=\"}' > in.jsonl", Run("")),
    ("longhaul tokenize --model models/quickstart --input in.jsonl --output out.jsonl", Run("")),
    (
        "longhaul replay configs/quickstart.toml --rollouts runs/quickstart-1/rollouts/step-000001.jsonl",
        Run("--set rollout.group_size=2 --set learner.groups_per_step=1 --set queue.groups_max=2"),
    ),
    ("echo '{\"completion\":\"so \\\\boxed{42}\",\"answer\":\"42\"}' > answers.jsonl", Run("")),
    ("echo '[[rewards]]' > rewards.toml", Run("")),
    ("echo 'kind = \"math\"' >> rewards.toml", Run("")),
    ("longhaul score --rewards rewards.toml --input answers.jsonl --output scored.jsonl", Run("")),
    ("longhaul check configs/quickstart.toml --set learner.advantage.alpha=0.1", Run("")),
    ("longhaul simulate configs/quickstart.toml --lengths lognormal:40,0.8", Run(SIMULATED)),
    (
        "longhaul bench segments --segments 0,1,4 --json > rows.jsonl",
        Instead(&[("0,1,4", "0,1"), ("bench segments", SEGMENTS_STEPS)], SEGMENTS),
    ),
    (
        "longhaul simulate --lengths lognormal:4000,1.2 --output-tokens-max 32768 --slots 1024 --group-size 16 \
         --groups-per-step 64 --decode-step-ms 25 --contention 1",
        Instead(
            &[("--slots 1024", "--slots 16"), ("--groups-per-step 64", "--groups-per-step 2")],
            SIMULATED,
        ),
    ),
    (
        "longhaul bench streambp --shape 256,6,8,8,768,4096 --tokens 1024,4096 --json",
        Instead(&[("256,6,8,8,768,4096", TINY), ("1024,4096", "64")], "--repeats 1"),
    ),
    (
        "longhaul bench decode --shape 576,30,9,3,1536,49152 --batches 1,16 --contexts 512",
        Instead(&[("576,30,9,3,1536,49152", TINY), ("512", "8")], "--repeats 1"),
    ),
    (
        "longhaul bench segments --segments 0,2,4 --steps 10 --json",
        Instead(&[("0,2,4", "0,2"), ("--steps 10", "--steps 4")], SEGMENTS),
    ),
    (
        "longhaul bench segments configs/quickstart.toml --segments 0,4 --set run.seed=2",
        Instead(
            &[("bench segments", SEGMENTS_STEPS)],
            "--set rollout.group_size=2 --set learner.groups_per_step=1 --set rollout.output_tokens_max=8 \
             --set rollout.trajectories_open_max=2 --set queue.groups_max=2 --set eval.problems=2",
        ),
    ),
    ("longhaul docs docs/reference", Run("")),
];

const SEGMENTS_STEPS: &str = "bench segments --steps 4";

/// Commands that are not run. The number only falls.
const SKIPPED: usize = 14;

/// The documents whose commands are run, in the order in which a reader follows them.
fn followed() -> Vec<Document> {
    let is_followed = |document: &Document| {
        ["docs/guide", "docs/results", "bench/peers"].iter().any(|folder| document.path.starts_with(folder))
            || ["README.md", "CONTRIBUTING.md", "docs/reference/cli.md"]
                .iter()
                .any(|page| document.path == Path::new(page))
    };
    documents().into_iter().filter(is_followed).collect()
}

/// The commands of a block, without comments and with lines joined that belong together.
fn commands_of(block: &str) -> Vec<String> {
    let (mut commands, mut open) = (Vec::new(), String::new());
    for line in block.lines() {
        let line = line.split(" #").next().unwrap().trim();
        open += line.trim_end_matches('\\').trim_end();
        if line.ends_with(['|', '\\']) {
            open += " ";
            continue;
        }
        let whole = std::mem::take(&mut open);
        commands.extend(
            whole.split("; ").map(str::trim).filter(|command| !command.is_empty()).map(str::to_owned),
        );
    }
    commands
}

/// The commands of a document: its `sh` blocks, or the indented lines of the examples where it is the page of `--help`.
fn commands(document: &Document) -> Vec<String> {
    let examples = document.blocks("text").into_iter().filter(|block| block.starts_with("Example"));
    let indented = |block: String| {
        block
            .lines()
            .filter_map(|line| line.strip_prefix("  "))
            .fold(String::new(), |all, line| all + line + "\n")
    };
    let blocks = match document.path.ends_with("cli.md") {
        true => examples.map(indented).collect(),
        false => document.blocks("sh"),
    };
    blocks.iter().flat_map(|block| commands_of(block)).collect()
}

/// A folder with what the commands read: the repository's files, and those that a reader has of his own.
fn prepare(folder: &Path) {
    for name in [
        "configs",
        "models",
        "examples",
        "bench",
        "scripts",
        "src",
        "learner",
        "rollout",
        "rewards",
        "Cargo.toml",
    ] {
        if name != "models" {
            symlink(repository().join(name), folder.join(name)).unwrap();
        }
    }
    for made in ["bin", "models", "docs/reference"] {
        fs::create_dir_all(folder.join(made)).unwrap();
    }
    for model in ["quickstart", "smollm2"] {
        symlink(repository().join("models/quickstart"), folder.join("models").join(model)).unwrap();
    }
    symlink(env!("CARGO_BIN_EXE_longhaul"), folder.join("bin/longhaul")).unwrap();
    let fixtures = repository().join("tests/fixtures");
    symlink(fixtures.join("gguf/llama_bytes.gguf"), folder.join("SmolLM2-135M-Instruct.Q4_1.gguf")).unwrap();
    symlink(fixtures, folder.join("fixtures")).unwrap();
    let own = Document::read(PathBuf::from("docs/guide/your-own-model.md")).blocks("toml");
    let sft = own.iter().find(|block| block.contains("[sft]")).unwrap();
    let problem = "{\"prompt\": \"1+2=\", \"answer\": \"3\"}\n{\"prompt\": \"4+3=\", \"answer\": \"7\"}\n";
    let files = [
        ("my.toml", own[0].as_str()),
        ("my_sft.toml", sft),
        ("F.toml", "[[rewards]]\nkind = \"math\"\n"),
        ("train.jsonl", problem),
        ("test.jsonl", problem),
        ("demonstrations.jsonl", "{\"prompt\": \"1+2=\", \"completion\": \"3\"}\n"),
        ("answers.jsonl", "{\"completion\": \"so \\\\boxed{42}\", \"answer\": \"42\"}\n"),
    ];
    for (name, text) in files {
        fs::write(folder.join(name), text).unwrap();
    }
    fs::copy(repository().join("docs/guide/plugin_template.py"), folder.join("my_reward.py")).unwrap();
}

/// Lines of what a command printed that are shown where it failed.
const SHOWN_LINES: usize = 12;

/// Runs a command in the folder; what it printed, or the end of it where it failed.
fn run(folder: &Path, command: &str) -> Result<String, String> {
    let path = format!("{}:{}", folder.join("bin").display(), std::env::var("PATH").unwrap_or_default());
    let command = command.replace("cargo run --release -- ", "longhaul ");
    let output =
        Command::new("sh").args(["-c", &command]).env("PATH", path).current_dir(folder).output().unwrap();
    let text = text_of(&output);
    let lines: Vec<&str> = text.lines().collect();
    let end = lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n");
    if output.status.success() { Ok(text) } else { Err(format!("{command}\n{}\n{end}", output.status)) }
}

/// Pages that show what their commands print.
const SHOWN_ON: [&str; 2] = ["README.md", "docs/guide/quickstart.md"];

/// Words that a line has or has not by the numbers of a run.
const BY_NUMBERS: [&str; 2] = ["entropy", "of right answers"];

/// The words of a line, without paths, numbers and what holds one.
fn words(line: &str) -> Vec<String> {
    let line = BY_NUMBERS.iter().fold(line.to_owned(), |line, word| line.replace(word, ""));
    let words =
        line.split_whitespace().filter(|word| !word.contains(|c: char| c.is_ascii_digit() || c == '/'));
    let words = words.map(|word| word.trim_matches(|c: char| !c.is_alphanumeric()));
    words.filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Lines that a page shows and no command printed with the same words, whatever the numbers. Three points stand for the rest of
/// a line.
fn lines_not_printed(page: &Document, printed: &str) -> Vec<String> {
    let printed: Vec<Vec<String>> = printed.lines().map(words).collect();
    let blocks = page.blocks("text");
    let shown = blocks.iter().flat_map(|block| block.lines());
    let is_printed = |line: &&str| printed.iter().any(|printed| printed.starts_with(&words(line)));
    shown.filter(|line| !is_printed(line)).map(str::to_owned).collect()
}

#[test]
fn every_command_of_the_documents_runs() {
    let known: BTreeMap<&str, &Entry> = COMMANDS.iter().map(|(command, entry)| (*command, entry)).collect();
    assert_eq!(known.len(), COMMANDS.len(), "a command stands twice in COMMANDS");
    let folder = tempfile::tempdir().unwrap();
    prepare(folder.path());
    run(folder.path(), &format!("longhaul train configs/quickstart.toml --run runs/second {SMALL}")).unwrap();
    let (mut seen, mut skipped, mut failed) = (BTreeSet::new(), Vec::new(), Vec::new());
    let mut printed = String::new();
    let pages = followed();
    let shown = pages.iter().flat_map(|page| commands(page).into_iter().map(move |command| (page, command)));
    // Evaluations and replays read what the quickstart wrote.
    let (trained, others) = shown.partition::<Vec<_>, _>(|(_, command)| command.starts_with("cargo run"));
    for (page, command) in trained.into_iter().chain(others) {
        let page = page.path.display();
        let entry = known.get(command.as_str()).unwrap_or_else(|| {
            panic!(
                "{page} has a new command:\n{command}\nGive it a row in COMMANDS of tests/it/docs/commands.rs, with \
                 arguments that make it small."
            )
        });
        if !seen.insert(command.clone()) && !command.starts_with("echo") {
            continue;
        }
        let (command, behind) = match entry {
            Skip(reason) => {
                skipped.push(format!("{command}: {reason}"));
                continue;
            }
            Run(behind) => (command, behind),
            Instead(parts, behind) => {
                let replaced = parts.iter().fold(command, |command, (part, other)| {
                    assert!(command.contains(part), "{command} has no {part}");
                    command.replace(part, other)
                });
                (replaced, behind)
            }
        };
        match run(folder.path(), &format!("{command} {behind}")) {
            Ok(text) if command.starts_with("cargo run") => printed += &text,
            Ok(_) => {}
            Err(error) => failed.push(format!("{page}: {error}")),
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n\n"));
    for page in pages.iter().filter(|page| SHOWN_ON.iter().any(|name| page.path == Path::new(name))) {
        let missing = lines_not_printed(page, &printed);
        assert!(missing.is_empty(), "{}: not what the commands print: {missing:#?}", page.path.display());
    }
    assert_eq!(skipped.len(), SKIPPED, "write the number into SKIPPED if it is smaller: {skipped:#?}");
    let gone: Vec<_> = known.keys().filter(|command| !seen.contains(**command)).collect();
    assert!(gone.is_empty(), "no document shows these any more; take them out of COMMANDS: {gone:#?}");
}
