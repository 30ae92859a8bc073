//! Loading the object and attaching its cgroup programs: one loop over what the object holds.

use std::{fs::File, os::fd::AsFd as _, path::Path};

use aya::{
    Ebpf, EbpfLoader,
    programs::{CgroupAttachMode, Program, ProgramError},
};

use super::Error;

/// Name of the program that is attached to each meshed Pod's network namespace.
pub(super) const STEER: &str = "steer";

/// Built from `ebpf/programs` by the build script.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/sluice.o"));

/// Creates the maps and loads every program.
pub(super) fn load() -> Result<Ebpf, Error> {
    let mut object = EbpfLoader::new().load(OBJECT).map_err(Error::Object)?;
    for (name, program) in object.programs_mut() {
        load_one(program).map_err(|source| Error::Program {
            program: name.to_owned(),
            source,
        })?;
    }
    Ok(object)
}

fn load_one(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::SkLookup(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

/// Attaches every cgroup program. The links live in `object`.
pub(super) fn attach(object: &mut Ebpf, cgroup: &Path) -> Result<(), Error> {
    let directory = File::open(cgroup).map_err(|source| Error::Cgroup {
        path: cgroup.to_owned(),
        source,
    })?;
    for (name, program) in object.programs_mut() {
        attach_one(program, &directory).map_err(|source| Error::Program {
            program: name.to_owned(),
            source,
        })?;
    }
    Ok(())
}

/// `Single` means no flags: a link always lets other programs run beside it.
fn attach_one(program: &mut Program, cgroup: &File) -> Result<(), ProgramError> {
    let (cgroup, mode) = (cgroup.as_fd(), CgroupAttachMode::Single);
    match program {
        Program::CgroupSockAddr(program) => program.attach(cgroup, mode).map(drop),
        Program::CgroupSockopt(program) => program.attach(cgroup, mode).map(drop),
        Program::SockOps(program) => program.attach(cgroup, mode).map(drop),
        Program::SkLookup(_) => Ok(()),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}
