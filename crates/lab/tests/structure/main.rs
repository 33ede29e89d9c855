//! The structure of the workspace: which crate may depend on which, which files of a crate may
//! import each other, and how files are named and laid out. A failing test lists every place.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod modules;
mod text;
mod ways;
mod workspace;

use std::fs;
use std::path::Path;

use modules::{ModuleTree, circles};
use text::{
    COLUMNS_MAX, StringLiteral, is_long_by_an_address, is_rust, last_part, numbered_lines, read,
    text_files,
};
use workspace::Workspace;

/// The crates of the workspace by their directory, and the workspace crates that each may depend
/// on. Dev-dependencies may be on `lab` too.
#[rustfmt::skip]
const ARROWS: [(&str, &[&str]); 9] = [
    ("netflow",  &[]),
    ("flow",     &[]),
    ("capture",  &[]),
    ("export",   &["flow", "netflow"]),
    ("collect",  &["netflow"]),
    ("pipeline", &["capture", "flow", "export", "collect"]),
    ("probe",    &["pipeline", "collect"]),
    ("lab",      &["netflow"]),
    ("benches",  &["pipeline"]),
];

/// External crates that a crate must not reach, directly or through others. A name covers its
/// family: `crossbeam` is `crossbeam-channel` too.
#[rustfmt::skip]
const FORBIDDEN: [(&str, &[&str]); 4] = [
    ("netflow",  &["socket2", "nix", "rustix", "libc", "tokio", "crossbeam"]),
    ("flow",     &["socket2", "tokio", "crossbeam", "clap", "pcap"]),
    ("capture",  &["clap", "hyper"]),
    ("pipeline", &["clap", "hyper", "ratatui", "indicatif", "tokio", "metrics-exporter-prometheus"]),
];

/// `netflow` is about bytes and errors: these are its only external dependencies.
const NETFLOW_DEPENDS_ON: [&str; 2] = ["thiserror", "zerocopy"];

/// Names that say nothing about what a crate or module is for.
const EMPTY_NAMES: [&str; 4] = ["common", "types", "utils", "helpers"];

#[test]
fn crates_depend_on_each_other_as_the_table_allows() {
    let workspace = Workspace::read();
    let mut faults = Vec::new();
    for (name, _) in ARROWS {
        if !workspace.members.contains_key(name) {
            faults.push(format!("{name}: in the table, but not in the workspace"));
        }
    }
    for (name, package) in &workspace.members {
        let Some((_, allowed)) = ARROWS.iter().find(|(of, _)| of == name) else {
            faults.push(format!("{name}: in the workspace, but not in the table"));
            continue;
        };
        for dependency in package["dependencies"].as_array().unwrap() {
            let Some(folder) = dependency["path"].as_str() else {
                continue;
            };
            let to = last_part(Path::new(folder));
            let is_dev = dependency["kind"] == "dev";
            let is_allowed = allowed.contains(&to.as_str()) || is_dev && to == "lab";
            if !is_allowed {
                let kind = if is_dev { " (dev-dependency)" } else { "" };
                faults.push(format!("{name} -> {to}{kind}: not in the table"));
            }
        }
    }
    report(&faults);
}

#[test]
fn no_crate_reaches_an_external_crate_that_is_forbidden_to_it() {
    let workspace = Workspace::read();
    let mut faults = Vec::new();
    for (name, forbidden) in FORBIDDEN {
        let Some(package) = workspace.members.get(name) else {
            faults.push(format!("{name}: not in the workspace"));
            continue;
        };
        for chain in workspace.chains_from(package["id"].as_str().unwrap()) {
            let reached = chain.last().unwrap();
            let is_of =
                |family: &&str| reached == family || reached.starts_with(&format!("{family}-"));
            if forbidden.iter().any(is_of) {
                faults.push(format!("{name}: {} is forbidden", chain.join(" -> ")));
            }
        }
    }
    report(&faults);
}

#[test]
fn netflow_depends_on_bytes_and_errors_only() {
    let workspace = Workspace::read();
    let netflow = workspace.members.get("netflow");
    let package = netflow.expect("netflow: not in the workspace");
    let normal = package["dependencies"].as_array().unwrap().iter();
    let mut names: Vec<_> = normal
        .filter(|dependency| dependency["kind"].is_null())
        .map(|dependency| dependency["name"].as_str().unwrap())
        .collect();
    names.sort_unstable();
    assert_eq!(names, NETFLOW_DEPENDS_ON, "dependencies of netflow");
}

