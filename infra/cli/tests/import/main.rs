//! The import and the export of registrations: the program runs beside a local stack, with files that real servers wrote.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod hostile;
mod round_trip;
mod sources;
mod writes;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::Value;
use tests::Pushlark;
use tokio::process::{Child, Command};

/// A folder of a test, which is deleted at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("pushlark-import-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file, and returns its path.
    fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, content).unwrap();
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The result of a command.
#[derive(Debug)]
struct Ran {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

impl Ran {
    /// Checks that the command succeeded, and returns its JSON.
    fn json(self) -> Value {
        assert_eq!(self.code, Some(0), "{self:?}");
        serde_json::from_str(&self.stdout).unwrap()
    }

    /// Checks that the command failed, and returns its error.
    fn error(self) -> String {
        assert_eq!(self.code, Some(1), "{self:?}");
        self.stderr
    }
}

/// Starts a command at the stack.
fn spawn(pushlark: &Pushlark, folder: &Folder, arguments: &[&str]) -> Child {
    Command::new(env!("CARGO_BIN_EXE_pushlark"))
        .arg(format!("--local={}", pushlark.stack.url))
        .args(arguments)
        .current_dir(&folder.0)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap()
}

/// Runs a command at the stack.
async fn run(pushlark: &Pushlark, folder: &Folder, arguments: &[&str]) -> Ran {
    finished(spawn(pushlark, folder, arguments)).await
}

async fn finished(child: Child) -> Ran {
    let output = child.wait_with_output().await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
}

/// Imports a source at once, and returns the report. `form` may be followed by more options.
async fn import(pushlark: &Pushlark, folder: &Folder, source: &Path, form: &[&str]) -> Value {
    let arguments = [&["--json", "import", source.to_str().unwrap(), "--rate", "10000", "--from"], form].concat();
    run(pushlark, folder, &arguments).await.json()
}

/// Returns the path of a file that a server wrote.
fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/import").join(name)
}
