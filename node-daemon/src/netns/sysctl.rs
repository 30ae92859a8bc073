//! Switches and other settings below `/proc/sys/net` of the calling thread's netns.

use std::{
    fs::File,
    io::{self, Read as _, Write as _},
    os::fd::{AsFd as _, BorrowedFd, OwnedFd},
    sync::OnceLock,
};

use nix::{
    fcntl::{OFlag, openat},
    sys::stat::Mode,
};
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};
use serde::{Deserialize, Serialize};

use super::Error;

/// A set of switches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Switches {
    /// `net.ipv4.tcp_fwmark_accept`, for both families: an accepted socket takes the mark of the
    /// client's packet.
    pub(crate) accept: bool,
    /// `net.ipv4.fwmark_reflect`: resets and ICMP errors take the mark of the packet that they answer.
    pub(crate) reflect_v4: bool,
    /// The same for IPv6.
    pub(crate) reflect_v6: bool,
}

impl Switches {
    /// Whether none is in the set.
    #[expect(
        clippy::trivially_copy_pass_by_ref,
        reason = "serde calls it with a reference"
    )]
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// The switches in either set.
    pub(crate) fn or(self, other: Self) -> Self {
        self.zip(other, |one, another| one || another)
    }

    /// The switches that are not in `other`.
    pub(crate) fn without(self, other: Self) -> Self {
        self.zip(other, |one, another| one && !another)
    }

    fn zip(self, other: Self, both: impl Fn(bool, bool) -> bool) -> Self {
        Self {
            accept: both(self.accept, other.accept),
            reflect_v4: both(self.reflect_v4, other.reflect_v4),
            reflect_v6: both(self.reflect_v6, other.reflect_v6),
        }
    }

    /// The subset whose value in the namespace is zero.
    pub(super) fn off(self) -> Result<Self, Error> {
        let mut off = Self::default();
        if self.is_empty() {
            return Ok(off);
        }
        let settings = Settings::open()?;
        for (is_in, setting, found) in [
            (self.accept, ACCEPT, &mut off.accept),
            (self.reflect_v4, REFLECT_V4, &mut off.reflect_v4),
            (self.reflect_v6, REFLECT_V6, &mut off.reflect_v6),
        ] {
            *found = is_in && settings.read(setting)? == OFF;
        }
        Ok(off)
    }

    /// Switches every member on or off. Skips members with that value.
    pub(super) fn set(self, on: bool) -> Result<(), Error> {
        if self.is_empty() {
            return Ok(());
        }
        let settings = Settings::open()?;
        for (is_in, setting) in [
            (self.accept, ACCEPT),
            (self.reflect_v4, REFLECT_V4),
            (self.reflect_v6, REFLECT_V6),
        ] {
            if is_in && (settings.read(setting)? != OFF) != on {
                settings.write(setting, on)?;
            }
        }
        Ok(())
    }
}

const ACCEPT: &str = "net/ipv4/tcp_fwmark_accept";
const REFLECT_V4: &str = "net/ipv4/fwmark_reflect";
const REFLECT_V6: &str = "net/ipv6/fwmark_reflect";
/// The value of a switch that is off.
const OFF: &str = "0";

/// Enables `route_localnet` of an interface, with which its packets reach alias addresses. `true` if it was
/// off.
pub(super) fn enable_route_localnet(interface: &str) -> Result<bool, Error> {
    set_route_localnet(interface, true)
}

/// Disables it. An interface that is gone has no setting.
pub(super) fn disable_route_localnet(interface: &str) -> Result<(), Error> {
    match set_route_localnet(interface, false) {
        Err(Error::Setting { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done.map(drop),
    }
}

fn set_route_localnet(interface: &str, on: bool) -> Result<bool, Error> {
    let path = format!("net/ipv4/conf/{interface}/route_localnet");
    let failed = |source| Error::Setting {
        setting: "net/ipv4/conf/INTERFACE/route_localnet",
        source,
    };
    let settings = Settings::open()?;
    let is_changed = (settings.value(&path).map_err(failed)? != OFF) != on;
    if is_changed {
        settings.switch(&path, on).map_err(failed)?;
    }
    Ok(is_changed)
}

/// `/proc/sys` on a mount of its own: runtimes mount that of a container read-only. The kernel resolves
/// `net` in the netns of the thread that opens a file, so one mount serves every namespace.
pub(super) struct Settings(BorrowedFd<'static>);

static MOUNT: OnceLock<OwnedFd> = OnceLock::new();

impl Settings {
    pub(super) fn open() -> Result<Self, Error> {
        if let Some(mount) = MOUNT.get() {
            return Ok(Self(mount.as_fd()));
        }
        let mount = mount().map_err(|source| Error::Io {
            what: "a mount of procfs",
            source: source.into(),
        })?;
        Ok(Self(MOUNT.get_or_init(|| mount).as_fd()))
    }

    /// Opens a setting. The file is that of the netns of this thread, in every other thread as well.
    pub(super) fn open_file(&self, setting: &str, access: OFlag) -> io::Result<File> {
        let path = format!("sys/{setting}");
        let file = openat(
            self.0,
            path.as_str(),
            access | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        Ok(file.into())
    }

    fn read(&self, setting: &'static str) -> Result<String, Error> {
        self.value(setting)
            .map_err(|source| Error::Setting { setting, source })
    }

    fn value(&self, setting: &str) -> io::Result<String> {
        let mut text = String::new();
        self.open_file(setting, OFlag::O_RDONLY)?
            .read_to_string(&mut text)?;
        text.truncate(text.trim_end().len());
        Ok(text)
    }

    fn write(&self, setting: &'static str, on: bool) -> Result<(), Error> {
        self.switch(setting, on)
            .map_err(|source| Error::Setting { setting, source })
    }

    fn switch(&self, setting: &str, on: bool) -> io::Result<()> {
        let value = if on { b"1" } else { b"0" };
        self.open_file(setting, OFlag::O_WRONLY)?.write_all(value)
    }
}

/// Mounts procfs, without a place.
fn mount() -> rustix::io::Result<OwnedFd> {
    let filesystem = fsopen("proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&filesystem)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    fsmount(&filesystem, FsMountFlags::FSMOUNT_CLOEXEC, attributes)
}
