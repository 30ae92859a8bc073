//! The limit of acceleration as a variant: a program that redirects each message and checks nothing.

use std::{fs::File, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::{MapData, SockHash},
    programs::{CgroupAttachMode, SkMsg, SockOps},
};

/// A socket's two ends, as the programs write them.
type Key = [[u32; 5]; 2];

/// The programs, for all connections of a cgroup for as long as this lives.
pub(super) struct Limit(#[expect(dead_code, reason = "its drop detaches")] Ebpf);

impl Limit {
    /// Loads the programs and attaches them.
    pub(super) fn attach(object: &Path, cgroup: &Path) -> Result<Self> {
        let failed = || format!("cannot load {}: run make build", object.display());
        let mut loaded = Ebpf::load_file(object).with_context(failed)?;
        let sockets = loaded.map("sockets").context("the object has the map")?;
        let sockets: SockHash<&MapData, Key> = sockets.try_into()?;
        let sockets = sockets.fd().try_clone()?;
        // Without this program, no socket may be in the map.
        let messages = loaded.program_mut("limit_msg");
        let messages: &mut SkMsg = messages.context("the object has the program")?.try_into()?;
        messages.load()?;
        messages.attach(&sockets)?;
        let events = loaded.program_mut("limit_sock_ops");
        let events: &mut SockOps = events.context("the object has the program")?.try_into()?;
        events.load()?;
        // A link admits other programs by itself, and takes no flag for that.
        events.attach(File::open(cgroup)?, CgroupAttachMode::Single)?;
        Ok(Self(loaded))
    }
}
