//! Compiles the generator's XDP program with clang into `OUT_DIR`.

use std::env;
use std::path::Path;
use std::process::Command;

const SOURCE: &str = "src/bpf/send.bpf.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    let object = Path::new(&env::var("OUT_DIR").expect("cargo sets OUT_DIR")).join("send.bpf.o");
    let clang = env::var("CLANG").unwrap_or_else(|_| "clang".to_owned());
    // linux/bpf.h includes asm/types.h, which Debian has in a directory of the architecture that
    // the bpf target does not search by default.
    let headers = format!(
        "-I/usr/include/{}-linux-gnu",
        env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it")
    );
    let status = Command::new(&clang)
        .args([
            "-O2", "-g", "-target", "bpf", "-Wall", "-Wextra", "-Werror", &headers, "-c", SOURCE,
            "-o",
        ])
        .arg(&object)
        .status();
    match status {
        Ok(status) if status.success() => {}
        Ok(status) => panic!(
            "{clang} on {SOURCE} ended with {status}: are libbpf-dev and linux-libc-dev installed?"
        ),
        Err(error) => panic!(
            "{clang} did not start: {error}; run `apt install clang`, or set CLANG to another one"
        ),
    }
}
