//! Which users and groups the numbers inside a network namespace's user namespace mean outside.
//!
//! No process of the daemon enters a user namespace. `setns(CLONE_NEWUSER)` hands a process to
//! whoever has `CAP_SYS_PTRACE` in that namespace: `commit_creds` makes it dumpable again, and from
//! then on its memory, descriptors and root directory belong to the namespace's owner.
//!
//! Instead, the kernel translates. A tmpfs that is mounted nowhere is made with the user and the
//! group in question as the owners of its root directory, and the mount is mapped through the user
//! namespace (`MOUNT_ATTR_IDMAP`). `stat` then returns these owners as the initial user namespace
//! numbers them. The user namespace is a parameter of this, and nothing inside it can observe it.
//!
//! tmpfs can be mapped from Linux 6.3 on, which is also what Kubernetes requires for Pods with user
//! namespaces. On older kernels such Pods are refused.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd as _, BorrowedFd, OwnedFd},
        unix::fs::MetadataExt as _,
    },
};

use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount,
    fsopen,
};

use super::{Error, Inode, syscalls};

/// The host's own user namespace, as far as the daemon can see it.
const HOST: &str = "/proc/self/ns/user";
/// What `stat` returns for an owner without a number.
const UNMAPPED: [&str; 2] = [
    "/proc/sys/kernel/overflowuid",
    "/proc/sys/kernel/overflowgid",
];

/// What the users and groups of a Pod are outside.
#[derive(Debug)]
pub(crate) struct Users {
    /// `None`: the same.
    namespace: Option<OwnedFd>,
}

impl Users {
    /// Those of the user namespace that owns a network namespace.
    ///
    /// # Errors
    ///
    /// [`Error::Users`] if the kernel cannot translate users.
    pub(super) fn of(netns: BorrowedFd<'_>) -> Result<Self, Error> {
        let namespace = owner(netns)?;
        if let Some(namespace) = &namespace {
            outside(namespace.as_fd(), 0, 0).map_err(Error::Users)?;
        }
        Ok(Self { namespace })
    }

    /// A user, as the initial user namespace numbers it.
    pub(crate) fn user(&self, inside: u32) -> Option<u32> {
        self.translate(inside, 0, |(user, _)| user)
    }

    /// A group, likewise.
    pub(crate) fn group(&self, inside: u32) -> Option<u32> {
        self.translate(0, inside, |(_, group)| group)
    }

    fn translate(
        &self,
        user: u32,
        group: u32,
        wanted: impl FnOnce((Option<u32>, Option<u32>)) -> Option<u32>,
    ) -> Option<u32> {
        match &self.namespace {
            None => wanted((Some(user), Some(group))),
            Some(namespace) => outside(namespace.as_fd(), user, group)
                .ok()
                .and_then(wanted),
        }
    }
}

/// The user namespace that owns a network namespace, unless it is the host's.
pub(super) fn owner(netns: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Error> {
    let namespace = syscalls::owning_user_namespace(netns).map_err(|source| Error::Call {
        call: "ioctl(NS_GET_USERNS)",
        source,
    })?;
    let file = File::from(namespace);
    let inode = Inode::of(&file).map_err(Error::Users)?;
    Ok((Inode::at(HOST) != Some(inode)).then(|| file.into()))
}

/// A user and a group of a user namespace, outside of it. `None` for one that has no number there.
fn outside(
    namespace: BorrowedFd<'_>,
    user: u32,
    group: u32,
) -> io::Result<(Option<u32>, Option<u32>)> {
    let filesystem = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (key, id) in [("uid", user), ("gid", group)] {
        fsconfig_set_string(&filesystem, key, id.to_string())?;
    }
    fsconfig_create(&filesystem)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_RDONLY
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let mount = fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    syscalls::idmap(mount.as_fd(), namespace)?;
    let root = File::from(mount).metadata()?;
    let [no_user, no_group] = UNMAPPED.map(|path| {
        let number = fs::read_to_string(path).ok();
        number.and_then(|text| text.trim().parse::<u32>().ok())
    });
    Ok((
        Some(root.uid()).filter(|found| Some(*found) != no_user),
        Some(root.gid()).filter(|found| Some(*found) != no_group),
    ))
}

/// A network namespace of a user namespace whose users begin at 1,000,000 outside, and groups at
/// 2,000,000. No process is left in either.
#[cfg(test)]
pub(crate) fn netns_with_own_userns() -> File {
    use std::process::Command;

    let mut pod = Command::new("unshare")
        .args(["--user", "--net", "sleep", "60"])
        .spawn()
        .expect("this test must run as root");
    let proc = format!("/proc/{}", pod.id());
    let own = fs::read_link("/proc/self/ns/net").expect("a namespace");
    while fs::read_link(format!("{proc}/ns/net")).expect("a process") == own {
        std::thread::yield_now();
    }
    let users = "0 1000000 65536\n70000 5 1\n70001 65534 1";
    fs::write(format!("{proc}/uid_map"), users).expect("a map of users");
    fs::write(format!("{proc}/gid_map"), "0 2000000 65536").expect("a map of groups");
    let netns = File::open(format!("{proc}/ns/net")).expect("a namespace");
    pod.kill().expect("a process");
    pod.wait().expect("a child");
    netns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_users_are_themselves() {
        let namespace = crate::netns::new_netns().expect("this test must run as root");
        let users = Users::of(namespace.as_fd()).unwrap();
        assert_eq!((users.user(1337), users.group(7)), (Some(1337), Some(7)));
    }

    #[test]
    fn a_pods_users_are_known_outside_though_no_process_of_it_is_left() {
        let netns = netns_with_own_userns();
        let users = Users::of(netns.as_fd()).unwrap();
        for (inside, outside) in [
            (0, Some(1_000_000)),
            (1337, Some(1_001_337)),
            (65_535, Some(1_065_535)),
            (65_536, None),
            (70_000, Some(5)),
            // `stat` cannot tell the overflow user from none: refused.
            (70_001, None),
            (u32::MAX, None),
        ] {
            assert_eq!(users.user(inside), outside, "{inside}");
        }
        assert_eq!(users.group(1337), Some(2_001_337));
        assert_eq!(users.group(70_000), None);
    }
}
