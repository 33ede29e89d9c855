//! A Prometheus server of a test's own, with the configuration that is shipped, and promtool.

use super::scrape::get;
use super::{Probe, pause};
use serde_json::Value;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;
use xdprobe_lab::namespace::Namespace;

/// The programs of Debian's package prometheus.
pub const TOOLS: [&str; 4] = ["ip", "ethtool", "prometheus", "promtool"];

/// A server at work.
pub struct Prometheus<'a> {
    child: Child,
    address: SocketAddr,
    namespace: &'a Namespace,
    _folder: TempDir,
}

/// Where a part of the configuration is.
pub fn configs(part: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../../configs")
        .join(part)
}

/// Runs promtool, which has to succeed, and returns what it printed.
pub fn promtool(arguments: &[&str], stdin: impl Into<Stdio>) -> String {
    let output = Command::new("promtool")
        .args(arguments)
        .stdin(stdin)
        .output()
        .unwrap();
    let said = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
    said
}

impl<'a> Prometheus<'a> {
    /// Starts a server in the namespace that scrapes the probe each second, otherwise as the
    /// shipped configuration says.
    pub fn start(namespace: &'a Namespace, probe: &Probe) -> Self {
        let folder = TempDir::new().unwrap();
        let (shipped, own) = (configs("prometheus"), folder.path().join("prometheus.yml"));
        let config = fs::read_to_string(shipped.join("prometheus.yml")).unwrap();
        let config = config
            .replace("127.0.0.1:9433", &probe.metrics().to_string())
            .replace("15s", "1s");
        fs::write(&own, config).unwrap();
        fs::copy(
            shipped.join("xdprobe.rules.yml"),
            folder.path().join("xdprobe.rules.yml"),
        )
        .unwrap();
        // Free now, in a namespace where nobody else takes any.
        let address = namespace
            .run(|| {
                TcpListener::bind("127.0.0.1:0")
                    .unwrap()
                    .local_addr()
                    .unwrap()
            })
            .unwrap();
        let mut command = namespace.command("prometheus");
        command.arg(format!("--config.file={}", own.display()));
        command.arg(format!(
            "--storage.tsdb.path={}",
            folder.path().join("data").display()
        ));
        command.arg(format!("--web.listen-address={address}"));
        let log = fs::File::create(folder.path().join("log")).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut server = Self {
            child,
            address,
            namespace,
            _folder: folder,
        };
        while namespace
            .run(|| std::net::TcpStream::connect(address).is_err())
            .unwrap()
        {
            let log = fs::read_to_string(server._folder.path().join("log")).unwrap();
            assert!(
                server.child.try_wait().unwrap().is_none(),
                "prometheus ended: {log}"
            );
            pause(50);
        }
        server
    }

    /// The series and values that an expression has now, by the server's query API.
    pub fn query(&self, expression: &str) -> Vec<(Value, f64)> {
        let encoded: String = expression
            .bytes()
            .map(|octet| format!("%{octet:02x}"))
            .collect();
        let (status, body) = get(
            self.namespace,
            self.address,
            &format!("/api/v1/query?query={encoded}"),
        );
        let answer: Value = serde_json::from_str(&body).unwrap_or_default();
        assert_eq!(
            (status, answer["status"].as_str()),
            (200, Some("success")),
            "{expression}: {body}"
        );
        let series = answer["data"]["result"].as_array().unwrap();
        series
            .iter()
            .map(|one| {
                (
                    one["metric"].clone(),
                    one["value"][1].as_str().unwrap().parse().unwrap(),
                )
            })
            .collect()
    }

    /// The one value of an expression, once there is one.
    pub fn value(&self, expression: &str) -> Option<u64> {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "counts are whole and positive"
        )]
        self.query(expression)
            .first()
            .map(|(_, value)| *value as u64)
    }

    /// Waits until an expression has this value.
    pub fn await_value(&self, expression: &str, expected: u64) {
        for _ in 0..600 {
            if self.value(expression) == Some(expected) {
                return;
            }
            pause(100);
        }
        panic!(
            "{expression} is {:?}, expected {expected}",
            self.query(expression)
        );
    }
}

impl Drop for Prometheus<'_> {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
