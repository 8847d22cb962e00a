//! The documents are true where a program can tell: links and files exist, commands parse, configs load, tests that
//! they name exist. `tidy` looks at their language.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{CommandFactory, Parser};
use longhaul::cli::{Cli, Command};
use longhaul::config::Config;

use crate::source::{members, source_folders, sources};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A document by its path from the root, and its text.
struct Document {
    path: PathBuf,
    text: String,
}

impl Document {
    fn read(path: PathBuf) -> Self {
        let text = fs::read_to_string(root().join(&path)).unwrap();
        Self { path, text }
    }

    /// The text outside of code blocks.
    fn prose(&self) -> String {
        self.text.split("```").step_by(2).collect()
    }

    /// The code blocks in one language.
    fn blocks(&self, language: &str) -> Vec<String> {
        let fenced = self.text.split("```").skip(1).step_by(2);
        fenced.filter_map(|block| block.strip_prefix(&format!("{language}\n"))).map(str::to_owned).collect()
    }

    /// What stands between backticks in the prose.
    fn quoted(&self) -> Vec<String> {
        self.prose().split('`').skip(1).step_by(2).map(|name| name.replace('\n', " ")).collect()
    }

    /// The anchors of its headings, as GitHub makes them.
    fn anchors(&self) -> BTreeSet<String> {
        let prose = self.prose();
        let headings = prose.lines().filter(|line| line.starts_with('#'));
        let anchor = |heading: &str| -> String {
            let text = heading.trim_start_matches('#').trim().to_lowercase();
            let kept = text.chars().filter(|c| c.is_alphanumeric() || [' ', '-', '_'].contains(c));
            kept.map(|c| if c == ' ' { '-' } else { c }).collect()
        };
        headings.map(anchor).collect()
    }
}

fn markdown(folder: &str, paths: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let path = entry.unwrap().path();
        let relative = path.strip_prefix(root()).unwrap().to_owned();
        if path.is_dir() && !folder.is_empty() {
            markdown(relative.to_str().unwrap(), paths);
        } else if path.extension().is_some_and(|extension| extension == "md") {
            paths.push(relative);
        }
    }
}

/// All documents: those at the root, under `docs/` and beside the peers' scripts.
fn documents() -> Vec<Document> {
    let mut paths = Vec::new();
    for folder in ["", "docs", "bench/peers"] {
        markdown(folder, &mut paths);
    }
    paths.sort();
    assert!(paths.len() > 20, "{paths:?}");
    paths.into_iter().map(Document::read).collect()
}

/// The documents that a user follows: what they tell him to type must work.
fn guide() -> Vec<Document> {
    let is_guide = |document: &Document| {
        document.path == Path::new("README.md") || document.path.starts_with("docs/guide")
    };
    documents().into_iter().filter(is_guide).collect()
}

#[test]
fn files_in_the_documents_exist() {
    let others = ["src", "tests", "configs", "models", "examples", "scripts"].map(str::to_owned);
    let folders: Vec<String> = members().into_iter().chain(others).map(|name| name + "/").collect();
    let mut seen = 0;
    // The changelog names what there was, and so do the notes.
    let is_of_now = |document: &&Document| {
        document.path != Path::new("CHANGELOG.md") && !document.path.starts_with("docs/design")
    };
    for document in documents().iter().filter(is_of_now) {
        let names = document.quoted();
        // A name without a point in it may be a metric: `rewards/NAME/mean`.
        let paths = names.iter().filter(|name| name.contains('.') && !name.contains(['<', ' ', '*', '{']));
        for path in paths.filter(|name| folders.iter().any(|folder| name.starts_with(folder.as_str()))) {
            assert!(root().join(path).exists(), "{} names {path}", document.path.display());
            seen += 1;
        }
    }
    assert!(seen > 30, "{seen}");
}

#[test]
fn links_in_the_documents_resolve() {
    let mut seen = 0;
    for document in documents() {
        let folder = document.path.parent().unwrap();
        let prose = document.prose();
        for target in prose.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            if target.starts_with("http") {
                continue;
            }
            let (path, anchor) = target.split_once('#').unwrap_or((target, ""));
            let page = if path.is_empty() { document.path.clone() } else { folder.join(path) };
            let shown = format!("{} links to {target}", document.path.display());
            assert!(root().join(&page).exists(), "{shown}");
            if !anchor.is_empty() {
                let anchors = Document::read(page).anchors();
                assert!(anchors.contains(anchor), "{shown}; there are {anchors:?}");
            }
            seen += 1;
        }
    }
    assert!(seen > 60, "{seen}");
}

#[test]
fn tests_in_the_tables_exist() {
    let folders = source_folders();
    let files = folders.iter().map(String::as_str).chain(["tests/it"]).flat_map(sources);
    let code: String = files.map(|file| file.text).collect();
    let pages = ["ARCHITECTURE.md", "docs/guide/resume.md", "docs/guide/mismatch.md"];
    let names: Vec<String> =
        pages.iter().flat_map(|page| Document::read(PathBuf::from(page)).quoted()).collect();
    // Tests have sentences for names.
    let is_sentence = |name: &&String| {
        name.matches('_').count() >= 4 && name.chars().all(|c| c.is_ascii_lowercase() || c == '_')
    };
    let tests: BTreeSet<&String> = names.iter().filter(is_sentence).collect();
    assert!(tests.len() >= 60, "{tests:?}");
    for test in tests {
        assert!(code.contains(&format!("fn {test}(")), "a document names the test {test}");
    }
}

