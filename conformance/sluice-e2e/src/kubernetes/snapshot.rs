//! The content of directories, byte for byte.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Result, ensure};

/// Every file of some directories with its mode and content.
#[derive(PartialEq, Eq)]
pub(crate) struct Snapshot(BTreeMap<PathBuf, (u32, Vec<u8>)>);

impl Snapshot {
    /// Reads them.
    pub(crate) fn take(directories: &[&str]) -> Result<Self> {
        let mut files = BTreeMap::new();
        for directory in directories {
            collect(Path::new(directory), &mut files)?;
        }
        Ok(Self(files))
    }

    /// The number of files.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Fails with the names of the files that differ now.
    pub(crate) fn expect(&self, now: &Self) -> Result<()> {
        let names = self.0.keys().chain(now.0.keys());
        let changed: Vec<_> = names
            .filter(|name| self.0.get(*name) != now.0.get(*name))
            .map(|name| name.display().to_string())
            .collect();
        ensure!(changed.is_empty(), "changed: {}", changed.join(", "));
        Ok(())
    }
}

fn collect(path: &Path, files: &mut BTreeMap<PathBuf, (u32, Vec<u8>)>) -> Result<()> {
    let metadata = fs::symlink_metadata(path)?;
    if !metadata.is_dir() {
        let content = fs::read(path)?;
        files.insert(path.to_owned(), (metadata.permissions().mode(), content));
        return Ok(());
    }
    files.insert(path.to_owned(), (metadata.permissions().mode(), Vec::new()));
    for entry in fs::read_dir(path)? {
        collect(&entry?.path(), files)?;
    }
    Ok(())
}
