//! The mounts of this mount namespace: proc(5), `/proc/pid/mountinfo`.

use std::{ffi::OsString, fs, os::unix::ffi::OsStringExt as _, path::PathBuf};

use anyhow::{Context as _, Result};

const MOUNTINFO: &str = "/proc/self/mountinfo";

/// A mounted file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// The part of the file system that is mounted; `/` is all of it.
    pub root: String,
    /// The mount point.
    pub point: PathBuf,
    /// The type of the file system, such as `cgroup2`.
    pub kind: String,
    /// Options of the file system, separated by commas.
    pub options: String,
}

/// Every mount.
pub fn mounts() -> Result<Vec<Mount>> {
    let text = fs::read_to_string(MOUNTINFO).with_context(|| MOUNTINFO.to_owned())?;
    Ok(parse(&text))
}

/// The mount point of the cgroup v2 hierarchy.
pub fn cgroup2() -> Result<PathBuf> {
    find_cgroup2(mounts()?).context("no cgroup2 file system is mounted")
}

/// Parses a `mountinfo` file. A line that is not one of it is skipped.
pub fn parse(text: &str) -> Vec<Mount> {
    text.lines().filter_map(parse_line).collect()
}

fn parse_line(line: &str) -> Option<Mount> {
    let (mount, source) = line.split_once(" - ")?;
    let (mut mount, mut source) = (mount.split(' ').skip(3), source.split(' '));
    Some(Mount {
        root: mount.next()?.to_owned(),
        point: unescape(mount.next()?).into(),
        kind: source.next()?.to_owned(),
        options: source.nth(1)?.to_owned(),
    })
}

/// The whole hierarchy is preferred to a part of it, which a container has mounted.
fn find_cgroup2(mounts: Vec<Mount>) -> Option<PathBuf> {
    let mut found = mounts.into_iter().filter(|mount| mount.kind == "cgroup2");
    let first = found.next()?;
    let whole = found.find(|mount| mount.root == "/");
    Some(if first.root == "/" {
        first.point
    } else {
        whole.unwrap_or(first).point
    })
}

/// Blanks, tabs, newlines and backslashes are written as three octal digits.
fn unescape(field: &str) -> OsString {
    let (mut bytes, mut rest) = (Vec::new(), field.as_bytes());
    while let Some((&first, after)) = rest.split_first() {
        let digits = after
            .get(..3)
            .and_then(|digits| str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match escaped.filter(|_| first == b'\\') {
            Some(byte) => (bytes.push(byte), rest = &after[3..]),
            None => (bytes.push(first), rest = after),
        };
    }
    OsString::from_vec(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup2_is_found_on_hybrid_machines() {
        let mounts = "31 24 0:27 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
                      40 31 0:37 / /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu\n\
                      41 31 0:38 / /sys/fs/cgroup/unified rw,relatime shared:5 - cgroup2 cgroup2 rw";
        let found = find_cgroup2(parse(mounts));
        assert_eq!(found, Some("/sys/fs/cgroup/unified".into()));
        let none = "1 2 0:3 / / rw - ext4 /dev/vda rw";
        assert_eq!(find_cgroup2(parse(none)), None);
    }

    #[test]
    fn whole_hierarchy_is_preferred_to_a_part() {
        let mounts = "41 31 0:38 /pod /mnt/part rw - cgroup2 cgroup2 rw\n\
                      42 31 0:38 / /mnt/a\\040whole rw - cgroup2 cgroup2 rw";
        let found = find_cgroup2(parse(mounts));
        assert_eq!(found, Some("/mnt/a whole".into()));
    }

    #[test]
    fn this_machine_has_a_root_mount() {
        let mounts = mounts().unwrap_or_default();
        assert!(
            mounts
                .iter()
                .any(|mount| mount.point == std::path::Path::new("/"))
        );
    }
}
