//! Files that only their owner can read: they have tokens of devices, or names of users.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Creates a file, and opens it for reading and writing. A file of the same name is an error.
pub fn create_new(path: &Path) -> io::Result<File> {
    options().read(true).create_new(true).open(path)
}

/// Creates a file, or empties it.
pub fn replace(path: &Path) -> io::Result<File> {
    options().create(true).truncate(true).open(path)
}

/// Opens a file to add to its end. Creates it if there is none.
pub fn append(path: &Path) -> io::Result<File> {
    options().append(true).create(true).open(path)
}

fn options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.write(true).mode(0o600);
    options
}
