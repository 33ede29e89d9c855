//! The crates of the workspace and everything that they depend on, as `cargo metadata` reports it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use serde_json::Value;

use crate::text::{last_part, root};
use crate::ways::shortest_ways;

/// What `cargo metadata` says: members by directory, and the graph of normal dependencies.
pub struct Workspace {
    pub members: BTreeMap<String, Value>,
    names: BTreeMap<String, String>,
    dependencies: BTreeMap<String, Vec<String>>,
}

impl Workspace {
    pub fn read() -> Self {
        let platform = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let output = Command::new(env!("CARGO"))
            .args(["metadata", "--format-version", "1", "--locked"])
            .args(["--filter-platform", &platform])
            .current_dir(root())
            .output()
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "cargo metadata: {error}");
        let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();

        let mut workspace = Self {
            members: BTreeMap::new(),
            names: BTreeMap::new(),
            dependencies: BTreeMap::new(),
        };
        for package in metadata["packages"].as_array().unwrap() {
            let text = |key: &str| package[key].as_str().unwrap().to_owned();
            workspace.names.insert(text("id"), text("name"));
            if package["source"].is_null() {
                let folder = PathBuf::from(text("manifest_path"));
                let name = last_part(folder.parent().unwrap());
                workspace.members.insert(name, package.clone());
            }
        }
        for node in metadata["resolve"]["nodes"].as_array().unwrap() {
            let is_normal = |dependency: &&Value| {
                let mut kinds = dependency["dep_kinds"].as_array().unwrap().iter();
                kinds.any(|kind| kind["kind"].is_null())
            };
            let dependencies = node["deps"].as_array().unwrap().iter().filter(is_normal);
            let ids = dependencies.map(|dependency| dependency["pkg"].as_str().unwrap().to_owned());
            let id = node["id"].as_str().unwrap().to_owned();
            workspace.dependencies.insert(id, ids.collect());
        }
        workspace
    }

    /// The names on the shortest way to each package that `from` depends on.
    pub fn chains_from(&self, from: &str) -> Vec<Vec<&str>> {
        let ways = shortest_ways(from, |id| {
            self.dependencies[*id].iter().map(String::as_str).collect()
        });
        let names = |way: Vec<&str>| way.iter().map(|id| self.names[*id].as_str()).collect();
        ways.into_values().map(names).collect()
    }
}
