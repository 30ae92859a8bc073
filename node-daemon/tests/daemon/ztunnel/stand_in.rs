//! A stand-in for ztunnel: a client of ZDS with ztunnel's sockets. One process serves every Pod; its
//! listeners are in the Pods' network namespaces, with ztunnel's mark.

use std::{
    collections::BTreeMap,
    fs::File,
    net::{Ipv6Addr, SocketAddr, SocketAddrV6},
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::MetadataExt as _,
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

use nix::{
    sched::{CloneFlags, setns},
    sys::socket::{
        AddressFamily, Shutdown, SockFlag, SockType, UnixAddr, connect, shutdown, socket,
    },
};
use socket2::{Domain, Protocol, Socket, Type};

use super::messages::{Ack, Add, Del, Hello, Info, Keep, Request, Response, receive, send};

const MARK: u32 = 0x539;
const PORTS: [u16; 4] = [15001, 15006, 15008, 15053];
const PATIENCE: Duration = Duration::from_secs(20);

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
    /// The error for each ADD, if any.
    error: Mutex<String>,
    seen: Mutex<Vec<Seen>>,
    connection: Mutex<Option<OwnedFd>>,
    ended: Mutex<bool>,
}

impl Ztunnel {
    /// Connects, again and again.
    pub(crate) fn start(path: &Path) -> Self {
        Self::of_version(path, 1)
    }

    /// Likewise with another version of the protocol.
    pub(crate) fn of_version(path: &Path, version: i32) -> Self {
        let state = Arc::new(State {
            path: path.into(),
            version,
            error: Mutex::default(),
            seen: Mutex::default(),
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

    /// Waits until a message has arrived.
    pub(crate) fn await_seen(&self, wanted: &Seen) {
        let end = Instant::now() + PATIENCE;
        while !self.seen().contains(wanted) {
            assert!(
                Instant::now() < end,
                "{wanted:?} did not come: {:?}",
                self.seen()
            );
            sleep(Duration::from_millis(5));
        }
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
    fn serve(&self, pods: &mut BTreeMap<String, Vec<Socket>>) {
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
        pods: &mut BTreeMap<String, Vec<Socket>>,
    ) -> String {
        let mut error = String::new();
        let seen = if let Some(Add { uid, info }) = request.add {
            let netns = File::from(netns.expect("a namespace"));
            error.clone_from(&self.error.lock().expect("a text"));
            let inode = netns.metadata().expect("an inode").ino();
            if error.is_empty() {
                pods.entry(uid.clone()).or_insert_with(|| listen(netns));
            }
            Seen::Add(uid, info.expect("an identity"), inode)
        } else if let Some(Del { uid }) = request.del {
            pods.remove(&uid);
            Seen::Del(uid)
        } else if let Some(Keep { uid }) = request.keep {
            Seen::Keep(uid)
        } else {
            request.snapshot_sent.expect("a known message");
            Seen::Snapshot
        };
        self.seen.lock().expect("a list").push(seen);
        error
    }
}

/// Listens in a namespace as ztunnel does.
fn listen(netns: File) -> Vec<Socket> {
    let inside = move || {
        setns(netns, CloneFlags::CLONE_NEWNET).expect("the namespace");
        let listen = |port: &u16| {
            let socket =
                Socket::new(Domain::IPV6, Type::STREAM, Some(Protocol::TCP)).expect("a socket");
            socket.set_mark(MARK).expect("the mark");
            socket.set_reuse_port(true).expect("shared ports");
            let address = SocketAddrV6::new(Ipv6Addr::UNSPECIFIED, *port, 0, 0);
            socket
                .bind(&SocketAddr::from(address).into())
                .expect("a free port");
            socket.listen(128).expect("a listener");
            socket
        };
        PORTS.iter().map(listen).collect()
    };
    thread::spawn(inside).join().expect("listeners")
}