#[test]
fn files_of_a_crate_form_no_circle() {
    let workspace = Workspace::read();
    let mut faults = Vec::new();
    for package in workspace.members.values() {
        for target in package["targets"].as_array().unwrap() {
            if target["kind"] == serde_json::json!(["lib"])
                || target["kind"] == serde_json::json!(["bin"])
            {
                let root = Path::new(target["src_path"].as_str().unwrap());
                faults.extend(circles(&ModuleTree::read(root).arrows()));
            }
        }
    }
    report(&faults);
}

#[test]
fn a_circle_is_found_through_a_use_list_a_macro_and_an_inline_module() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, text).unwrap();
    };
    write("lib.rs", "mod a;\nmod b;\nmod leaf;");
    write("a.rs", "mod child;\nuse crate::{b::{self, X}, leaf::Y};");
    write(
        "a/child.rs",
        "use super::super::b::X;\n#[cfg(test)] mod tests { use super::super::Z; }",
    );
    write(
        "b.rs",
        "mod inner { fn f() { println!(\"{}\", super::super::a::child::g()); } }",
    );
    write(
        "leaf.rs",
        "//! See [`crate::b`].\npub(in crate::a) struct Y;",
    );
    let arrows = ModuleTree::read(&folder.path().join("lib.rs")).arrows();
    let found: Vec<_> = circles(&arrows).into_iter().collect();
    let name = |file: &str| folder.path().join(file).display().to_string();
    let circle = format!(
        "{child} -> (super::super::b::X) {b} -> (super::super::a::child::g) {child}",
        child = name("a/child.rs"),
        b = name("b.rs"),
    );
    assert_eq!(found, [circle]);
}

#[test]
fn modules_are_named_after_what_they_are_for() {
    let mut faults = Vec::new();
    for file in text_files().filter(|file| is_rust(file)) {
        let names = file.components().map(|part| Path::new(part.as_os_str()));
        for name in names.filter_map(|part| part.file_stem()?.to_str()) {
            if EMPTY_NAMES.contains(&name) {
                faults.push(format!("{}: '{name}' says nothing", file.display()));
            }
        }
        for (number, line) in numbered_lines(&file) {
            let declared = line.split_once("mod ").map(|(_, rest)| rest);
            let name = declared.and_then(|rest| rest.split([' ', ';']).next());
            if name.is_some_and(|name| EMPTY_NAMES.contains(&name)) {
                faults.push(format!("{}:{number}: {}", file.display(), line.trim()));
            }
        }
    }
    report(&faults);
}

#[test]
fn a_module_is_a_file_of_its_name_in_the_crate_that_it_belongs_to() {
    let mut faults = Vec::new();
    for file in text_files().filter(|file| is_rust(file)) {
        let is_in_src = file.components().any(|part| part.as_os_str() == "src");
        if is_in_src && last_part(&file) == "mod.rs" {
            let better = file.parent().unwrap().with_extension("rs");
            let (file, better) = (file.display(), better.display());
            faults.push(format!("{file}: name it {better}"));
        }
        for (number, line) in numbered_lines(&file) {
            if line.trim_start().starts_with("#[path") {
                faults.push(format!("{}:{number}: {}", file.display(), line.trim()));
            }
        }
    }
    report(&faults);
}

#[test]
fn lines_have_100_columns_at_most() {
    let mut faults = Vec::new();
    for file in text_files() {
        let text = read(&file);
        let strings = if is_rust(&file) {
            StringLiteral::all(&text)
        } else {
            Vec::new()
        };
        for (at, line) in text.lines().enumerate() {
            let columns = line.chars().count();
            let is_table = last_part(&file).ends_with(".md") && line.starts_with('|');
            if columns > COLUMNS_MAX
                && !is_table
                && !is_long_by_an_address(line)
                && !strings.iter().any(|string| string.ends_line(at, line))
            {
                faults.push(format!("{}:{}: {columns}", file.display(), at + 1));
            }
        }
    }
    report(&faults);
}

#[test]
fn readme_names_the_licences_and_their_texts_are_there() {
    let readme = read(Path::new("README.md"));
    for (file, line) in [
        ("LICENSE-MIT", "The xdprobe authors"),
        ("LICENSE-APACHE", "Apache License"),
    ] {
        assert!(readme.contains(&format!("({file})")), "README: {file}");
        assert!(read(Path::new(file)).contains(line), "{file}: {line}");
    }
}

fn report(faults: impl IntoIterator<Item = impl AsRef<str>>) {
    let lines: Vec<_> = faults
        .into_iter()
        .map(|fault| fault.as_ref().to_owned())
        .collect();
    assert!(lines.is_empty(), "\n{}\n", lines.join("\n"));
}
