//! A stand-in for ztunnel: a client of ZDS with ztunnel's sockets. One process serves every Pod; its
//! listeners are in the Pods' network namespaces, with ztunnel's mark.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle, sleep},
    time::Duration,
};

use nix::sys::socket::{
    AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, connect, shutdown, socket,
};

use super::{
    listeners::{Listener, Place},
    messages::{Ack, Add, Del, Hello, Info, Keep, Request, Response, receive, send},
};
use crate::wait;

/// A message that arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// A Pod, with the inode of its network namespace.
    Add(String, Info, u64),
    Del(String),
    Keep(String),
    Snapshot,
}

/// A ztunnel that runs.
pub(crate) struct Ztunnel {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

struct State {
    path: PathBuf,
    version: i32,
    /// Makes its listeners.
    place: Place,
    /// The error for each ADD, if any.
    error: Mutex<String>,
    seen: Mutex<Vec<Seen>>,
    /// The Pods that the latest connection named.
    current: Mutex<BTreeSet<String>>,
    connection: Mutex<Option<OwnedFd>>,
    ended: Mutex<bool>,
}

impl Ztunnel {
    /// Connects, again and again.
    pub(crate) fn start(path: &Path) -> Self {
        Self::of_version(path, 1)
    }

    /// Likewise with sockets in a cgroup, as those of a process there. `members` is the cgroup's file.
    pub(crate) fn start_in(path: &Path, members: &str) -> Self {
        Self::in_place(path, 1, Place::of_cgroup(members))
    }

    /// Likewise with another version of the protocol.
    pub(crate) fn of_version(path: &Path, version: i32) -> Self {
        Self::in_place(path, version, Place::default())
    }

    fn in_place(path: &Path, version: i32, place: Place) -> Self {
        let state = Arc::new(State {
            path: path.into(),
            version,
            place,
            error: Mutex::default(),
            seen: Mutex::default(),
            current: Mutex::default(),
            connection: Mutex::default(),
            ended: Mutex::default(),
        });
        let running = Arc::clone(&state);
        let thread = thread::spawn(move || {
            // Pods outlive the connection, as in ztunnel.
            let mut pods = BTreeMap::new();
            while !*running.ended.lock().expect("a flag") {
                running.serve(&mut pods);
                sleep(Duration::from_millis(5));
            }
        });
        Self {
            state,
            thread: Some(thread),
        }
    }

    /// Answers ADDs with this error from now on.
    pub(crate) fn fail(&self, error: &str) {
        error.clone_into(&mut self.state.error.lock().expect("a text"));
    }

    /// Every message so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.state.seen.lock().expect("a list").clone()
    }

    /// The Pods of the latest connection, by uid. ztunnel ends those of earlier ones with the snapshot;
    /// the stand-in keeps their listeners.
    pub(super) fn pods(&self) -> Vec<String> {
        let current = self.state.current.lock().expect("a set");
        current.iter().cloned().collect()
    }

    /// Waits until a message has arrived.
    pub(crate) fn await_seen(&self, wanted: &Seen) {
        wait::until(
            || self.seen().contains(wanted),
            || format!("{wanted:?} did not come: {:?}", self.seen()),
        );
    }
}

impl Drop for Ztunnel {
    fn drop(&mut self) {
        *self.state.ended.lock().expect("a flag") = true;
        if let Some(connection) = &*self.state.connection.lock().expect("a connection") {
            let _ = shutdown(connection.as_raw_fd(), Shutdown::Both);
        }
        drop(self.thread.take().map(JoinHandle::join));
    }
}

impl State {
    /// One connection, from hello to its end.
    fn serve(&self, pods: &mut BTreeMap<String, Vec<Listener>>) {
        let made = socket(
            AddressFamily::Unix,
            SockType::SeqPacket,
            SockFlag::SOCK_CLOEXEC,
            None,
        );
        let stream = made.expect("a socket");
        let address = UnixAddr::new(&self.path).expect("a path");
        if connect(stream.as_raw_fd(), &address).is_err() {
            return;
        }
        let kept = stream.try_clone().expect("a descriptor");
        *self.connection.lock().expect("a connection") = Some(kept);
        let hello = Hello {
            version: self.version,
        };
        if send(&stream, &hello).is_err() {
            return;
        }
        self.current.lock().expect("a set").clear();
        while let Some((request, netns)) = receive(&stream) {
            let error = self.handle(request, netns, pods);
            if send(
                &stream,
                &Response {
                    ack: Some(Ack { error }),
                },
            )
            .is_err()
            {
                return;
            }
        }
    }

    fn handle(
        &self,
        request: Request,
        netns: Option<OwnedFd>,
        pods: &mut BTreeMap<String, Vec<Listener>>,
    ) -> String {
        let mut error = String::new();
        let mut current = self.current.lock().expect("a set");
        let seen = if let Some(Add { uid, info }) = request.add {
            let netns = File::from(netns.expect("a namespace"));
            error.clone_from(&self.error.lock().expect("a text"));
            let inode = netns.metadata().expect("an inode").ino();
            if error.is_empty() {
                pods.entry(uid.clone())
                    .or_insert_with(|| self.place.listen(&netns));
            }
            current.insert(uid.clone());
            Seen::Add(uid, info.expect("an identity"), inode)
        } else if let Some(Del { uid }) = request.del {
            pods.remove(&uid);
            current.remove(&uid);
            Seen::Del(uid)
        } else if let Some(Keep { uid }) = request.keep {
            current.insert(uid.clone());
            Seen::Keep(uid)
        } else {
            request.snapshot_sent.expect("a known message");
            Seen::Snapshot
        };
        self.seen.lock().expect("a list").push(seen);
        error
    }
}
