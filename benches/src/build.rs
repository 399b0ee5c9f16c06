//! Builds the measured binaries as they are deployed: in release, without the features of other crates.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};
use serde_json::Value;

/// The functions, by their crates. `pubsub` is the push node.
pub const FUNCTIONS: [&str; 5] = ["enable", "disable", "ingest", WORKER, "pubsub"];
/// The worker.
pub const WORKER: &str = "worker";
/// The function that does nothing.
pub const EMPTY: &str = "empty";
/// The local stack.
pub const LOCAL: &str = "pushlark-local";
/// The name of the binary that measures the parts without I/O.
pub const PURE: &str = "pure";

/// The paths of the built binaries, by name.
#[derive(Default)]
pub struct Binaries(HashMap<String, PathBuf>);

impl Binaries {
    /// Builds the functions, the empty one and the pure parts.
    pub fn build() -> anyhow::Result<Self> {
        let mut all = Self::default();
        all.add(&FUNCTIONS.map(|function| ["-p", function]).concat())?;
        all.add(&["-p", env!("CARGO_PKG_NAME"), "--no-default-features", "--bin", EMPTY])?;
        all.add(&["-p", env!("CARGO_PKG_NAME"), "--no-default-features", "--features", PURE, "--bin", PURE])?;
        Ok(all)
    }

    /// Builds these functions only.
    pub fn of(functions: &[&str]) -> anyhow::Result<Self> {
        let mut some = Self::default();
        let packages: Vec<_> = functions.iter().flat_map(|function| ["-p", function]).collect();
        some.add(&packages)?;
        Ok(some)
    }

    /// Takes these functions from the folder that `sam build` fills, whose folders have the names of the template.
    pub fn of_sam(folder: &Path, functions: &[&str]) -> anyhow::Result<Self> {
        let path = |function: &str| {
            let resource = function[..1].to_uppercase() + &function[1..];
            let binary = folder.join(resource).join("bootstrap");
            let binary = binary.canonicalize().with_context(|| format!("there is no {}", binary.display()))?;
            Ok((function.to_owned(), binary))
        };
        Ok(Self(functions.iter().copied().map(path).collect::<anyhow::Result<_>>()?))
    }

    /// Returns the path of a binary by its name.
    pub fn path(&self, name: &str) -> anyhow::Result<&Path> {
        self.0.get(name).map(PathBuf::as_path).with_context(|| format!("cargo built no {name}"))
    }

    /// Builds the local stack, too.
    pub fn with_local_stack(mut self) -> anyhow::Result<Self> {
        self.add(&["-p", "local", "--bin", LOCAL])?;
        Ok(self)
    }

    fn add(&mut self, what: &[&str]) -> anyhow::Result<()> {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let built = Command::new(cargo)
            .args(["build", "--release", "--message-format=json-render-diagnostics"])
            .args(what)
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .stderr(Stdio::inherit())
            .output()?;
        ensure!(built.status.success(), "cargo does not build {what:?}");
        for message in std::str::from_utf8(&built.stdout)?.lines() {
            let message: Value = serde_json::from_str(message)?;
            if let (Some(binary), Some(name)) = (message["executable"].as_str(), message["target"]["name"].as_str()) {
                self.0.insert(name.into(), binary.into());
            }
        }
        Ok(())
    }
}
