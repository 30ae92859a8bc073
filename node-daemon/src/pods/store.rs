//! The records of the attachments, kept across daemons: one small file for each. The time of an ADD
//! is therefore independent of the number of Pods, and damage affects one record.
//!
//! Files are complete because they are renamed into place. They are not synced to disk: their
//! content is invalid after a reboot, and is then discarded (see [`Record::boot`]).

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write as _},
    net::IpAddr,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use fail::fail_point;
use serde::{Deserialize, Serialize};
use sluice_api::{AddRequest, owned};

use crate::netns::{self, ReservedPorts, Switches};

/// A UUID that changes with every boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";
const KIND: &str = "json";
/// The name of an incomplete file; the next daemon removes it.
const UNFINISHED: &str = "unfinished";
/// The suffix of unreadable records, which are kept for diagnosis.
const DAMAGED: &str = "damaged";

/// The files cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// A file or directory.
    #[error("cannot {operation} {}", path.display())]
    Io {
        /// The failed operation.
        operation: &'static str,
        /// The file.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: io::Error,
    },
    /// A record cannot be written as JSON.
    #[error("a Pod's record cannot be written")]
    Write(#[source] serde_json::Error),
}

/// The record of an attachment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Record {
    /// The boot id at the time of writing.
    boot: String,
    /// The plugin's ADD request.
    pub(crate) request: AddRequest,
    /// The netns, if the Pod is intercepted.
    pub(crate) netns: Option<netns::Id>,
    /// Whether Sluice added `::6` to `lo`, and removes it.
    pub(crate) passthrough: bool,
    /// Settings of the netns that Sluice switched on, and switches off.
    #[serde(default, skip_serializing_if = "Switches::is_empty")]
    pub(crate) switches: Switches,
    /// Ports of the netns that Sluice reserved, and releases.
    #[serde(default, skip_serializing_if = "ReservedPorts::is_empty")]
    pub(crate) reserved: ReservedPorts,
}

/// What Sluice changes inside a netns, because it was not there before, and undoes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    /// The address `::6` of `lo`.
    pub(crate) passthrough: bool,
    /// Settings that are switched on.
    pub(crate) switches: Switches,
    /// Ports that are reserved.
    pub(crate) reserved: ReservedPorts,
}

/// The slot of a record. Older attachments have smaller numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct RecordId(u64);

/// The directory of records.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
    boot: String,
    next: u64,
    damaged: usize,
}

impl Changes {
    /// The address alone.
    #[cfg(any(test, fuzzing))]
    pub(crate) const PASSTHROUGH: Self = Self {
        passthrough: true,
        switches: Switches {
            accept: false,
            reflect_v4: false,
            reflect_v6: false,
        },
        reserved: ReservedPorts::NONE,
    };

    /// The changes that a Pod's records hold.
    pub(crate) fn of<'a>(records: impl Iterator<Item = &'a Record>) -> Self {
        records
            .map(Record::changes)
            .fold(Self::default(), |all, one| Self {
                passthrough: all.passthrough || one.passthrough,
                switches: all.switches.or(one.switches),
                reserved: all.reserved.or(one.reserved),
            })
    }
}

impl Record {
    /// Sluice's changes inside the netns.
    pub(crate) fn changes(&self) -> Changes {
        Changes {
            passthrough: self.passthrough,
            switches: self.switches,
            reserved: self.reserved,
        }
    }

    /// The path of the netns, if the Pod is intercepted.
    pub(crate) fn netns_path(&self) -> Option<&Path> {
        self.netns.map(|_| Path::new(&self.request.netns))
    }

    /// The Pod's addresses on this network.
    pub(crate) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        (self.request.addresses.iter()).map(|one| one.ip.to_canonical())
    }
}

