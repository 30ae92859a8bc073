//! A program that does nothing. What the kernel counts of it is what counting takes, and what it takes
//! to come to a program at all.

use std::{fs::File, path::Path};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    programs::{CgroupAttachMode, CgroupSockAddr},
};
use object::{
    Architecture, BinaryFormat, Endianness, SectionKind, SymbolFlags, SymbolKind, SymbolScope,
    write::{Object, Symbol, SymbolSection},
};

/// Its name.
pub(super) const NAME: &str = "nothing";

/// `r0 = 1; exit`: let the operation go on (BPF instruction set, RFC 9669).
const CODE: [u8; 16] = [0xb7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];

/// The program, at `connect` of a cgroup for as long as this lives.
pub(super) struct NoopProgram {
    program: u32,
    _loaded: Ebpf,
}

impl NoopProgram {
    /// Attaches it.
    pub(super) fn attach(cgroup: &Path) -> Result<Self> {
        let mut loaded = Ebpf::load(&object()?)?;
        let program: &mut CgroupSockAddr = loaded
            .program_mut(NAME)
            .context("no program in the object")?
            .try_into()?;
        program.load()?;
        program.attach(File::open(cgroup)?, CgroupAttachMode::Single)?;
        Ok(Self {
            program: program.info()?.id(),
            _loaded: loaded,
        })
    }

    /// The kernel's number of it.
    pub(super) fn program(&self) -> u32 {
        self.program
    }
}

/// The object file that a compiler would have made.
fn object() -> Result<Vec<u8>> {
    let mut object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
    let code = object.add_section(Vec::new(), b"cgroup/connect4".into(), SectionKind::Text);
    object.append_section_data(code, &CODE, 8);
    object.add_symbol(Symbol {
        name: NAME.into(),
        value: 0,
        size: CODE.len() as u64,
        kind: SymbolKind::Text,
        scope: SymbolScope::Dynamic,
        weak: false,
        section: SymbolSection::Section(code),
        flags: SymbolFlags::None,
    });
    let licence = object.add_section(Vec::new(), b"license".into(), SectionKind::Data);
    object.append_section_data(licence, b"Dual MIT/GPL\0", 1);
    Ok(object.write()?)
}
