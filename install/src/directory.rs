//! Reads the configuration directory, and changes it step by step.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use crate::{
    atomic_file::{self, Error},
    attributes::Access,
    conf_files::{self, Files, Plugins},
    plan::Step,
};

/// containerd refuses configurations that are longer (go-cni's `MaxFileSize`).
const MAX_CONF_BYTES: u64 = 2 << 20;
/// The mode of a new file without a predecessor.
const READABLE: u32 = 0o644;

/// The content of the directory.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    /// Configurations, and the plugins in folders.
    pub(crate) files: Files,
    /// Files with the name of a configuration that cannot be read as one.
    pub(crate) unreadable: Vec<(String, io::Error)>,
}

/// The directory of configurations.
pub(crate) struct Directory<'a>(pub(crate) &'a Path);

impl Directory<'_> {
    pub(crate) fn read(&self) -> Result<Listing, Error> {
        let mut listing = Listing::default();
        let entries = match fs::read_dir(self.0) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(listing),
            entries => entries.map_err(Error::io("list", self.0))?,
        };
        for entry in entries {
            let entry = entry.map_err(Error::io("list", self.0))?;
            // A runtime would read such a file; no known program writes one.
            let Ok(name) = entry.file_name().into_string() else {
                continue;
            };
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                listing.files.extend(folder(&name, &entry.path()));
                continue;
            }
            if !conf_files::is_configuration(&name) {
                continue;
            }
            match read(&entry.path()) {
                Ok(text) => drop(listing.files.insert(name, text)),
                Err(error) => listing.unreadable.push((name, error)),
            }
        }
        Ok(listing)
    }

    /// The installed plugins of the runtime's plugin directory.
    pub(crate) fn plugins(binaries: &Path) -> Plugins {
        let entries = fs::read_dir(binaries).into_iter().flatten().flatten();
        let is_plugin =
            |entry: &fs::DirEntry| fs::metadata(entry.path()).is_ok_and(|file| file.is_file());
        entries
            .filter(is_plugin)
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }

    /// Carries out one step, if the file has not changed since it was read. A new file gets the mode, the
    /// owner and the attributes of its predecessor.
    pub(crate) fn apply(
        &self,
        step: &Step,
        read: &Files,
        template: Option<&str>,
    ) -> Result<(), Error> {
        match step {
            Step::Write { name, text } => {
                self.confirm(name, read)?;
                let path = self.path(name);
                let follows = || Access::of(&self.path(template?));
                let access = Access::of(&path)
                    .or_else(follows)
                    .unwrap_or_else(|| Access::own(READABLE));
                atomic_file::write(&path, text.as_bytes(), &access)
            }
            Step::Remove { name } => {
                self.confirm(name, read)?;
                atomic_file::remove(&self.path(name))
            }
        }
    }

    /// Checks that a file has not changed since it was read. A change by another program between this check
    /// and the step, some microseconds later, is lost.
    fn confirm(&self, name: &str, files: &Files) -> Result<(), Error> {
        let path = self.path(name);
        let now = match read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            text => Some(text.map_err(Error::io("read", &path))?),
        };
        if now.as_ref() == files.get(name) {
            Ok(())
        } else {
            Err(Error::Changed { path })
        }
    }

    /// The directories of the files: links may lead out of the configuration directory.
    pub(crate) fn real_directories(&self, files: &Files) -> Vec<PathBuf> {
        let real =
            |name: &String| Some(fs::canonicalize(self.path(name)).ok()?.parent()?.to_owned());
        let mut directories: Vec<_> = files.keys().filter_map(real).collect();
        directories.push(self.0.to_owned());
        directories.sort();
        directories.dedup();
        directories
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

/// The plugins in a folder, which current versions of libcni run with the list of its name.
fn folder(name: &str, path: &Path) -> Files {
    let entries = fs::read_dir(path).into_iter().flatten().flatten();
    let file = |entry: fs::DirEntry| {
        let file = entry.file_name().into_string().ok()?;
        let is_plugin = Path::new(&file)
            .extension()
            .is_some_and(|kind| kind == "conf");
        let text = is_plugin.then(|| read(&entry.path()).ok())??;
        Some((format!("{name}/{file}"), text))
    };
    entries.filter_map(file).collect()
}

fn read(path: &Path) -> io::Result<String> {
    // Reading a pipe would block.
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a file"));
    }
    let mut text = String::new();
    // One byte more than the limit distinguishes a longer file from one of that length.
    let length = File::open(path)?
        .take(MAX_CONF_BYTES + 1)
        .read_to_string(&mut text)?;
    if length as u64 > MAX_CONF_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_changed_since_is_not_overwritten() {
        let node = tempfile::tempdir().unwrap();
        let directory = Directory(node.path());
        let path = node.path().join("a.conflist");
        fs::write(&path, "read").unwrap();
        let read = directory.read().unwrap().files;
        fs::write(&path, "foreign").unwrap();
        let name = || "a.conflist".to_owned();
        let steps = [
            Step::Write {
                name: name(),
                text: "ours".to_owned(),
            },
            Step::Remove { name: name() },
        ];
        for step in steps {
            let error = directory.apply(&step, &read, None).unwrap_err();
            assert!(matches!(error, Error::Changed { .. }), "{error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), "foreign");
        }
    }

    #[test]
    fn unreadable_files_are_listed_separately() {
        let node = tempfile::tempdir().unwrap();
        let at = |name| node.path().join(name);
        fs::write(at("latin1.conf"), b"\xe9").unwrap();
        fs::write(at("README"), "").unwrap();
        fs::write(at("good.json"), "{}").unwrap();
        fs::create_dir(at("folder.conf")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("dangling.conf")).unwrap();
        File::create(at("long.conf"))
            .unwrap()
            .set_len(MAX_CONF_BYTES + 1)
            .unwrap();
        let Listing { files, unreadable } = Directory(node.path()).read().unwrap();
        assert_eq!(files.into_keys().collect::<Vec<_>>(), ["good.json"]);
        let mut names: Vec<_> = unreadable.into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, ["dangling.conf", "latin1.conf", "long.conf"]);
    }
}
