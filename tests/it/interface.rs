//! The library's interface knows nothing of the command line: no type of clap, no flag in an error.

use crate::source::{Source, sources};

/// The command line program, in the library's folder.
const PROGRAM: [&str; 4] = ["src/main.rs", "src/cli", "src/commands", "src/bench"];

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
    for module in ["cli", "bench", "commands"] {
        let hidden = format!("#[doc(hidden)]\npub mod {module};");
        assert!(lib.shipped.code.contains(&hidden), "{module} is no part of the documented interface");
    }
}

/// Errors name the fields of a request and the keys of a config; the program adds its flags.
#[test]
fn the_library_names_no_flags() {
    // Keys of a `set` are said as the program gives them; the others are flags of other programs.
    let others = ["--set", "--features", "--local-dir", "--logdir"];
    let mut found = Vec::new();
    for file in library() {
        let words = file.shipped.strings.split_whitespace();
        for word in words.map(|word| word.trim_matches(|c: char| !c.is_alphanumeric() && c != '-')) {
            let is_flag = word.starts_with("--") && word.len() > 2 && !others.contains(&word);
            found.extend(is_flag.then(|| format!("{}: {word}", file.name)));
        }
    }
    assert!(found.is_empty(), "{found:?}");
}
