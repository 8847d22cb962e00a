//! Which file of a crate uses which: no circles, and in `lib.rs` a module stands below all that it uses.
//!
//! A file uses another one where it names something that is defined there, by whatever path: through a re-export, through
//! `super` or through `crate`. Tests do not count. Between a module and its own children only one direction counts: the
//! parent uses a child where its own code names what the child defines, and not where it declares it (`mod`) or passes it
//! on (`pub use child::Name;`). What a child takes of the modules that it stands in, a trait or the types that all
//! children share, does not count: a child is read after its parent, and is a part of it.

use std::collections::{BTreeMap, BTreeSet};

use crate::source::{Source, declared_modules, source_folders, sources};

/// Modules that use one that stands below them in their `lib.rs`: crate, module, and what it uses. A row leaves this
/// list when it is no longer true, and no other comes to it.
const UPWARD: &[(&str, &str, &str)] = &[];

/// Files that use each other in a circle. A circle leaves this list when it is gone, loses the files that it no longer
/// goes through, and no other comes to it.
const CIRCLES: &[&[&str]] = &[];

/// Where a module stands below its crate: `["parts", "norm"]`; the root itself is empty.
type Path = Vec<String>;

/// What the code of one file names of its crate.
#[derive(Default)]
struct Module {
    /// The file, from the repository on.
    file: String,
    /// Modules that it declares.
    children: BTreeSet<String>,
    /// What it passes on under a name, by the path where that is defined.
    exports: BTreeMap<String, Path>,
    /// What its own code names, by paths from the root of the crate.
    named: Vec<Path>,
}

type Crate = BTreeMap<Path, Module>;

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// The leaves of a tree of imports, `a::{b, c as d}`, each with the name that it gets.
fn leaves(tree: &str, above: &[String], found: &mut Vec<(Path, String)>) {
    let tree = tree.trim();
    if let Some(list) = tree.strip_prefix('{') {
        let list = list.strip_suffix('}').unwrap_or(list);
        let (mut depth, mut start) = (0, 0);
        for (at, c) in list.char_indices().chain([(list.len(), ',')]) {
            depth += i32::from(c == '{') - i32::from(c == '}');
            if c == ',' && depth == 0 {
                leaves(&list[start..at], above, found);
                start = at + 1;
            }
        }
        return;
    }
    if let Some((first, rest)) = tree.split_once("::").filter(|(first, _)| !first.contains('{')) {
        leaves(rest, &[above, &[first.trim().to_owned()]].concat(), found);
        return;
    }
    let (name, alias) = tree.split_once(" as ").unwrap_or((tree, tree));
    let (name, alias) = (name.trim(), alias.trim());
    match (name, above.last()) {
        ("", _) => {}
        ("self", Some(last)) => found.push((above.to_vec(), last.clone())),
        _ => found.push(([above, &[name.to_owned()]].concat(), alias.to_owned())),
    }
}

/// The paths with `::` in code: `super::rows::add`, `Vec::new`.
fn paths(code: &str) -> Vec<Path> {
    let mut found = Vec::new();
    let mut rest = code;
    while let Some(begin) = rest.find(is_word) {
        rest = &rest[begin..];
        let mut path = Vec::new();
        loop {
            let end = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
            path.push(rest[..end].to_owned());
            rest = &rest[end..];
            match rest.strip_prefix("::") {
                Some(more) if more.starts_with(is_word) => rest = more,
                _ => break,
            }
        }
        found.push(path);
    }
    found
}

/// The imports of a file, those of tests left out, and its code without them: `(is passed on, tree)`.
fn imports(code: &str) -> (Vec<(bool, String)>, String) {
    let (mut trees, mut others) = (Vec::new(), String::new());
    let mut rest = code;
    while let Some(at) = rest.find("use ") {
        let (before, found) = rest.split_at(at);
        let line = before.rsplit('\n').next().unwrap_or_default().trim();
        if !(line.is_empty() || line == "pub" || line.starts_with("pub(")) {
            others += &rest[..at + 4];
            rest = &rest[at + 4..];
            continue;
        }
        let end = found.find(';').unwrap_or(found.len());
        let above = before[..before.len() - line.len()].trim_end();
        if !above.ends_with("#[cfg(test)]") {
            trees.push((!line.is_empty(), found[4..end].replace('\n', " ")));
        }
        others += before;
        rest = &found[end..];
    }
    others += rest;
    (trees, others)
}

