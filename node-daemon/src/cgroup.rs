//! The cgroup2 hierarchy: its mount point, its processes, the kubelet's Pods in it, and new children
//! of its root. Every process of the node is in it, also on nodes with cgroup v1 controllers.

mod watch;

use std::{
    ffi::OsString,
    fs::{self, File},
    io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs, statfs};

pub(crate) use watch::Watch;

const MOUNTS: &str = "/proc/self/mountinfo";

/// The root of the hierarchy cannot be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The mount table.
    #[error("cannot read {MOUNTS}")]
    Read(#[source] io::Error),
    /// There is no cgroup2 mount.
    #[error("no cgroup2 file system is mounted here: mount it, or name one with --cgroup")]
    NotMounted,
    /// The named directory cannot be used.
    #[error("cannot use the cgroup {}", path.display())]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// The named directory is in another file system.
    #[error(
        "{} is not in a cgroup2 file system: name its mount point, which `findmnt --types cgroup2` prints, \
         or a directory below it",
        path.display()
    )]
    NotCgroup2 {
        /// The directory.
        path: PathBuf,
    },
}

/// The named cgroup, or the root of the hierarchy.
///
/// # Errors
///
/// If the named directory is no cgroup, or if no hierarchy is mounted.
pub(crate) fn choose(named: Option<PathBuf>) -> Result<PathBuf, Error> {
    let Some(path) = named else { return find() };
    match statfs(&path) {
        Ok(there) if there.filesystem_type() == CGROUP2_SUPER_MAGIC => Ok(path),
        Ok(_) => Err(Error::NotCgroup2 { path }),
        Err(errno) => Err(Error::Unusable {
            path,
            source: errno.into(),
        }),
    }
}

/// The mount point of the cgroup2 hierarchy.
pub(crate) fn find() -> Result<PathBuf, Error> {
    let table = std::fs::read(MOUNTS).map_err(Error::Read)?;
    parse(&table).ok_or(Error::NotMounted)
}

/// Whether a directory is in a cgroup2 file system.
pub(crate) fn is_cgroup2(directory: &File) -> bool {
    fstatfs(directory).is_ok_and(|found| found.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// The processes in a cgroup and its descendants. Concurrent changes may be missing.
pub(crate) fn processes(cgroup: &Path) -> Vec<i32> {
    let mut found = Vec::new();
    // No recursion: a delegated cgroup's owner controls the depth.
    let mut waiting = vec![cgroup.to_owned()];
    while let Some(cgroup) = waiting.pop() {
        let listed = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
        found.extend(listed.lines().filter_map(|pid| pid.parse::<i32>().ok()));
        let below = fs::read_dir(&cgroup).into_iter().flatten().flatten();
        let directories = below.filter(|one| one.file_type().is_ok_and(|kind| kind.is_dir()));
        waiting.extend(directories.map(|one| one.path()));
    }
    found
}

/// The uid of the Pod in whose cgroup the kubelet keeps a process. `None` if that is no Pod's.
pub(crate) fn pod_of(process: i32) -> Option<String> {
    let own = fs::read_to_string(format!("/proc/{process}/cgroup")).ok()?;
    own.lines()
        .find_map(|line| pod_in(line.splitn(3, ':').nth(2)?))
}

/// The Pod's uid in a cgroup path. The kubelet's part of the hierarchy (`--cgroup-root`) begins at the
/// first or second level, or at any level below slices alone: systemd delegates no slice, and the owner
/// of a delegated cgroup may create the same names further down.
///
/// ```text
/// /kubepods/burstable/podUID/CONTAINER
/// /kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podUID.slice/RUNTIME-CONTAINER.scope
/// /kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-podUID.slice/…
/// ```
fn pod_in(path: &str) -> Option<String> {
    let levels = path.split('/').filter(|level| !level.is_empty());
    let levels: Vec<_> = levels.collect();
    let is_kubelets = |level: &&str| {
        let name = level.strip_suffix(".slice").unwrap_or(level);
        name == "kubepods" || (name != *level && name.ends_with("-kubepods"))
    };
    let slices = levels
        .iter()
        .take_while(|level| level.strip_suffix(".slice").is_some());
    let reach = slices.count().max(2);
    let kubelets = levels.iter().take(reach).position(is_kubelets)?;
    // A QoS class may precede the Pod.
    let below = levels[kubelets + 1..].iter().take(2);
    below.copied().find_map(uid_in)
}

/// `podUID`, or `…-podUID.slice` with `_` in place of `-`.
fn uid_in(level: &str) -> Option<String> {
    let uid = match level.strip_suffix(".slice") {
        Some(name) => name.rsplit_once("-pod")?.1.replace('_', "-"),
        None => level.strip_prefix("pod")?.to_owned(),
    };
    let is_uid = !uid.is_empty() && uid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_uid.then_some(uid)
}

/// Finds `cgroup2` in the kernel's mount table (proc(5): `id parent major:minor root mountpoint
/// options optional… - type source super`). A mount of the hierarchy's root is preferred to one of
/// a subtree, which a container may have.
fn parse(table: &[u8]) -> Option<PathBuf> {
    let mounts: Vec<_> = table
        .split(|byte| *byte == b'\n')
        .filter_map(mount)
        .collect();
    let whole = mounts.iter().find(|(root, _)| root == Path::new("/"));
    let (_, point) = whole.or(mounts.first())?;
    Some(point.clone())
}

/// The root and mount point of a line, if it is a cgroup2 mount.
fn mount(line: &[u8]) -> Option<(PathBuf, PathBuf)> {
    let mut fields = line.split(|byte| *byte == b' ');
    let root = fields.nth(3)?;
    let point = fields.next()?;
    let kind = fields.skip_while(|field| *field != b"-").nth(1)?;
    (kind == b"cgroup2").then(|| (unescape(root), unescape(point)))
}

/// Blanks, tabs, newlines and backslashes are written as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, after)) = rest.split_first() {
        let escaped = after.get(..3).filter(|_| *first == b'\\').and_then(octal);
        plain.push(escaped.unwrap_or(*first));
        rest = if escaped.is_some() {
            &after[3..]
        } else {
            after
        };
    }
    OsString::from_vec(plain).into()
}

