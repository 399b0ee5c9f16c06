//! The progress of an import on disk, so that an import that ended early continues.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::private_file;

/// The beginning of a state.
const BEGIN: &str = "{\"import\":";

/// The progress of an import.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What is imported from where to where: another import does not continue this one.
    pub import: String,
    /// The number of rows at the beginning of the source that are finished.
    pub rows: u64,
    /// The last one of them: the user, the PubSub service and the node, or its place.
    pub last: String,
    /// The number of rows by result.
    pub results: BTreeMap<String, u64>,
    /// The file with the rows that are left out.
    #[serde(default)]
    pub report: Option<String>,
}

/// The file of a state, which one import uses at a time.
pub struct StateFile {
    path: PathBuf,
    /// Locked until the import ends, also by a crash.
    _lock: File,
}

impl StateFile {
    /// Returns all files that are written: the state, its lock, and the state that replaces it.
    pub fn paths(path: &Path) -> [PathBuf; 3] {
        [path.to_owned(), path.with_extension("lock"), path.with_extension("part")]
    }

    /// Locks the file for this import.
    pub fn lock(path: PathBuf) -> anyhow::Result<Self> {
        let [_, lock, part] = Self::paths(&path);
        ensure!(lock != path && part != path, "--resume must not end with .lock or .part");
        let is_other = |path: &Path, begin: &str| {
            let mut found = Vec::new();
            let read = File::open(path).and_then(|file| file.take(BEGIN.len() as u64).read_to_end(&mut found));
            read.is_ok() && !begin.as_bytes().starts_with(&found)
        };
        for (path, begin) in [(&lock, ""), (&part, BEGIN)] {
            ensure!(!is_other(path, begin), "{} is not a file of an import: give --resume", path.display());
        }
        let unwritten = || format!("{} cannot be written: give --resume", lock.display());
        let file = File::options().write(true).create(true).truncate(false).open(&lock).with_context(unwritten)?;
        match file.try_lock() {
            Ok(()) => Ok(Self { path, _lock: file }),
            Err(TryLockError::WouldBlock) => bail!("another import uses {}: give --resume", path.display()),
            Err(TryLockError::Error(error)) => Err(error).with_context(unwritten),
        }
    }

    /// Reads the state of an import that ended early; `None` if there is none.
    pub fn load(&self, import: &str) -> anyhow::Result<Option<State>> {
        let path = self.path.display();
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error).with_context(|| format!("{path} cannot be read")),
        };
        let state: State =
            serde_json::from_slice(&text).with_context(|| format!("{path} is not the state of an import"))?;
        ensure!(
            state.import == import,
            "{path} is the state of another import ({}): continue that one, delete the file, or give --resume",
            state.import
        );
        Ok(Some(state))
    }

    /// Replaces the file. A crash leaves the former one or the new one.
    pub fn save(&self, state: &State) -> anyhow::Result<()> {
        let unwritten = || format!("{} cannot be written: give --resume", self.path.display());
        let [_, _, part] = Self::paths(&self.path);
        let mut file = private_file::replace(&part).with_context(unwritten)?;
        file.write_all(&serde_json::to_vec(state)?).and_then(|()| file.sync_data()).with_context(unwritten)?;
        fs::rename(part, &self.path).with_context(unwritten)
    }

    /// Deletes the file of a complete import.
    pub fn delete(self) -> anyhow::Result<()> {
        let [state, lock, _] = Self::paths(&self.path);
        for path in [state, lock] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}