/// A path as it stands in a module, from the root of the crate; none where it leads into another crate.
fn absolute(
    path: &[String],
    of: &[String],
    module: &Module,
    imported: &BTreeMap<String, Path>,
) -> Option<Path> {
    let (first, rest) = path.split_first()?;
    match first.as_str() {
        "crate" => Some(rest.to_vec()),
        "self" => Some([of, rest].concat()),
        "super" => {
            let above = of.split_last()?.1;
            let up = rest.iter().take_while(|name| *name == "super").count();
            Some([&above[..above.len().checked_sub(up)?], &rest[up..]].concat())
        }
        name if module.children.contains(name) => Some([of, path].concat()),
        name => imported.get(name).map(|known| [known, rest].concat()),
    }
}

fn read(source: &Source, of: &[String]) -> Module {
    let code = &source.shipped.code;
    let children = declared_modules(code).into_iter().collect();
    let mut module = Module { file: source.name.clone(), children, ..Module::default() };
    let (trees, others) = imports(code);
    let words: BTreeSet<&str> = others.split(|c| !is_word(c)).collect();
    let mut imported = BTreeMap::new();
    for (is_export, tree) in trees {
        let mut found = Vec::new();
        leaves(&tree, &[], &mut found);
        for (path, name) in found {
            let Some(path) = absolute(&path, of, &module, &BTreeMap::new()) else { continue };
            if !is_export || words.contains(name.as_str()) {
                module.named.push(path.clone());
            }
            if is_export {
                module.exports.insert(name.clone(), path.clone());
            }
            imported.insert(name, path);
        }
    }
    let inline = paths(&others).into_iter().filter(|path| path.len() > 1);
    let inline: Vec<Path> = inline.filter_map(|path| absolute(&path, of, &module, &imported)).collect();
    module.named.extend(inline);
    module
}

/// The modules of a crate that are compiled without tests.
fn read_crate(folder: &str) -> Crate {
    let files: BTreeMap<String, Source> =
        sources(folder).into_iter().map(|source| (source.name.clone(), source)).collect();
    let mut modules = Crate::new();
    let mut open = vec![Path::new()];
    while let Some(path) = open.pop() {
        let name = if path.is_empty() { "lib".to_owned() } else { path.join("/") };
        let module = read(&files[&format!("{folder}/{name}.rs")], &path);
        open.extend(
            module.children.iter().map(|child| [path.as_slice(), std::slice::from_ref(child)].concat()),
        );
        modules.insert(path, module);
    }
    modules
}

/// The module that defines what a path names, found through re-exports.
fn defined_in(modules: &Crate, path: &[String]) -> Path {
    let mut at = Path::new();
    for (place, name) in path.iter().enumerate() {
        let module = &modules[&at];
        if module.children.contains(name) {
            at.push(name.clone());
        } else if let Some(origin) = module.exports.get(name) {
            return defined_in(modules, &[origin, &path[place + 1..]].concat());
        } else {
            break;
        }
    }
    at
}

/// For each module, those whose definitions it names, without the modules that it stands in.
fn edges(modules: &Crate) -> BTreeMap<Path, BTreeSet<Path>> {
    let used = |of: &Path, module: &Module| {
        let all = module.named.iter().map(|path| defined_in(modules, path));
        all.filter(|target| !of.starts_with(target)).collect()
    };
    modules.iter().map(|(of, module)| (of.clone(), used(of, module))).collect()
}

/// All that can be reached from a module.
fn reached(edges: &BTreeMap<Path, BTreeSet<Path>>, from: &Path) -> BTreeSet<Path> {
    let (mut seen, mut open) = (BTreeSet::new(), vec![from]);
    while let Some(at) = open.pop() {
        open.extend(edges[at].iter().filter(|next| seen.insert((*next).clone())));
    }
    seen
}

