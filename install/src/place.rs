//! A runtime may start the plugin at any moment, so the file is either the old or the new one.

use std::{
    fs::{self, File, Permissions},
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};
use tempfile::NamedTempFile;

const EXECUTABLE: u32 = 0o755;

/// Copies `from` into the directory `to` under its own name and returns where it is now.
pub(crate) fn binary(from: &Path, to: &Path) -> Result<PathBuf> {
    let name = from
        .file_name()
        .with_context(|| format!("{} has no name", from.display()))?;
    let mut source = File::open(from).with_context(|| {
        format!(
            "cannot read the plugin at {}: was it built?",
            from.display()
        )
    })?;
    if !source.metadata()?.is_file() {
        bail!("{} is not a file", from.display());
    }
    fs::create_dir_all(to)
        .with_context(|| format!("cannot make the plugin directory {}", to.display()))?;

    // In the same directory, because a rename is atomic only within one file system.
    let mut part = NamedTempFile::with_prefix_in(".sluice-", to)
        .with_context(|| format!("cannot write to {}", to.display()))?;
    io::copy(&mut source, part.as_file_mut()).with_context(|| {
        format!(
            "cannot copy to {}: is the disk full?",
            part.path().display()
        )
    })?;
    part.as_file()
        .set_permissions(Permissions::from_mode(EXECUTABLE))?;
    part.as_file().sync_all()?;

    let target = to.join(name);
    part.persist(&target)
        .with_context(|| format!("cannot replace {}", target.display()))?;
    // The rename itself is on disk only once the directory is.
    File::open(to)?.sync_all()?;
    Ok(target)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_plugin_replaces_the_old_one_and_leaves_no_other_file() {
        let node = tempfile::tempdir().unwrap();
        let from = node.path().join("sluice-cni");
        let to = node.path().join("opt/cni/bin");
        for content in ["old", "new"] {
            fs::write(&from, content).unwrap();
            assert_eq!(binary(&from, &to).unwrap(), to.join("sluice-cni"));
        }
        assert_eq!(fs::read_to_string(to.join("sluice-cni")).unwrap(), "new");
        let mode = fs::metadata(to.join("sluice-cni"))
            .unwrap()
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, EXECUTABLE);
        assert_eq!(fs::read_dir(&to).unwrap().count(), 1);
    }

    #[test]
    fn a_plugin_that_was_not_built_is_named_and_nothing_is_made() {
        let node = tempfile::tempdir().unwrap();
        let to = node.path().join("bin");
        let error = binary(&node.path().join("missing"), &to).unwrap_err();
        assert!(
            error.to_string().contains("missing: was it built?"),
            "{error}"
        );
        assert!(!to.exists());
    }
}
