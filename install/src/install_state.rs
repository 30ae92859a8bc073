//! The state of an installation: a write-ahead record of every change to the host.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{atomic_file, attributes::Access, plan::Change, spec::Paths};

/// The state's file in the state directory.
const NAME: &str = "install.json";
/// The version of this layout.
const VERSION: u32 = 1;

#[derive(Debug, Error)]
pub(crate) enum Error {
    #[error(transparent)]
    File(#[from] atomic_file::Error),
    #[error("the state file {} is damaged: {source}; restore it, or remove it: the installer then \
             removes the entries that it recognizes", path.display())]
    Garbled {
        path: PathBuf,
        source: serde_json::Error,
    },
    #[error("the state file {} has version {found}, this program supports {VERSION}: use the program \
             that installed Sluice", path.display())]
    Version { path: PathBuf, found: u32 },
    #[error("Sluice is installed in {} and {}: name those directories, or uninstall there first",
            bin.display(), conf.display())]
    Elsewhere { bin: PathBuf, conf: PathBuf },
}

/// The progress of an installation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Phase {
    /// The plugin and the configuration are being, or have been, installed.
    Installed,
    /// The configuration is being, or has been, restored; the plugin is removed next.
    Removing,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct InstallState {
    version: u32,
    cni_bin: PathBuf,
    cni_conf: PathBuf,
    pub(crate) phase: Phase,
    /// Directories that the installer created, outermost first.
    #[serde(alias = "made")]
    pub(crate) created_dirs: Vec<PathBuf>,
    /// The changes of configurations that are done or in progress.
    pub(crate) changes: Vec<Change>,
}

impl InstallState {
    pub(crate) fn new(paths: &Paths) -> Self {
        Self {
            version: VERSION,
            cni_bin: paths.cni_bin.clone(),
            cni_conf: paths.cni_conf.clone(),
            phase: Phase::Installed,
            created_dirs: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// The state that an earlier run stored.
    pub(crate) fn read(paths: &Paths) -> Result<Option<Self>, Error> {
        let path = path(paths);
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(atomic_file::Error::io("read", &path))?,
        };
        let install_state = parse(&text, &path)?;
        let Self {
            cni_bin: bin,
            cni_conf: conf,
            ..
        } = &install_state;
        if (bin, conf) != (&paths.cni_bin, &paths.cni_conf) {
            return Err(Error::Elsewhere {
                bin: bin.clone(),
                conf: conf.clone(),
            });
        }
        Ok(Some(install_state))
    }

    pub(crate) fn write(&self, paths: &Paths) -> Result<(), Error> {
        let path = path(paths);
        let text = serde_json::to_vec_pretty(self).map_err(|source| Error::Garbled {
            path: path.clone(),
            source,
        })?;
        // The configurations in it may contain secrets.
        Ok(atomic_file::write(&path, &text, &Access::own(0o600))?)
    }

    pub(crate) fn remove(paths: &Paths) -> Result<(), Error> {
        Ok(atomic_file::remove(&path(paths))?)
    }
}

fn path(paths: &Paths) -> PathBuf {
    paths.state.join(NAME)
}

fn parse(text: &[u8], path: &Path) -> Result<InstallState, Error> {
    #[derive(Deserialize)]
    struct Head {
        version: u32,
    }
    let garbled = |source| Error::Garbled {
        path: path.to_owned(),
        source,
    };
    let Head { version } = serde_json::from_slice(text).map_err(garbled)?;
    if version != VERSION {
        return Err(Error::Version {
            path: path.to_owned(),
            found: version,
        });
    }
    serde_json::from_slice(text).map_err(garbled)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn paths(state: &Path, conf: &str) -> Paths {
        Paths {
            cni_bin: "/opt/cni/bin".into(),
            cni_conf: conf.into(),
            cni_cache: "/var/lib/cni".into(),
            state: state.to_owned(),
        }
    }

    #[test]
    fn install_state_round_trips() {
        let state = tempfile::tempdir().unwrap();
        let paths = paths(state.path(), "/etc/cni/net.d");
        assert_eq!(InstallState::read(&paths).unwrap(), None);
        let mut install_state = InstallState::new(&paths);
        install_state.phase = Phase::Removing;
        install_state.changes.push(Change {
            name: "10-calico.conflist".to_owned(),
            before: Some("{ \"é\": 1 }\r\n".to_owned()),
            after: None,
        });
        install_state.write(&paths).unwrap();
        assert_eq!(InstallState::read(&paths).unwrap(), Some(install_state));
        InstallState::remove(&paths).unwrap();
        assert_eq!(InstallState::read(&paths).unwrap(), None);
    }

    #[test]
    fn state_of_other_directories_is_refused_with_remedy() {
        let state = tempfile::tempdir().unwrap();
        let here = paths(state.path(), "/etc/cni/net.d");
        InstallState::new(&here).write(&here).unwrap();
        let there = InstallState::read(&paths(state.path(), "/run/cni")).unwrap_err();
        assert!(
            there
                .to_string()
                .contains("installed in /opt/cni/bin and /etc/cni/net.d")
        );
        for (text, part) in [("{", "remove it"), ("{\"version\":2}", "supports 1")] {
            fs::write(path(&here), text).unwrap();
            let error = InstallState::read(&here).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
