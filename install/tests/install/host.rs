//! A host: the directories that the installer works on.

use std::{
    collections::BTreeMap,
    env, fs,
    io::{self, ErrorKind},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _, lchown},
    path::{Path, PathBuf},
    process::{Command, Output},
};

use rustix::fs::{XattrFlags, lgetxattr, setxattr};
use tempfile::TempDir;

/// The content of the plugin's file: it supports every version but one.
pub(crate) const PLUGIN: &[u8] = br#"#!/bin/sh
[ "$CNI_COMMAND" != VERSION ] || echo '{"cniVersion":"1.1.0","supportedVersions":
    ["0.1.0","0.2.0","0.3.0","0.3.1","0.4.0","1.0.0","1.1.0"]}'
"#;

/// A network as most nodes have it.
pub(crate) const LIST: &str = r#"{
  "name": "k8s-pod-network",
  "plugins": [
    {"type": "calico"}
  ]
}
"#;
/// The same with Sluice's entry.
pub(crate) const CHAINED: &str = r#"{
  "name": "k8s-pod-network",
  "plugins": [
    {"type": "calico"},
    {"type":"sluice-cni","capabilities":{"io.kubernetes.cri.pod-annotations":true}}
  ]
}
"#;

/// A file, and everything about it that must be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    content: Vec<u8>,
    mode: u32,
    owner: (u32, u32),
    /// The value of [`LABEL`].
    label: Option<Vec<u8>>,
}

/// An extended attribute, which stands for all that a security module or an owner sets.
const LABEL: &str = "user.label";

/// A directory's entries by name, and those of its folders as `FOLDER/NAME`.
pub(crate) type Tree = BTreeMap<String, Entry>;

pub(crate) struct Host {
    directory: TempDir,
    /// The configuration directory.
    pub(crate) conf: PathBuf,
    /// Seconds for which an uninstall waits.
    pub(crate) grace: u32,
}

impl Host {
    /// One whose runtime has no configuration yet.
    pub(crate) fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let host = Self {
            conf: directory.path().join("net.d"),
            directory,
            grace: 0,
        };
        fs::create_dir(&host.conf).unwrap();
        fs::create_dir(host.path("image")).unwrap();
        fs::write(host.path("image/sluice-cni"), PLUGIN).unwrap();
        host
    }

    pub(crate) fn with(files: &[(&str, &str)]) -> Self {
        let host = Self::new();
        for (name, text) in files {
            host.write(name, text);
        }
        host
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    pub(crate) fn plugin(&self) -> PathBuf {
        self.path("bin/sluice-cni")
    }

    pub(crate) fn write(&self, name: &str, text: &str) {
        fs::write(self.conf.join(name), text).unwrap();
    }

    pub(crate) fn read(&self, name: &str) -> String {
        fs::read_to_string(self.conf.join(name)).unwrap_or_default()
    }

    /// The installer, to be started.
    pub(crate) fn command(&self, job: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-install"));
        command
            .arg(job)
            .arg("--cni-bin-dir")
            .arg(self.path("bin"))
            .arg("--cni-conf-dir")
            .arg(&self.conf)
            .arg("--cni-cache-dir")
            .arg(self.path("cache"))
            .arg("--state-dir")
            .arg(self.path("state"));
        match job {
            "install" | "run" => command.arg("--plugin").arg(self.path("image/sluice-cni")),
            "uninstall" => command.arg(format!("--grace={}", self.grace)),
            _ => &mut command,
        };
        command
    }

    pub(crate) fn run(&self, job: &str, arguments: &[&str]) -> Output {
        self.command(job).args(arguments).output().unwrap()
    }

    /// Runs a command that must succeed, and returns its output.
    pub(crate) fn succeed(&self, job: &str) -> String {
        let output = self.run(job, &[]);
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{job}: {said}");
        said
    }

    /// The configuration directory.
    pub(crate) fn tree(&self) -> Tree {
        tree(&self.conf)
    }

    /// Whether there is a file that a runtime uses.
    #[cfg(feature = "failpoints")]
    pub(crate) fn is_networked(&self) -> bool {
        let status = self.run("status", &["--json"]).stdout;
        let status: serde_json::Value = serde_json::from_slice(&status).unwrap();
        status["selected"].is_string()
    }

    /// That nothing but the given configuration is left of the installer.
    pub(crate) fn assert_clean(&self, before: &Tree) {
        assert_eq!(&self.tree(), before);
        let left: Vec<_> = fs::read_dir(self.directory.path())
            .unwrap()
            .flatten()
            .collect();
        let mut names: Vec<_> = left.iter().map(fs::DirEntry::file_name).collect();
        names.sort();
        assert_eq!(names, ["image", "net.d"]);
    }
}

/// The built plugin: named by the environment, or beside the installer.
pub(crate) fn built_plugin() -> PathBuf {
    let beside = || {
        let installer = Path::new(env!("CARGO_BIN_EXE_sluice-install"));
        installer.with_file_name("sluice-cni")
    };
    let plugin = env::var_os("SLUICE_CNI").map_or_else(beside, PathBuf::from);
    assert!(
        plugin.exists(),
        "build {}, or set SLUICE_CNI",
        plugin.display()
    );
    plugin
}

/// Copies a program, by a process of its own: a file that this one writes cannot be started as long
/// as a process that another thread has just forked holds it.
pub(crate) fn copy_program(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg(from).arg(to).status();
    assert!(copied.unwrap().success());
}

/// The files below a directory. A file that the installer removes meanwhile is not among them.
pub(crate) fn tree(directory: &Path) -> Tree {
    let mut tree = Tree::new();
    for file in fs::read_dir(directory).unwrap().flatten() {
        let path = file.path();
        let name = file.file_name().into_string().unwrap();
        if file.file_type().unwrap().is_dir() {
            let inner = self::tree(&path).into_iter();
            tree.extend(inner.map(|(file, entry)| (format!("{name}/{file}"), entry)));
            continue;
        }
        match entry(&path) {
            Ok(entry) => _ = tree.insert(name, entry),
            Err(error) => assert_eq!(error.kind(), ErrorKind::NotFound, "{}", path.display()),
        }
    }
    tree
}

/// A link's content is its target.
fn entry(path: &Path) -> io::Result<Entry> {
    let metadata = fs::symlink_metadata(path)?;
    let content = if metadata.is_symlink() {
        fs::read_link(path)?.into_os_string().into_encoded_bytes()
    } else {
        fs::read(path)?
    };
    let mut label = vec![0; 64];
    let length = lgetxattr(path, LABEL, &mut label).ok();
    Ok(Entry {
        content,
        mode: metadata.mode(),
        owner: (metadata.uid(), metadata.gid()),
        label: length.map(|length| label[..length].to_owned()),
    })
}

/// Copies a directory, links as links. Every file gets a mode, an owner and an attribute that
/// nothing has by itself, for which the tests must be root's.
pub(crate) fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap().flatten() {
        let copy = to.join(entry.file_name());
        let kind = entry.file_type().unwrap();
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path()).unwrap(), &copy).unwrap();
        } else if kind.is_dir() {
            fs::create_dir(&copy).unwrap();
            self::copy(&entry.path(), &copy);
        } else {
            fs::copy(entry.path(), &copy).unwrap();
            fs::set_permissions(&copy, fs::Permissions::from_mode(0o640)).unwrap();
            lchown(&copy, Some(12), Some(34)).unwrap();
            setxattr(&copy, LABEL, b"cni_conf_t", XattrFlags::empty()).unwrap();
        }
    }
}
