//! A hierarchy of the lab's own, so that nothing else on the machine is touched by the programs. As on
//! a node, the Pods are in a child of the root.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result};

const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(20);

/// A cgroup of the v2 hierarchy. Dropping it removes it if it is empty.
pub struct Cgroup {
    path: PathBuf,
    pods: PathBuf,
}

impl Cgroup {
    /// Makes it at the top of the v2 hierarchy, wherever that is mounted.
    pub fn create(name: &str) -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        let top = mount_point(&mounts).context("no cgroup2 file system is mounted")?;
        let path = Path::new(top).join(name);
        let pods = path.join("pods");
        fs::create_dir_all(&pods).with_context(|| format!("cannot make {}", pods.display()))?;
        Ok(Self { path, pods })
    }

    /// The root, which the daemon serves.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The child in which processes run.
    pub fn pods(&self) -> &Path {
        &self.pods
    }

    /// Removes it.
    pub fn remove(self) -> Result<()> {
        let mut last = None;
        for _ in 0..TRIES {
            let _ = fs::remove_dir(&self.pods);
            match fs::remove_dir(&self.path) {
                Ok(()) => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                // Processes that have just ended leave it a little later.
                Err(error) => last = Some(error),
            }
            thread::sleep(PAUSE);
        }
        last.map_or(Ok(()), Err)
            .with_context(|| format!("cannot remove {}", self.path.display()))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.pods);
        let _ = fs::remove_dir(&self.path);
    }
}

/// Fields of a line: proc(5), `/proc/pid/mountinfo`.
fn mount_point(mounts: &str) -> Option<&str> {
    mounts
        .lines()
        .find(|line| {
            line.split(" - ")
                .nth(1)
                .is_some_and(|rest| rest.starts_with("cgroup2 "))
        })
        .and_then(|line| line.split(' ').nth(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_v2_hierarchy_is_found_on_hybrid_machines() {
        let mounts = "31 24 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      40 31 0:37 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:5 - cgroup2 cgroup2 rw";
        assert_eq!(mount_point(mounts), Some("/sys/fs/cgroup/unified"));
        assert_eq!(mount_point("1 2 0:3 / / rw - ext4 /dev/vda rw"), None);
    }
}
