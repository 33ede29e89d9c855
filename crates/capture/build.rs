//! Compiles the XDP program with clang into `OUT_DIR`, and has clang report the layout of the
//! header that the program shares with its reader.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAM: &str = "src/xdp/redirect.bpf.c";
const HEADER: &str = "src/xdp/abi.h";

/// The numbers of the header that abi.rs uses.
const NUMBERS: [&str; 5] = [
    "COUNTER_REDIRECTED",
    "COUNTER_NO_SOCKET",
    "COUNTER_SAMPLED_OUT",
    "COUNTERS",
    "BELL_OCTETS",
];

/// The structs of the header with their fields. A field that is missing here makes the struct
/// longer than the one in abi.rs, which does not compile.
const STRUCTS: [(&str, &[&str]); 3] = [
    ("sampling", &["interval", "random"]),
    ("rest", &["number", "entries", "entry_octets"]),
    ("stamp", &["monotonic_ns", "rest", "unused"]),
];

fn main() {
    println!("cargo:rerun-if-changed={PROGRAM}");
    println!("cargo:rerun-if-changed={HEADER}");
    println!("cargo:rerun-if-env-changed=CLANG");
    let folder = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let object = folder.join("redirect.bpf.o");
    compile(Path::new(PROGRAM), &["-g", "-c"], &object);
    fs::write(folder.join("abi_layout.rs"), layout(&folder)).expect("OUT_DIR is writable");
}

/// Rust constants for the numbers of the header, and for each struct a module with its length and
/// each field's offset and length, in octets.
fn layout(folder: &Path) -> String {
    let octets = |name: &str| format!("sizeof(struct {name})");
    let offset = |name: &str, field: &str| format!("__builtin_offsetof(struct {name}, {field})");
    let length = |name: &str, field: &str| format!("sizeof(((struct {name} *)0)->{field})");
    let mut asked: Vec<String> = NUMBERS.map(str::to_owned).to_vec();
    for (name, fields) in STRUCTS {
        asked.push(octets(name));
        for field in fields {
            asked.extend([offset(name, field), length(name, field)]);
        }
    }
    let mut answers = evaluate(folder, &asked).into_iter();
    let mut next = || answers.next().expect("each expression has a value");
    let mut rust = String::new();
    for name in NUMBERS {
        writeln!(rust, "pub const {name}: u32 = {};", next()).expect("a string grows");
    }
    for (name, fields) in STRUCTS {
        let octets = next();
        writeln!(
            rust,
            "pub mod {name} {{\n    pub const OCTETS: usize = {octets};"
        )
        .expect("a string grows");
        for field in fields {
            let (offset, octets) = (next(), next());
            writeln!(
                rust,
                "    pub const {field}: (usize, usize) = ({offset}, {octets});"
            )
            .expect("a string grows");
        }
        rust.push_str("}\n");
    }
    rust
}

/// The values of constant C expressions over the header, for the BPF target. They are read from
/// LLVM's intermediate code, which has a line for each: `@value_0 = dso_local constant i64 16,
/// ...`.
fn evaluate(folder: &Path, expressions: &[String]) -> Vec<u64> {
    let header = fs::canonicalize(HEADER).expect("the header is part of the crate");
    let mut source = format!("#include \"{}\"\n", header.display());
    for (index, expression) in expressions.iter().enumerate() {
        writeln!(source, "const __u64 value_{index} = {expression};").expect("a string grows");
    }
    let (c, code) = (folder.join("abi_layout.c"), folder.join("abi_layout.ll"));
    fs::write(&c, source).expect("OUT_DIR is writable");
    compile(&c, &["-S", "-emit-llvm"], &code);
    let code = fs::read_to_string(code).expect("clang wrote it");
    let value = |index: usize| {
        let line = code
            .lines()
            .find_map(|line| line.strip_prefix(&format!("@value_{index} = ")))?;
        let (_, value) = line.split_once("constant i64 ")?;
        value.split(',').next()?.parse().ok()
    };
    (0..expressions.len())
        .map(|index| value(index).unwrap_or_else(|| panic!("no value_{index} in: {code}")))
        .collect()
}

/// Compiles `source` for the BPF target.
fn compile(source: &Path, options: &[&str], output: &Path) {
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    // asm/types.h is in a folder of the machine, where clang for BPF does not search.
    let machine_headers = format!("/usr/include/{}-linux-gnu", env::consts::ARCH);
    let done = Command::new(&clang)
        .args(["-O2", "-Wall", "-Werror", "-target", "bpf", "-idirafter"])
        .arg(&machine_headers)
        .args(options)
        .arg(source)
        .arg("-o")
        .arg(output)
        .status();
    let source = source.display();
    match done {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "{clang} cannot compile {source} ({status}); install the packages clang and libbpf-dev"
        ),
        Err(error) => panic!(
            "{clang} does not start ({error}); install the package clang or set CLANG to its path"
        ),
    }
}
