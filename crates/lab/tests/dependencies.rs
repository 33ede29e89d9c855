//! `scripts/dependencies` on systems that this machine is not: its commands are replaced.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output};

/// Runs the script where every package is installed, `cargo` prints `cargo_version`, and apt
/// answers with `policy` when it is asked for rustup.
fn run(cargo_version: Option<&str>, policy: &str) -> (Output, String) {
    let directory = tempfile::tempdir().unwrap();
    let log = directory.path().join("log");
    let command = |name: &str, body: &str| {
        let path = directory.path().join(name);
        let text = format!(
            "#!/bin/bash\necho {name} \"$@\" >>{}\n{body}\n",
            log.display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    };
    for tool in [
        "bash", "chmod", "cut", "dirname", "env", "grep", "rm", "sed", "sort",
    ] {
        let path = ["/usr/bin", "/bin"].map(|folder| Path::new(folder).join(tool));
        let path = path.iter().find(|path| path.exists()).unwrap();
        symlink(path, directory.path().join(tool)).unwrap();
    }
    // rustup is the one package that is missing, and apt-get puts its command in place.
    command(
        "dpkg-query",
        "for last; do :; done; [ $last = rustup ] || printf installed",
    );
    command("id", "echo 0");
    command(
        "apt-cache",
        &format!("[ $1 != policy ] || printf '{policy}'"),
    );
    let rustup = directory.path().join("rustup");
    let install = format!(
        "case \"$*\" in *rustup*) printf '#!/bin/bash\\necho rustup $* >>{}\\n' >{rustup}; \
         chmod +x {rustup};; esac",
        log.display(),
        rustup = rustup.display()
    );
    command("apt-get", &install);
    if let Some(version) = cargo_version {
        command("cargo", &format!("echo cargo {version} '(x 2020-01-01)'"));
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../scripts/dependencies");
    let output = Command::new("/bin/bash")
        .arg(script)
        .arg("build")
        .env("PATH", directory.path())
        .output()
        .unwrap();
    (output, fs::read_to_string(log).unwrap_or_default())
}

const NO_CANDIDATE: &str =
    "rustup:\\n  Installed: (none)\\n  Candidate: (none)\\n  Version table:\\n";
const CANDIDATE: &str = "rustup:\\n  Installed: (none)\\n  Candidate: 1.27.1-3\\n";

#[test]
fn a_system_without_a_rustup_package_gets_one_line_that_says_what_to_do() {
    for (cargo_version, found) in [
        (None, "found no cargo"),
        (Some("1.63.0"), "found cargo 1.63.0"),
    ] {
        for policy in [NO_CANDIDATE, ""] {
            let (output, log) = run(cargo_version, policy);
            let text = String::from_utf8(output.stderr).unwrap();
            assert_eq!(output.status.code(), Some(1), "{text}");
            assert_eq!(text.lines().count(), 1, "{text}");
            assert!(
                text.contains(found) && text.contains("https://rustup.rs"),
                "{text}"
            );
            assert!(!log.contains("install"), "{log}");
        }
    }
}

#[test]
fn a_system_with_a_rustup_package_installs_it() {
    let (output, log) = run(None, CANDIDATE);
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{text}");
    assert!(
        log.contains("apt-get install -y -q --no-install-recommends rustup"),
        "{log}"
    );
    assert!(log.contains("rustup default stable"), "{log}");
}

#[test]
fn a_new_compiler_is_left_alone() {
    let (output, log) = run(Some("1.99.0"), NO_CANDIDATE);
    assert_eq!(output.status.code(), Some(0));
    assert!(output.stderr.is_empty() && !log.contains("apt"), "{log}");
}
