//! A parser for the kernel's BTF (`/sys/kernel/btf/vmlinux`): offsets of structure members.
//!
//! aya parses BTF for its own purposes and does not export members. The format:
//! `Documentation/bpf/btf.rst`, `include/uapi/linux/btf.h`.

/// The kinds of types that queries use (`BTF_KIND_…`).
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const FUNC: u32 = 12;

/// The used part of `struct btf_header`.
const HEADER: usize = 24;
const MAGIC: u32 = 0xeb9f;
/// Sizes of `struct btf_type` and of `struct btf_member`.
const TYPE: usize = 12;
const MEMBER: usize = 12;
const ENUMERATOR: usize = 8;

/// Maximum depth of unnamed members in [`Btf::offset`]. The kernel's structures have five levels.
const MAX_DEPTH: u32 = 32;

/// A kernel's types.
pub(super) struct Btf<'a> {
    types: &'a [u8],
    strings: &'a [u8],
    /// The offset of each type. `void`, the first type, has none.
    type_offsets: Vec<usize>,
}

/// One type.
#[derive(Clone, Copy)]
struct Type<'a> {
    name: &'a [u8],
    kind: u32,
    /// Member offsets contain the bit field size in their upper 8 bits.
    has_bits: bool,
    parts: &'a [u8],
}

impl<'a> Btf<'a> {
    /// Parses a kernel's BTF, in the byte order of this machine. `None` if it is malformed, or has
    /// unknown kinds of types.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let field = |at| word(bytes, at).and_then(|value| usize::try_from(value).ok());
        if word(bytes, 0)? & 0xffff != MAGIC || bytes.len() < HEADER {
            return None;
        }
        let header = field(4)?;
        let part = |at, length| {
            let begin = header.checked_add(field(at)?)?;
            bytes.get(begin..begin.checked_add(field(length)?)?)
        };
        let (types, strings) = (part(8, 12)?, part(16, 20)?);
        let mut type_offsets = Vec::new();
        let mut at = 0;
        while at < types.len() {
            type_offsets.push(at);
            at = at.checked_add(TYPE + size_of_parts(word(types, at.checked_add(4)?)?)?)?;
        }
        Some(Self {
            types,
            strings,
            type_offsets,
        })
    }

    /// The offset of a member, in bytes. The members of an unnamed member belong to its parent.
    pub(super) fn offset(&self, structure: &str, member: &str) -> Option<u32> {
        let mut named = self.named(structure, STRUCT);
        named.find_map(|found| self.offset_in(found, member, MAX_DEPTH))
    }

    /// The value of an enumerator of an enumeration.
    pub(super) fn enumerator(&self, enumeration: &str, name: &str) -> Option<u32> {
        self.named(enumeration, ENUM).find_map(|found| {
            let mut all = found.parts.chunks_exact(ENUMERATOR);
            let it = all.find(|one| self.name(word(one, 0)) == name.as_bytes())?;
            word(it, 4)
        })
    }

    /// The BTF ID of a function, with which a program attaches to it.
    pub(super) fn function(&self, name: &str) -> Option<u32> {
        let is_it = |type_offset: &usize| {
            let found = self.at(*type_offset);
            found.is_some_and(|one| one.kind == FUNC && one.name == name.as_bytes())
        };
        let index = self.type_offsets.iter().position(is_it)?;
        u32::try_from(index + 1).ok()
    }

    fn named(&self, name: &str, kind: u32) -> impl Iterator<Item = Type<'a>> {
        let all = self
            .type_offsets
            .iter()
            .filter_map(|type_offset| self.at(*type_offset));
        all.filter(move |one| one.kind == kind && one.name == name.as_bytes())
    }

    /// `depth` bounds the recursion: malformed BTF may nest a structure in itself.
    fn offset_in(&self, structure: Type<'a>, member: &str, depth: u32) -> Option<u32> {
        let depth = depth.checked_sub(1)?;
        structure.parts.chunks_exact(MEMBER).find_map(|one| {
            let offset = word(one, 8)?;
            let bits = if structure.has_bits {
                offset & 0x00ff_ffff
            } else {
                offset
            };
            match self.name(word(one, 0)) {
                name if name == member.as_bytes() => Some(bits / 8),
                b"" => {
                    let inner = self.by_number(word(one, 4)?)?;
                    let is_record = matches!(inner.kind, STRUCT | UNION);
                    let within = is_record.then(|| self.offset_in(inner, member, depth))??;
                    (bits / 8).checked_add(within)
                }
                _ => None,
            }
        })
    }

    fn by_number(&self, number: u32) -> Option<Type<'a>> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        self.at(*self.type_offsets.get(index)?)
    }

    fn at(&self, type_offset: usize) -> Option<Type<'a>> {
        let info = word(self.types, type_offset.checked_add(4)?)?;
        let begin = type_offset + TYPE;
        Some(Type {
            name: self.name(word(self.types, type_offset)),
            kind: kind(info),
            has_bits: info >> 31 != 0,
            parts: self.types.get(begin..begin + size_of_parts(info)?)?,
        })
    }

    /// A name without the zero at its end; empty if there is none.
    fn name(&self, at: Option<u32>) -> &'a [u8] {
        let begin = at.and_then(|at| usize::try_from(at).ok());
        let rest = begin.and_then(|begin| self.strings.get(begin..));
        let mut parts = rest.unwrap_or_default().split(|byte| *byte == 0);
        parts.next().unwrap_or_default()
    }
}

