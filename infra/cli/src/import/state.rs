//! The progress of an import on disk, so that an import that ended early continues.

use std::collections::BTreeMap;
use std::fs::{self, File, TryLockError};
use std::io::{ErrorKind, Write};
use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::private_file;

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
}

/// The file of a state, which one import uses at a time.
pub struct StateFile {
    path: PathBuf,
    /// Locked until the import ends, also by a crash.
    _lock: File,
}

impl StateFile {
    /// Locks the file for this import.
    pub fn lock(path: PathBuf) -> anyhow::Result<Self> {
        let lock = path.with_extension("lock");
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
        let part = self.path.with_extension("part");
        let mut file = private_file::replace(&part).with_context(unwritten)?;
        file.write_all(&serde_json::to_vec(state)?).and_then(|()| file.sync_data()).with_context(unwritten)?;
        fs::rename(part, &self.path).with_context(unwritten)
    }

    /// Deletes the file of a complete import.
    pub fn delete(self) -> anyhow::Result<()> {
        for path in [&self.path, &self.path.with_extension("lock")] {
            match fs::remove_file(path) {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
                _ => {}
            }
        }
        Ok(())
    }
}
