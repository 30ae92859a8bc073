//! Adoption of pinned programs: a daemon with unchanged programs neither loads nor verifies them again.
//!
//! Each program has a pin of its own, beside its links. The target of the symbolic link `seal` is
//! `CODE-STATE`: `CODE` identifies the object and the constants that the daemon wrote into it; `STATE`
//! identifies the loaded programs and their maps, as the kernel reports them. The kernel's tag is not
//! sufficient: it does not cover constants (`.rodata`) and maps.
//!
//! The seal is removed before anything that it covers changes, and written when everything is attached. So
//! a daemon that dies in between leaves none, and its successor loads the programs.

use std::{
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    io,
};

use aya::maps::MapInfo;
use sluice_abi::maps;

use super::{
    Error, Options,
    attach::{self, Features},
    cgroup_prog::{self, ProgramInfo},
    loaded::Loaded,
    pins::{self, Generation},
};

/// Adopts the pinned programs, or loads those of the object. `attach` attaches the missing ones.
/// Returns the features of the kernel as well.
pub(super) fn adopt_or_load(
    generation: &Generation,
    options: Options,
    attach: impl Fn(&Loaded, Features) -> Result<(), Error>,
) -> Result<(Loaded, Features), Error> {
    if let Some((loaded, features)) = adopt(generation, options) {
        attach(&loaded, features)?;
        return Ok((loaded, features));
    }
    let features = Features::probe(options.kernel_offsets.is_some());
    unseal(generation)?;
    let loaded = attach::load(generation, features, options)?;
    attach(&loaded, features)?;
    seal(generation, &code(features, options), &loaded)?;
    Ok((loaded, features))
}

/// Opens the pinned programs and maps of an earlier daemon, if they are those that this daemon would
/// load, with the features that it found. `None` if they differ, or a pin does not hold what the seal
/// says.
///
/// Pins do not outlive the kernel, so the features need no probe: the seal has been computed with them.
fn adopt(generation: &Generation, options: Options) -> Option<(Loaded, Features)> {
    let seal = fs::read_link(generation.seal()).ok()?;
    let (code, state) = seal.to_str()?.split_once('-')?;
    let features = (Features::possible(options.kernel_offsets.is_some()))
        .find(|features| self::code(*features, options) == code)?;
    let loaded = Loaded::open(generation, &attach::program_names(features))?;
    (self::state(generation, &loaded).ok()? == state).then_some((loaded, features))
}

/// Removes the seal: the next daemon loads its programs.
fn unseal(generation: &Generation) -> Result<(), Error> {
    pins::remove(&generation.seal(), &mut Vec::new())
}

/// Pins the loaded programs and seals them.
fn seal(generation: &Generation, code: &str, loaded: &Loaded) -> Result<(), Error> {
    generation.make_directories()?;
    for stale in generation.programs()? {
        pins::remove(&stale, &mut Vec::new())?;
    }
    for (name, program) in loaded.programs() {
        let path = generation.program(name);
        cgroup_prog::pin(program, &path).map_err(|source| Error::pin("make", &path, source))?;
    }
    let path = generation.seal();
    state(generation, loaded)
        .and_then(|state| std::os::unix::fs::symlink(format!("{code}-{state}"), &path))
        .map_err(|source| Error::pin("make", &path, source))
}

/// A hash of the programs that this daemon would load: the object, and the constants that depend on the
/// kernel and the configuration.
fn code(features: Features, options: Options) -> String {
    let mut hasher = DefaultHasher::new();
    let constants = (options.kernel_offsets, options.bypassing_node);
    (env!("SLUICE_OBJECT_HASH"), features.found(), constants).hash(&mut hasher);
    text(hasher.finish())
}

/// A hash of the kernel's information about the programs, and of the IDs of the pinned maps.
fn state(generation: &Generation, loaded: &Loaded) -> io::Result<String> {
    let mut hasher = DefaultHasher::new();
    for (name, program) in loaded.programs() {
        (name, ProgramInfo::of(program)?).hash(&mut hasher);
    }
    for name in maps::ALL {
        let info = MapInfo::from_pin(generation.map(name)).map_err(io::Error::other)?;
        (name, info.id()).hash(&mut hasher);
    }
    Ok(text(hasher.finish()))
}

fn text(hash: u64) -> String {
    format!("{hash:016x}")
}