/// The words of a shell command; quotes hold a word together.
fn words(command: &str) -> Vec<String> {
    let (mut words, mut word, mut quote, mut begun) = (Vec::new(), String::new(), None, false);
    for c in command.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (Some(_), c) => word.push(c),
            (None, '\'' | '"') => (quote, begun) = (Some(c), true),
            (None, c) if c.is_whitespace() => {
                if begun {
                    words.push(std::mem::take(&mut word));
                }
                begun = false;
            }
            (None, c) => {
                word.push(c);
                begun = true;
            }
        }
    }
    if begun {
        words.push(word);
    }
    words
}

/// The arguments of longhaul in a line of a shell block, from the name of the program on.
fn arguments(line: &str) -> Option<Vec<String>> {
    let line = line.split(" #").next().unwrap();
    let words: Vec<String> = words(line).into_iter().take_while(|word| !word.starts_with('>')).collect();
    let program = words.iter().position(|word| !word.starts_with("LONGHAUL_FAULTS="))?;
    match words[program].as_str() {
        "longhaul" => Some(words[program..].to_vec()),
        "cargo" => {
            let own = words.iter().position(|word| word == "--")?;
            Some(std::iter::once("longhaul".to_owned()).chain(words[own + 1..].to_owned()).collect())
        }
        _ => None,
    }
}

/// The config and the changes to it that a command of the documents names.
fn config_of(command: &Command) -> Option<(&PathBuf, &[String])> {
    match command {
        Command::Train(args) => Some((&args.config, &args.overrides.set)),
        Command::Sft(args) => Some((&args.config, &args.overrides.set)),
        Command::Check(args) => Some((&args.config, &args.overrides.set)),
        Command::Eval(args) => Some((&args.config, &args.overrides.set)),
        _ => None,
    }
}

#[test]
fn commands_in_the_guide_parse() {
    let mut seen = 0;
    for document in guide() {
        let lines = document.blocks("sh").join("\n");
        for arguments in lines.lines().filter_map(arguments) {
            let shown = format!("{}: {arguments:?}", document.path.display());
            let cli = Cli::try_parse_from(&arguments).unwrap_or_else(|error| panic!("{shown}: {error}"));
            if let Some((config, set)) =
                config_of(&cli.command).filter(|(path, _)| path.starts_with("configs"))
            {
                Config::load(&root().join(config), set).unwrap_or_else(|error| panic!("{shown}: {error}"));
            }
            seen += 1;
        }
    }
    assert!(seen >= 20, "{seen}");
}

#[test]
fn commands_in_the_prose_of_the_guide_exist() {
    let mut seen = 0;
    for document in guide() {
        for name in document.quoted() {
            let Some(rest) = name.strip_prefix("longhaul ") else { continue };
            let mut command = Cli::command();
            command.build();
            let shown = format!("{}: `{name}`", document.path.display());
            for word in rest.split(' ') {
                if let Some(flag) = word.strip_prefix("--") {
                    let known = command.get_arguments().any(|argument| argument.get_long() == Some(flag));
                    assert!(known, "{shown}: there is no --{flag}");
                } else if command.has_subcommands() {
                    let inner = command.find_subcommand(word).cloned();
                    command = inner.unwrap_or_else(|| panic!("{shown}: there is no {word}"));
                }
            }
            seen += 1;
        }
    }
    assert!(seen >= 20, "{seen}");
}

/// `fragment` over `base`: a section of another kind takes the place of the former.
fn merge(base: &mut toml::Table, fragment: toml::Table) {
    for (key, value) in fragment {
        match (base.get_mut(&key), value) {
            (Some(toml::Value::Table(old)), toml::Value::Table(new))
                if new.get("kind").is_none_or(|kind| old.get("kind") == Some(kind)) =>
            {
                merge(old, new);
            }
            (_, value) => {
                base.insert(key, value);
            }
        }
    }
}

#[test]
fn configs_in_the_guide_load() {
    let folder = tempfile::tempdir().unwrap();
    for file in ["train.jsonl", "test.jsonl", "demonstrations.jsonl"] {
        fs::write(folder.path().join(file), "").unwrap();
    }
    let model = root().join("models/quickstart");
    let local = |block: &str| block.replace("models/qwen3", model.to_str().unwrap());
    let whole = Document::read(PathBuf::from("docs/guide/your-own-model.md")).blocks("toml");
    let mut seen = 0;
    for document in guide() {
        for block in document.blocks("toml") {
            let shown = format!("{}:\n{block}", document.path.display());
            let fragment: toml::Table =
                local(&block).parse().unwrap_or_else(|error| panic!("{shown}: {error}"));
            // Further keys of an entry of `[[rewards]]` that stands above.
            if fragment.get("rewards").is_some_and(toml::Value::is_table) {
                continue;
            }
            let is_whole = fragment.contains_key("optimizer");
            let mut config = if is_whole { toml::Table::new() } else { local(&whole[0]).parse().unwrap() };
            merge(&mut config, fragment);
            let file = folder.path().join("config.toml");
            fs::write(&file, config.to_string()).unwrap();
            seen += 1;
            let Err(error) = Config::load(&file, &[]) else { continue };
            // `kind = "task"` is right in a run on a task, which the whole config here is not.
            let error = error.to_string();
            assert!(!is_whole && error.contains("judges the problems of a task"), "{shown}: {error}");
        }
    }
    assert!(seen >= 15, "{seen}");
}

#[test]
fn pages_are_short() {
    for document in documents() {
        let lines = document.text.lines().count();
        let (limit, is_limited) = match document.path.to_str().unwrap() {
            "README.md" => (150, true),
            "ARCHITECTURE.md" => (200, true),
            path => (200, path.starts_with("docs/guide")),
        };
        assert!(!is_limited || lines <= limit, "{} has {lines} lines", document.path.display());
    }
}
