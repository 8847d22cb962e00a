//! The library's interface knows nothing of the command line: no type of clap, no flag in an error.

use crate::source::{Source, members, sources};

/// The command line program, in the library's folder.
const PROGRAM: [&str; 5] = ["src/main.rs", "src/program.rs", "src/cli", "src/commands", "src/bench"];

/// The sources of the library alone.
fn library() -> Vec<Source> {
    let is_program = |file: &Source| PROGRAM.iter().any(|place| file.name.starts_with(place));
    let files: Vec<Source> = sources("src").into_iter().filter(|file| !is_program(file)).collect();
    assert!(files.len() > 30, "{}", files.len());
    files
}

/// Who embeds a run does not meet the flags of the program.
#[test]
fn the_command_line_is_known_to_its_own_modules_only() {
    let files = library();
    let knows = |file: &&Source| {
        let code = &file.shipped.code;
        file.name != "src/lib.rs"
            && ["cli::", "clap", "commands::", "bench::"].iter().any(|word| code.contains(word))
    };
    let known: Vec<&str> = files.iter().filter(knows).map(|file| file.name.as_str()).collect();
    assert!(known.is_empty(), "these know of the command line: {known:?}");
    let lib = files.iter().find(|file| file.name == "src/lib.rs").unwrap();
    for module in ["cli", "bench", "commands", "program"] {
        assert!(
            lib.shipped.code.contains(&format!("\nmod {module};")),
            "{module} is no part of the interface"
        );
    }
}

/// The example of a program that embeds a run needs nothing of the command line.
#[test]
fn the_example_embeds_a_run_without_the_command_line() {
    let examples = sources("examples");
    let example = examples.iter().find(|file| file.name == "examples/embed.rs").unwrap();
    assert!(example.shipped.code.contains("longhaul::"), "{}", example.text);
    for word in ["clap", "cli", "commands", "bench", "command_line", "arguments", "pages"] {
        let mut words = example.shipped.code.split(|c: char| !c.is_alphanumeric() && c != '_');
        assert!(!words.any(|found| found == word), "examples/embed.rs uses {word}");
    }
}

/// Errors name the fields of a request and the keys of a config; the program adds its flags.
#[test]
fn the_library_names_no_flags() {
    // Keys of a `set` are said as the program gives them; the others are flags of other programs.
    let others = ["--set", "--features", "--local-dir", "--logdir"];
    let crates: Vec<Source> = members().iter().flat_map(|member| sources(&format!("{member}/src"))).collect();
    assert!(crates.len() > 200, "{}", crates.len());
    let mut found = Vec::new();
    for file in library().into_iter().chain(crates) {
        let words = file.shipped.strings.split_whitespace();
        for word in words.map(|word| word.trim_matches(|c: char| !c.is_alphanumeric() && c != '-')) {
            let is_flag = word.starts_with("--") && word.len() > 2 && !others.contains(&word);
            found.extend(is_flag.then(|| format!("{}: {word}", file.name)));
        }
    }
    assert!(found.is_empty(), "{found:?}");
}
