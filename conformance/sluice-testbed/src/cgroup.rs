//! A hierarchy of a test's own, so that nothing else on the machine is touched by its programs.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};

use crate::mountinfo::cgroup2;

const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// A cgroup of the v2 hierarchy. Dropping it ends the processes in it, which a test started, and
/// removes it with its descendants.
pub struct Cgroup {
    path: PathBuf,
    removed: bool,
}

impl Cgroup {
    /// Makes it at the top of the v2 hierarchy, wherever that is mounted.
    pub fn create(name: &str) -> Result<Self> {
        let path = cgroup2()?.join(name);
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self {
            path,
            removed: false,
        })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes a descendant. On a node the Pods are in descendants of the root, not in the root itself.
    pub fn child(&self, name: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(path)
    }

    /// Removes it with its descendants. Fails if processes stay in it.
    pub fn remove(mut self) -> Result<()> {
        self.removed = true;
        remove(&self.path).map(drop)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        if !self.removed {
            let _ = fs::write(self.path.join("cgroup.kill"), "1");
            let _ = remove(&self.path);
        }
    }
}

/// Removes a cgroup with its descendants, deepest first; returns how many there were. Waits for processes
/// that have just ended.
pub fn remove(path: &Path) -> Result<usize> {
    if !path.exists() {
        return Ok(0);
    }
    let mut count = 1;
    for entry in fs::read_dir(path)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            count += remove(&entry.path())?;
        }
    }
    let mut last = None;
    for _ in 0..TRIES {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(count),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(count),
            Err(error) => last = Some(error),
        }
        thread::sleep(PAUSE);
    }
    last.map_or(Ok(count), Err)
        .with_context(|| format!("cannot remove {}", path.display()))
}
