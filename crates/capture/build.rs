//! Compiles the XDP program with clang, into `OUT_DIR`.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "src/xdp/redirect.bpf.c";

fn main() {
    println!("cargo:rerun-if-changed={SOURCE}");
    println!("cargo:rerun-if-env-changed=CLANG");
    let object =
        PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("redirect.bpf.o");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    // asm/types.h stands in a folder of the machine's own; clang for bpf does not look there.
    let machine_headers = format!("/usr/include/{}-linux-gnu", env::consts::ARCH);
    let done = Command::new(&clang)
        .args([
            "-O2",
            "-g",
            "-Wall",
            "-Werror",
            "-target",
            "bpf",
            "-idirafter",
            &machine_headers,
            "-c",
            SOURCE,
            "-o",
        ])
        .arg(&object)
        .status();
    match done {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "{clang} could not compile {SOURCE} ({status}); wanted: packages clang and libbpf-dev"
        ),
        Err(error) => panic!(
            "{clang} did not start ({error}); install the package clang, or name one in CLANG"
        ),
    }
}
