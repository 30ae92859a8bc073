//! Cgroups of the node's own, one in each hierarchy: what the kubelet takes for the top.

use std::{
    fs, io,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

const MOUNTS: &str = "/proc/self/mountinfo";
const TRIES: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// `cgroup` or `cgroup2`.
    pub(crate) kind: String,
    /// What has to be asked for to mount it once more.
    pub(crate) options: String,
}

/// Every hierarchy that is mounted.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let found = parse(&fs::read_to_string(MOUNTS)?);
    ensure!(
        found.iter().any(|one| one.options == "memory"),
        "the kubelet of this test needs version 1 of cgroups, with the memory controller"
    );
    Ok(found)
}

/// Fields of a line: proc(5), `/proc/pid/mountinfo`.
fn parse(mounts: &str) -> Vec<Hierarchy> {
    let hierarchy = |line: &str| {
        let (mount, source) = line.split_once(" - ")?;
        let mut source = source.split(' ');
        let kind = source
            .next()
            .filter(|kind| ["cgroup", "cgroup2"].contains(kind))?;
        let asked: Vec<_> = source
            .nth(1)?
            .split(',')
            .filter(|one| !["rw", "ro", "nsdelegate", "memory_recursiveprot"].contains(one))
            .collect();
        let mut options = asked.join(",");
        if options.starts_with("name=") {
            options.insert_str(0, "none,");
        }
        Some(Hierarchy {
            point: mount.split(' ').nth(4)?.into(),
            kind: kind.to_owned(),
            options,
        })
    };
    mounts.lines().filter_map(hierarchy).collect()
}

/// One cgroup in each hierarchy. Dropping it removes those that are empty.
pub(crate) struct Cgroups(Vec<PathBuf>);

impl Cgroups {
    /// Makes them at the top of each hierarchy.
    pub(crate) fn create(name: &str) -> Result<Self> {
        let mut made = Self(Vec::new());
        for Hierarchy { point, .. } in hierarchies()? {
            let path = point.join(name);
            fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
            made.0.push(path.clone());
            // In version 1 nothing can run in a cpuset that names no processors and no memory.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                if path.join(file).exists() && point.join(file).exists() {
                    fs::write(path.join(file), fs::read(point.join(file))?)?;
                }
            }
        }
        Ok(made)
    }

    /// Where they are.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.0
    }

    /// Puts the calling process into them.
    pub(crate) fn enter(paths: &[PathBuf]) -> Result<()> {
        for path in paths {
            // "0" is the writer itself.
            fs::write(path.join("cgroup.procs"), "0")
                .with_context(|| format!("cannot enter {}", path.display()))?;
        }
        Ok(())
    }

    /// Removes them and all below; returns how many there were.
    pub(crate) fn remove(mut self) -> Result<usize> {
        let paths = std::mem::take(&mut self.0);
        paths
            .iter()
            .try_fold(0, |count, path| Ok(count + remove(path)?))
    }
}

impl Drop for Cgroups {
    fn drop(&mut self) {
        for path in &self.0 {
            let _ = remove(path);
        }
    }
}

/// Deepest first: a cgroup with others in it cannot be removed.
fn remove(path: &Path) -> Result<usize> {
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
            // Processes that have just ended leave it a little later.
            Err(error) => last = Some(error),
        }
        thread::sleep(PAUSE);
    }
    last.map_or(Ok(count), Err)
        .with_context(|| format!("cannot remove {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_are_found_with_what_it_takes_to_mount_them_again() {
        let mounts = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
            33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:5 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found: Vec<_> = parse(mounts)
            .into_iter()
            .map(|one| (one.point, one.kind, one.options))
            .collect();
        let expected = [
            ("/sys/fs/cgroup/cpu,cpuacct", "cgroup", "cpu,cpuacct"),
            ("/sys/fs/cgroup/systemd", "cgroup", "none,name=systemd"),
            ("/sys/fs/cgroup/unified", "cgroup2", ""),
        ]
        .map(|(point, kind, options)| (point.into(), kind.into(), options.into()));
        assert_eq!(found, expected);
    }
}
