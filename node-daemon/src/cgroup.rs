//! Where the unified cgroup hierarchy is mounted: every process of the node is in it, also on
//! nodes that use version 1 for resources.

use std::{
    ffi::OsString,
    fs, io,
    os::unix::ffi::OsStringExt as _,
    path::{Path, PathBuf},
};

const MOUNTS: &str = "/proc/self/mountinfo";

/// The hierarchy's root cannot be found.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// The table of mounts.
    #[error("cannot read {MOUNTS}")]
    Read(#[source] io::Error),
    /// No mount of that kind.
    #[error("no cgroup2 file system is mounted here: mount it, or name one with --cgroup")]
    NotMounted,
}

/// The mount point of the unified hierarchy.
pub(crate) fn find() -> Result<PathBuf, Error> {
    let table = std::fs::read(MOUNTS).map_err(Error::Read)?;
    parse(&table).ok_or(Error::NotMounted)
}

/// The processes in a cgroup and in those below it. Those that come and go meanwhile may be missing.
pub(crate) fn processes(cgroup: &Path) -> Vec<i32> {
    let listed = fs::read_to_string(cgroup.join("cgroup.procs")).unwrap_or_default();
    let mut found: Vec<_> = listed.lines().filter_map(|pid| pid.parse().ok()).collect();
    let below = fs::read_dir(cgroup).into_iter().flatten().flatten();
    for directory in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        found.extend(processes(&directory.path()));
    }
    found
}

/// Whether the kubelet made a process's cgroup for a Pod: its name has the Pod's uid, with `_` in
/// place of `-` if systemd keeps it. No process can leave it that sees no other cgroup.
pub(crate) fn is_of_pod(process: i32, uid: &str) -> bool {
    let own = fs::read_to_string(format!("/proc/{process}/cgroup")).unwrap_or_default();
    [uid.to_owned(), uid.replace('-', "_")]
        .iter()
        .any(|uid| own.contains(&format!("pod{uid}")))
}

/// Looks for `cgroup2` in the kernel's table of mounts (proc(5): `id parent major:minor root
/// mountpoint options optional… - type source super`). A mount of the hierarchy's root is
/// preferred to one of a part of it, as a container may have.
fn parse(table: &[u8]) -> Option<PathBuf> {
    let mounts: Vec<_> = table
        .split(|byte| *byte == b'\n')
        .filter_map(mount)
        .collect();
    let whole = mounts.iter().find(|(root, _)| root == Path::new("/"));
    let (_, point) = whole.or(mounts.first())?;
    Some(point.clone())
}

/// Root and mount point of a line, if it is about cgroup2.
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
    fn a_unified_node_has_it_at_the_usual_place() {
        let table = "\
22 27 0:21 / /proc rw,nosuid shared:12 - proc proc rw
29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
";
        assert_eq!(found(table).as_deref(), Some("/sys/fs/cgroup"));
    }

    #[test]
    fn a_hybrid_node_has_it_beside_version_1() {
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
    fn without_a_mount_there_is_no_answer() {
        assert_eq!(
            found("31 30 0:27 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw"),
            None
        );
        assert_eq!(found("31 30 0:27 / /cgroup2 rw - tmpfs cgroup2 rw"), None);
        assert_eq!(found(""), None);
    }

    proptest! {
        #[test]
        fn no_table_makes_the_parser_panic(table: Vec<u8>) {
            drop(parse(&table));
            drop(unescape(&table));
        }
    }
}