impl Store {
    /// Reads every record, in slot order. Records of earlier boots are removed; unreadable ones are
    /// renamed, with a warning. A directory that another user can write to is refused: its records
    /// decide how Pods are enrolled.
    pub(crate) fn open(directory: &Path) -> Result<(Self, Vec<(RecordId, Record)>), Error> {
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory);
        made.map_err(|source| Error::io("make", directory, source))?;
        owned::directory(directory).map_err(|source| Error::io("use", directory, source))?;
        let boot = fs::read_to_string(BOOT_ID)
            .map_err(|source| Error::io("read", Path::new(BOOT_ID), source))?;
        let mut store = Self {
            directory: directory.into(),
            boot: boot.trim().to_owned(),
            next: 0,
            damaged: 0,
        };
        let mut records = Vec::new();
        for path in store.files()? {
            records.extend(store.read(&path)?);
        }
        records.sort_unstable_by_key(|(record_id, _)| *record_id);
        Ok((store, records))
    }

    /// A record of this boot.
    pub(crate) fn record(
        &self,
        request: AddRequest,
        netns: Option<netns::Id>,
        changes: Changes,
    ) -> Record {
        Record {
            boot: self.boot.clone(),
            request,
            netns,
            passthrough: changes.passthrough,
            switches: changes.switches,
            reserved: changes.reserved,
        }
    }

    /// An unused slot.
    pub(crate) fn new_record_id(&mut self) -> RecordId {
        let record_id = RecordId(self.next);
        self.next += 1;
        record_id
    }

    /// Writes a record, in place of the slot's current one.
    pub(crate) fn put(&self, record_id: RecordId, record: &Record) -> Result<(), Error> {
        let path = self.path(record_id);
        let text = serde_json::to_vec(record).map_err(Error::Write)?;
        let unfinished = path.with_extension(UNFINISHED);
        let write = || {
            let mut file = OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .open(&unfinished)?;
            file.write_all(&text)?;
            fail_point!("crash", |_| crate::failpoint::now());
            fs::rename(&unfinished, &path)
        };
        write().map_err(|source| Error::io("write", &path, source))?;
        fail_point!("crash", |_| crate::failpoint::now());
        Ok(())
    }

    /// The number of damaged files.
    pub(crate) fn damaged(&self) -> usize {
        self.damaged
    }

    /// Checks that a record could be written.
    pub(crate) fn try_writing(&self) -> Result<(), Error> {
        let probe = self.directory.join("probe").with_extension(UNFINISHED);
        let written = fs::write(&probe, "probe");
        let removed = fs::remove_file(&probe);
        (written.and(removed)).map_err(|source| Error::io("write", &probe, source))
    }

    /// Removes the record in a slot, if any.
    pub(crate) fn remove(&self, record_id: RecordId) -> Result<(), Error> {
        let path = self.path(record_id);
        fail_point!("crash", |_| crate::failpoint::now());
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io("remove", &path, source));
            }
            _ => {}
        }
        fail_point!("crash", |_| crate::failpoint::now());
        Ok(())
    }

    /// The time since a record was written; zero if the file is gone or from the future.
    pub(crate) fn age(&self, record_id: RecordId) -> Duration {
        let written = fs::metadata(self.path(record_id)).and_then(|file| file.modified());
        let age = written.ok().and_then(|written| written.elapsed().ok());
        age.unwrap_or_default()
    }

    fn path(&self, RecordId(number): RecordId) -> PathBuf {
        self.directory.join(number.to_string()).with_extension(KIND)
    }

    fn files(&self) -> Result<Vec<PathBuf>, Error> {
        let failed = |source| Error::io("list", &self.directory, source);
        let entries = fs::read_dir(&self.directory).map_err(failed)?;
        let paths: io::Result<Vec<_>> = entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect();
        paths.map_err(failed)
    }

    /// The record in a file, if it is from this boot.
    fn read(&mut self, path: &Path) -> Result<Option<(RecordId, Record)>, Error> {
        let Some(record_id) = record_id_of(path) else {
            if path.extension().is_some_and(|kind| kind == UNFINISHED) {
                fs::remove_file(path).map_err(|source| Error::io("remove", path, source))?;
            }
            return Ok(None);
        };
        self.next = self.next.max(record_id.0 + 1);
        let text = fs::read(path).map_err(|source| Error::io("read", path, source))?;
        match decode(&text) {
            Ok(record) if record.boot == self.boot => Ok(Some((record_id, record))),
            Ok(_) => self.remove(record_id).map(|()| None),
            Err(error) => {
                let damaged_path = path.with_extension(DAMAGED);
                tracing::warn!(path = %damaged_path.display(), %error, "damaged record renamed");
                fs::rename(path, &damaged_path)
                    .map_err(|source| Error::io("rename", path, source))?;
                self.damaged += 1;
                Ok(None)
            }
        }
    }
}

