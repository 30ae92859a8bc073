//! The mapping of users and groups from the user namespace of a netns to the initial one.
//!
//! No process of the daemon enters a user namespace. `setns(CLONE_NEWUSER)` exposes a process to
//! every process with `CAP_SYS_PTRACE` in that namespace: `commit_creds` makes it dumpable again,
//! and from then on its memory, descriptors and root directory belong to the namespace's owner.
//!
//! Instead, the kernel translates. The daemon creates a detached tmpfs mount whose root directory
//! has the user and the group as its owners, and idmaps the mount with the user namespace
//! (`MOUNT_ATTR_IDMAP`). `stat` then returns these owners in the initial user namespace. The user
//! namespace is a parameter of this, and nothing inside it can observe it.
//!
//! tmpfs supports idmapped mounts since Linux 6.3, which Kubernetes also requires for Pods with
//! user namespaces. On older kernels such Pods are rejected.

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
/// The owner that `stat` returns without a mapping.
const UNMAPPED: [&str; 2] = [
    "/proc/sys/kernel/overflowuid",
    "/proc/sys/kernel/overflowgid",
];

/// The mapping of a Pod's users and groups to the initial user namespace.
#[derive(Debug)]
pub(crate) struct Users {
    /// `None`: the identity.
    namespace: Option<OwnedFd>,
}

impl Users {
    /// The mapping of the user namespace that owns a netns.
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

    /// A user in the initial user namespace.
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

/// The user namespace that owns a netns, unless it is the host's.
pub(super) fn owner(netns: BorrowedFd<'_>) -> Result<Option<OwnedFd>, Error> {
    let namespace = syscalls::owning_user_namespace(netns).map_err(|source| Error::Call {
        call: "ioctl(NS_GET_USERNS)",
        source,
    })?;
    let file = File::from(namespace);
    let inode = Inode::of(&file).map_err(Error::Users)?;
    Ok((Inode::at(HOST) != Some(inode)).then(|| file.into()))
}

/// A user and a group of a user namespace in the initial one. `None` for an unmapped id.
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

/// A netns of a user namespace that maps its users to 1,000,000 and up, and its groups to 2,000,000
/// and up. Neither has a process left.
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
    fn users_are_mapped_without_a_process() {
        let netns = netns_with_own_userns();
        let users = Users::of(netns.as_fd()).unwrap();
        for (inside, outside) in [
            (0, Some(1_000_000)),
            (1337, Some(1_001_337)),
            (65_535, Some(1_065_535)),
            (65_536, None),
            (70_000, Some(5)),
            // `stat` does not distinguish the overflow user from an unmapped one: rejected.
            (70_001, None),
            (u32::MAX, None),
        ] {
            assert_eq!(users.user(inside), outside, "{inside}");
        }
        assert_eq!(users.group(1337), Some(2_001_337));
        assert_eq!(users.group(70_000), None);
    }
}
