//! `import` and `export`, with files that real servers wrote.

mod hostile;
mod round_trip;
mod sources;
mod writes;

use serde_json::Value;
use tests::Pushlark;
use tokio::process::Child;

use crate::{Folder, Ran, finished, program_at};

/// Starts a command at the stack, which keeps the state of an import in the folder.
fn spawn(pushlark: &Pushlark, folder: &Folder, arguments: &[&str]) -> Child {
    program_at(pushlark, arguments).current_dir(&folder.0).spawn().unwrap()
}

/// Runs such a command.
async fn run(pushlark: &Pushlark, folder: &Folder, arguments: &[&str]) -> Ran {
    finished(spawn(pushlark, folder, arguments)).await
}

/// Imports a source at once, and returns the report. `form` may be followed by more options.
async fn import(pushlark: &Pushlark, folder: &Folder, source: &str, form: &[&str]) -> Value {
    let arguments = [&["--json", "import", source, "--rate", "10000", "--from"], form].concat();
    run(pushlark, folder, &arguments).await.json()
}

/// Returns the path of a file that a server wrote.
fn fixture(name: &str) -> String {
    format!("{}/../../tests/fixtures/import/{name}", env!("CARGO_MANIFEST_DIR"))
}