fn octal(digits: &[u8]) -> Option<u8> {
    let text = std::str::from_utf8(digits).ok()?;
    let number = text.bytes().all(|byte| byte.is_ascii_digit());
    u8::from_str_radix(text, 8).ok().filter(|_| number)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn found(table: &str) -> Option<String> {
        parse(table.as_bytes()).map(|path| path.display().to_string())
    }

    #[test]
    fn cgroup2_root_is_found_on_unified_nodes() {
        let table = "\
22 27 0:21 / /proc rw,nosuid shared:12 - proc proc rw
29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
";
        assert_eq!(found(table).as_deref(), Some("/sys/fs/cgroup"));
    }

    #[test]
    fn cgroup2_root_is_found_beside_version_1() {
        let table = "\
30 23 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu rw shared:10 master:3 - cgroup cgroup rw,cpu
32 30 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw
";
        assert_eq!(found(table).as_deref(), Some("/sys/fs/cgroup/unified"));
    }

    #[test]
    fn the_whole_hierarchy_is_preferred_to_a_part() {
        let table = "\
31 30 0:28 /pod /part rw - cgroup2 cgroup2 rw
32 30 0:28 / /whole rw - cgroup2 cgroup2 rw
";
        assert_eq!(found(table).as_deref(), Some("/whole"));
    }

    #[test]
    fn escapes_in_mount_points_are_undone() {
        let table = "32 30 0:28 / /a\\040b\\134c\\9 rw - cgroup2 none rw";
        assert_eq!(found(table).as_deref(), Some("/a b\\c\\9"));
    }

    #[test]
    fn cgroup2_root_needs_a_mount() {
        assert_eq!(
            found("31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw"),
            None
        );
        assert_eq!(found("31 30 0:27 / /cgroup2 rw - tmpfs cgroup2 rw"), None);
        assert_eq!(found(""), None);
    }

    /// The paths of a Pod's process in the layouts of kubelets, cgroup drivers and runtimes. `UID` is
    /// the Pod's uid, `U_I_D` the same in the form of systemd.
    const LAYOUTS: [(&str, &str); 17] = [
        (
            "kubeadm, containerd, systemd",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice/cri-containerd-1.scope",
        ),
        (
            "the same, guaranteed",
            "/kubepods.slice/kubepods-podU_I_D.slice/cri-containerd-1.scope",
        ),
        (
            "kubeadm, containerd, cgroupfs",
            "/kubepods/besteffort/podUID/1",
        ),
        ("the same, guaranteed", "/kubepods/podUID/1"),
        (
            "CRI-O, systemd",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_I_D.slice/crio-1.scope",
        ),
        (
            "CRI-O, systemd, crun",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_I_D.slice/crio-1.scope/container",
        ),
        ("CRI-O, cgroupfs", "/kubepods/burstable/podUID/crio-1"),
        (
            "OpenShift, conmon",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice/crio-conmon-1.scope",
        ),
        (
            "cri-dockerd, systemd",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podU_I_D.slice/docker-1.scope",
        ),
        (
            "kind, inside its node",
            "/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-podU_I_D.slice/cri-containerd-1.scope",
        ),
        (
            "kind before 0.16, inside its node",
            "/kubelet/kubepods/burstable/podUID/1",
        ),
        ("k3s without systemd", "/kubepods/burstable/podUID/1"),
        (
            "k3s with systemd",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podU_I_D.slice/cri-containerd-1.scope",
        ),
        ("microk8s", "/kubepods/besteffort/podUID/1"),
        (
            "--cgroup-root=/a/b, systemd",
            "/a.slice/a-b.slice/a-b-kubepods.slice/a-b-kubepods-besteffort.slice/a-b-kubepods-besteffort-podU_I_D.slice/x.scope",
        ),
        ("--cgroup-root=/a, cgroupfs", "/a/kubepods/podUID/1"),
        (
            "a process that made cgroups of its own",
            "/kubepods/burstable/podUID/1/own/deeper",
        ),
    ];

    #[test]
    fn directory_of_another_file_system_is_no_cgroup() {
        let error = choose(Some("/proc".into())).unwrap_err().to_string();
        assert!(
            error.contains("/proc is not in a cgroup2 file system"),
            "{error}"
        );
        let missing = choose(Some("/proc/nowhere".into()));
        assert!(matches!(missing, Err(Error::Unusable { .. })));
        let root = find().unwrap();
        assert_eq!(choose(Some(root.clone())).unwrap(), root);
    }

    #[test]
    fn pod_uid_is_read_in_every_layout() {
        let uid = "8c26f6c5-6b8c-4a0e-9d3b-0f3f4b4cfa11";
        for (layout, path) in LAYOUTS {
            let path = path.replace("U_I_D", &uid.replace('-', "_"));
            let path = path.replace("UID", uid);
            assert_eq!(pod_in(&path).as_deref(), Some(uid), "{layout}: {path}");
        }
    }

    #[test]
    fn pod_uid_is_not_read_from_a_delegated_cgroup() {
        for path in [
            "/",
            "/kubepods",
            "/kubepods/burstable",
            "/kubepods/podx/c",
            "/kubepods/pod",
            "/docker/1/kubepods/pod8c26f6c5",
            "/user.slice/user-1000.slice/kubepods/pod8c26f6c5",
            "/user.slice/user-1000.slice/user@1000.service/kubepods.slice/kubepods-pod8c26f6c5.slice",
            "/system.slice/docker-1.scope/kubepods.slice/kubepods-pod8c26f6c5.slice",
            "/pod8c26f6c5",
            "/notkubepods/pod8c26f6c5",
            "/notkubepods.slice/x-pod8c26f6c5.slice",
            "/kubepods/burstable/c/pod8c26f6c5",
        ] {
            assert_eq!(pod_in(path), None, "{path}");
        }
    }

    #[test]
    fn process_of_this_test_is_in_no_pod() {
        assert_eq!(pod_of(std::process::id().cast_signed()), None);
    }

    proptest! {
        #[test]
        fn no_table_makes_the_parser_panic(table: Vec<u8>) {
            drop(parse(&table));
            drop(unescape(&table));
            drop(pod_in(&String::from_utf8_lossy(&table)));
        }
    }
}