/// `7.json` → 7.
fn record_id_of(path: &Path) -> Option<RecordId> {
    let number = path.file_stem()?.to_str()?.parse().ok()?;
    (path.extension()? == KIND).then_some(RecordId(number))
}

pub(super) fn decode(text: &[u8]) -> Result<Record, serde_json::Error> {
    serde_json::from_slice(text)
}

impl Error {
    fn io(operation: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            operation,
            path: path.into(),
            source,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sluice_api::{Attachment, PodName};

    use super::*;

    fn add(container: &str) -> AddRequest {
        AddRequest {
            attachment: Attachment {
                network: "pods".to_owned(),
                container_id: container.to_owned(),
                ifname: "eth0".to_owned(),
            },
            netns: "/run/netns/pod".to_owned(),
            addresses: Vec::new(),
            pod: PodName::default(),
            annotations: None,
            manifest: None,
        }
    }

    fn open(directory: &Path) -> (Store, Vec<(RecordId, Record)>) {
        Store::open(directory).unwrap()
    }

    fn names(directory: &Path) -> Vec<String> {
        let entries = fs::read_dir(directory).unwrap();
        let name = |entry: io::Result<fs::DirEntry>| entry.unwrap().file_name().into_string();
        let mut names: Vec<_> = entries.map(|entry| name(entry).unwrap()).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn records_are_read_in_their_order() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, none) = open(directory.path());
        assert_eq!(none, []);
        let records = ["a", "b", "c"].map(|name| store.record(add(name), None, Changes::default()));
        let record_ids = records.each_ref().map(|record| {
            let record_id = store.new_record_id();
            store.put(record_id, record).unwrap();
            record_id
        });
        store.remove(record_ids[1]).unwrap();
        let again = store.record(add("a2"), None, Changes::PASSTHROUGH);
        store.put(record_ids[0], &again).unwrap();

        let (mut next, found) = open(directory.path());
        assert_eq!(
            found,
            [(record_ids[0], again), (record_ids[2], records[2].clone())]
        );
        assert!(next.new_record_id() > record_ids[2]);
    }

    #[test]
    fn records_of_an_earlier_boot_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = open(directory.path());
        store.boot = "yesterday".to_owned();
        let record_id = store.new_record_id();
        store
            .put(record_id, &store.record(add("a"), None, Changes::default()))
            .unwrap();
        assert_eq!(open(directory.path()).1, []);
        assert_eq!(names(directory.path()), [""; 0]);
    }

    #[test]
    fn damaged_record_is_renamed_and_others_load() {
        let directory = tempfile::tempdir().unwrap();
        let (mut store, _) = open(directory.path());
        let record = store.record(add("a"), None, Changes::default());
        let record_ids = [(); 2].map(|()| store.new_record_id());
        for record_id in record_ids {
            store.put(record_id, &record).unwrap();
        }
        let text = fs::read(store.path(record_ids[0])).unwrap();
        fs::write(store.path(record_ids[0]), &text[..text.len() / 2]).unwrap();
        fs::write(directory.path().join("9.unfinished"), "{").unwrap();
        assert_eq!(open(directory.path()).1, [(record_ids[1], record)]);
        assert_eq!(names(directory.path()), ["0.damaged", "1.json"]);
    }

    #[test]
    fn directory_of_another_user_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::chown(directory.path(), Some(65534), None).unwrap();
        let error = Store::open(directory.path()).unwrap_err();
        assert!(
            matches!(
                error,
                Error::Io {
                    operation: "use",
                    ..
                }
            ),
            "{error}"
        );
    }

    proptest! {
        #[test]
        fn no_content_makes_the_reader_panic(text in prop::collection::vec(any::<u8>(), 0..300)) {
            let _either = decode(&text);
        }
    }
}