fn kind(info: u32) -> u32 {
    info >> 24 & 0x1f
}

/// Size in bytes of the data after a type of this kind, with its number of elements.
fn size_of_parts(info: u32) -> Option<usize> {
    let count = usize::try_from(info & 0xffff).ok()?;
    Some(match kind(info) {
        // Pointers, forward declarations, typedefs, qualifiers, functions, floats, type tags.
        2 | 7..=11 | FUNC | 16 | 18 => 0,
        // Integers, variables, declaration tags.
        1 | 14 | 17 => 4,
        // Arrays.
        3 => 12,
        STRUCT | UNION => MEMBER * count,
        // Enumerations, and function prototypes.
        ENUM | 13 => ENUMERATOR * count,
        // Data sections, and 64-bit enumerations.
        15 | 19 => 12 * count,
        _ => return None,
    })
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let word = bytes.get(at..at.checked_add(4)?)?;
    word.try_into().ok().map(u32::from_ne_bytes)
}

/// Fuzz target. Untrusted bytes as BTF: each query terminates, and its result comes from the bytes.
#[cfg(fuzzing)]
pub(crate) fn fuzz(bytes: &[u8]) {
    let Some(btf) = Btf::parse(bytes) else { return };
    let _offset = btf.offset("a", "b");
    let _value = btf.enumerator("a", "b");
    if let Some(number) = btf.function("a") {
        assert!(btf.by_number(number).is_some());
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn btf_of_the_running_kernel_is_parsed() {
        let bytes = fs::read("/sys/kernel/btf/vmlinux").unwrap();
        let btf = Btf::parse(&bytes).unwrap();
        // The first two members of `struct list_head`; one member of an unnamed union.
        assert_eq!(btf.offset("list_head", "next"), Some(0));
        assert_eq!(btf.offset("list_head", "prev"), Some(8));
        assert!(btf.offset("sock_common", "skc_daddr") < btf.offset("sock_common", "skc_family"));
        assert_eq!(btf.offset("list_head", "nothing"), None);
        assert_eq!(btf.enumerator("sock_flags", "SOCK_DEAD"), Some(0));
        assert!(btf.function("tcp_sendmsg").is_some());
        assert_eq!(btf.function("list_head"), None);
    }

    #[test]
    fn truncated_btf_is_rejected() {
        let bytes = fs::read("/sys/kernel/btf/vmlinux").unwrap();
        for length in [
            0,
            3,
            10,
            HEADER,
            HEADER + 5,
            bytes.len() / 2,
            bytes.len() - 1,
        ] {
            let found = Btf::parse(&bytes[..length]);
            assert!(found.is_none(), "{length} bytes");
        }
        // A type of unknown kind.
        let mut strange = bytes[..HEADER].to_vec();
        strange[8..HEADER].copy_from_slice(&[0, 12, 12, 1].map(u32::to_ne_bytes).concat());
        strange.extend([0, 31 << 24, 0].map(u32::to_ne_bytes).concat());
        strange.push(0);
        assert!(Btf::parse(&strange).is_none());
    }

    #[test]
    fn structure_nested_in_itself_ends_the_search() {
        // `struct a { struct a; }`: type 1, whose only member has no name and type 1.
        let types = [1, STRUCT << 24 | 1, 8, 0, 1, 0];
        let strings = b"\0a\0";
        let header = [MAGIC | 1 << 16, 24, 0, 24, 24, 3];
        let mut bytes: Vec<u8> = (header.iter().chain(&types))
            .flat_map(|word: &u32| word.to_ne_bytes())
            .collect();
        bytes.extend(strings);
        let btf = Btf::parse(&bytes).unwrap();
        assert_eq!(btf.offset("a", "b"), None);
    }
}
