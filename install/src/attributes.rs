//! The properties of a file besides its content: mode, owner, extended attributes (including labels of
//! `SELinux` and ACLs), other names, and whether it is immutable.

use std::{
    fs::{self, File, Metadata, Permissions},
    io,
    os::{
        fd::AsFd,
        unix::fs::{MetadataExt as _, PermissionsExt as _, fchown},
    },
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, CWD, StatxAttributes, StatxFlags, XattrFlags, fgetxattr, flistxattr, fsetxattr,
        statx,
    },
    io::Errno,
};

/// Maximum length of an attribute's value, and of the list of names (xattr(7)), in bytes.
const LONGEST: usize = 64 << 10;

/// Attributes with which IMA and EVM store hashes of the content.
const HASHES: [&[u8]; 2] = [b"security.ima", b"security.evm"];

/// The mode, the owner and the extended attributes of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Access {
    mode: u32,
    owner: (u32, u32),
    attributes: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Access {
    /// The access of an existing file.
    pub(crate) fn of(path: &Path) -> Option<Self> {
        let file = File::open(path).ok()?;
        Some(Self {
            attributes: attributes(&file).unwrap_or_default(),
            ..Self::plain(&file.metadata().ok()?)
        })
    }

    /// Whether any execute bit is set.
    pub(crate) fn is_executable(&self) -> bool {
        self.mode & 0o111 != 0
    }

    /// Whether mode and owner equal those of another file.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        (self.mode, self.owner) == (other.mode, other.owner)
    }

    /// The user of this process, and a mode.
    pub(crate) fn own(mode: u32) -> Self {
        let owner = (nix::unistd::geteuid(), nix::unistd::getegid());
        Self {
            mode,
            owner: (owner.0.as_raw(), owner.1.as_raw()),
            attributes: Vec::new(),
        }
    }

    fn plain(metadata: &Metadata) -> Self {
        Self {
            mode: metadata.mode() & 0o7777,
            owner: (metadata.uid(), metadata.gid()),
            attributes: Vec::new(),
        }
    }

    /// Sets them on a file. Equal values are not set again: the call needs a capability.
    pub(crate) fn give(&self, file: &File) -> io::Result<()> {
        if Self::plain(&file.metadata()?).owner != self.owner {
            fchown(file, Some(self.owner.0), Some(self.owner.1))?;
        }
        file.set_permissions(Permissions::from_mode(self.mode))?;
        let present = attributes(file)?;
        for (name, value) in self.attributes.iter().filter(|one| !present.contains(one)) {
            fsetxattr(file, name.as_slice(), value, XattrFlags::empty())?;
        }
        Ok(())
    }
}

/// The extended attributes that the kernel shows to this process; none on file systems without attributes.
/// Without the hashes of the content, which the kernel computes itself.
fn attributes(file: impl AsFd) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; LONGEST];
    let length = match flistxattr(&file, &mut names) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => return Ok(Vec::new()),
        length => length?,
    };
    let names = names[..length].split(|byte| *byte == 0);
    let mut found = Vec::new();
    for name in names.filter(|name| !name.is_empty() && !HASHES.contains(name)) {
        let mut value = vec![0; LONGEST];
        match fgetxattr(&file, name, &mut value) {
            // Removed since, or of a kind that cannot be read.
            Err(Errno::NODATA | Errno::OPNOTSUPP) => {}
            length => {
                value.truncate(length?);
                found.push((name.to_owned(), value));
            }
        }
    }
    Ok(found)
}

/// Whether the file has other names (hard links), which a rename would leave with the old content.
pub(crate) fn has_other_names(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|file| file.nlink() > 1)
}

/// Whether an attribute protects the file from every user, root included (chattr(1), `i` and `a`).
pub(crate) fn is_immutable(path: &Path) -> bool {
    let fixed = StatxAttributes::IMMUTABLE | StatxAttributes::APPEND;
    statx(CWD, path, AtFlags::empty(), StatxFlags::empty())
        .is_ok_and(|found| found.stx_attributes.intersects(fixed))
}
