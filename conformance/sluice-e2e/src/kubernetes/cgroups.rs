//! Cgroups of the node, one in each hierarchy. The kubelet sees them as the roots.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result, ensure};
use sluice_testbed::{
    cgroup::remove,
    mountinfo::{Mount, mounts},
};

/// A mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hierarchy {
    /// Where it is mounted.
    pub(crate) point: PathBuf,
    /// `cgroup` or `cgroup2`.
    pub(crate) kind: String,
    /// The options that mount it again.
    pub(crate) options: String,
}

/// Every hierarchy that is mounted.
pub(crate) fn hierarchies() -> Result<Vec<Hierarchy>> {
    let found = parse(mounts()?);
    ensure!(
        found.iter().any(|one| one.options == "memory"),
        "the kubelet of this test needs version 1 of cgroups, with the memory controller"
    );
    Ok(found)
}

fn parse(mounts: Vec<Mount>) -> Vec<Hierarchy> {
    let hierarchy = |Mount {
                         point,
                         kind,
                         options,
                         ..
                     }: Mount| {
        let asked: Vec<_> = options
            .split(',')
            .filter(|one| !["rw", "ro", "nsdelegate", "memory_recursiveprot"].contains(one))
            .collect();
        let mut options = asked.join(",");
        if options.starts_with("name=") {
            options.insert_str(0, "none,");
        }
        Hierarchy {
            point,
            kind,
            options,
        }
    };
    let mounts = mounts.into_iter();
    mounts
        .filter(|mount| ["cgroup", "cgroup2"].contains(&&*mount.kind))
        .map(hierarchy)
        .collect()
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

    /// Removes them and all below. Returns their number.
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

#[cfg(test)]
mod tests {
    use sluice_testbed::mountinfo;

    use super::*;

    #[test]
    fn hierarchies_are_found_with_their_mount_options() {
        let mounts = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n\
            33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n\
            40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,name=systemd\n\
            41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:5 - cgroup2 cgroup2 rw,nsdelegate\n";
        let found: Vec<_> = parse(mountinfo::parse(mounts))
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