/// The sets of files that use each other in a circle.
fn circles(modules: &Crate) -> BTreeSet<Vec<String>> {
    let edges = edges(modules);
    let reached: BTreeMap<&Path, BTreeSet<Path>> =
        edges.keys().map(|from| (from, reached(&edges, from))).collect();
    let circle = |from: &&Path| -> Vec<String> {
        let both = reached[*from].iter().filter(|to| reached[to].contains(*from));
        both.map(|path| modules[path].file.clone()).collect()
    };
    reached.keys().map(circle).filter(|files| !files.is_empty()).collect()
}

#[test]
fn files_do_not_use_each_other_in_a_circle() {
    let found: BTreeSet<Vec<String>> =
        source_folders().iter().flat_map(|folder| circles(&read_crate(folder))).collect();
    let known: Vec<Vec<String>> =
        CIRCLES.iter().map(|files| files.iter().map(|file| (*file).to_owned()).collect()).collect();
    let is_within =
        |files: &&Vec<String>| known.iter().any(|circle| files.iter().all(|file| circle.contains(file)));
    let new: Vec<_> = found.iter().filter(|files| !is_within(files)).collect();
    assert!(
        new.is_empty(),
        "files that use each other in a circle; move what both sides need into a file of its own: {new:#?}"
    );
    let gone: Vec<_> = known.iter().filter(|circle| !found.contains(*circle)).collect();
    assert!(gone.is_empty(), "smaller or gone by now; write that into CIRCLES: {gone:#?}");
}

#[test]
fn modules_use_only_those_above_them() {
    let mut found = BTreeSet::new();
    for folder in source_folders() {
        let lib = sources(&folder).into_iter().find(|file| file.name == format!("{folder}/lib.rs")).unwrap();
        let order = declared_modules(&lib.shipped.code);
        let place = |path: &Path| path.first().and_then(|name| order.iter().position(|other| other == name));
        for (from, targets) in edges(&read_crate(&folder)) {
            for to in targets.iter().filter(|to| !from.is_empty() && place(to) > place(&from)) {
                found.insert((folder.clone(), from[0].clone(), to[0].clone()));
            }
        }
    }
    let known: BTreeSet<_> = UPWARD
        .iter()
        .map(|(folder, from, to)| ((*folder).to_owned(), (*from).to_owned(), (*to).to_owned()))
        .collect();
    let new: Vec<_> = found.difference(&known).collect();
    assert!(new.is_empty(), "a module uses only those above it in lib.rs: {new:?}");
    let gone: Vec<_> = known.difference(&found).collect();
    assert!(gone.is_empty(), "true by now; take them out of UPWARD: {gone:?}");
}

/// A crate of two modules: `a` with a child, and `b`, whose type the root passes on.
fn example(child: &str, b: &str) -> Crate {
    let texts = [
        ("", "mod a;\nmod b;\n#[cfg(test)]\nmod tests;\npub use b::{Size as Bytes, Length};"),
        (
            "a",
            "mod child;\npub(crate) use child::Child;\n#[cfg(test)]\nuse crate::b::Size;\npub struct Parent;",
        ),
        ("a/child", child),
        ("b", b),
    ];
    let module = |name: &str, code: &str| {
        let path: Path = name.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect();
        (path.clone(), read(&Source::of(name, code), &path))
    };
    texts.into_iter().map(|(name, code)| module(name, code)).collect()
}

#[test]
fn circles_are_found_through_reexports_and_super() {
    let found = |child: &str, b: &str| circles(&example(child, b));
    let circle = |files: [&str; 2]| BTreeSet::from([files.map(str::to_owned).to_vec()]);
    assert!(found("pub struct Child;", "use crate::a::Child;").is_empty());
    assert!(found("use super::Parent;", "use crate::a::{Child, Parent};").is_empty());
    assert!(found("pub struct Child;", "pub(crate) use crate::a::Child;").is_empty());
    let both = circle(["a/child", "b"]);
    assert_eq!(found("use crate::Bytes;", "use crate::a::Child;"), both);
    assert_eq!(found("fn f() -> super::super::b::Size {}", "use crate::a; fn g(_: a::Child) {}"), both);
    assert_eq!(found("use super::super::Length;", "fn g(_: crate::a::child::Other) {}"), both);
    assert!(found("// crate::b", "use crate::a::Child;").is_empty());
}
