//! The stand-in's listeners in the network namespaces of Pods.

use std::{
    fs::File,
    io::{IoSlice, IoSliceMut, Write as _},
    net::Shutdown,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::net::UnixStream,
    },
    process::{Child, Command},
    sync::Mutex,
    thread::{self, JoinHandle},
};

use nix::{
    cmsg_space,
    sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, recvmsg, sendmsg},
};
use socket2::Socket;

/// The response to every client.
pub(super) const SERVED: &str = "ztunnel";

/// Listens as ztunnel does in each namespace that arrives, and returns the sockets. A socket belongs to
/// the cgroup of the process that made it.
const PROGRAM: &str = "import ctypes, os, socket\n\
    here = socket.socket(fileno=0)\n\
    libc = ctypes.CDLL(None)\n\
    while True:\n\
    \x20   data, namespaces, _, _ = socket.recv_fds(here, 1, 1)\n\
    \x20   if not data: break\n\
    \x20   assert libc.setns(namespaces[0], 0x40000000) == 0\n\
    \x20   os.close(namespaces[0])\n\
    \x20   made = []\n\
    \x20   for port in (15001, 15006, 15008, 15053):\n\
    \x20       one = socket.socket(socket.AF_INET6, socket.SOCK_STREAM)\n\
    \x20       one.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, 0x539)\n\
    \x20       one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\n\
    \x20       one.bind(('::', port))\n\
    \x20       one.listen(128)\n\
    \x20       made.append(one)\n\
    \x20   socket.send_fds(here, [b'!'], [one.fileno() for one in made])\n\
    \x20   for one in made: one.close()\n";

/// A process that makes listeners.
pub(super) struct Place {
    process: Child,
    stream: Mutex<UnixStream>,
}

impl Default for Place {
    /// In the cgroup of the test.
    fn default() -> Self {
        Self::of_cgroup("/dev/null")
    }
}

impl Place {
    /// In a cgroup, by its file of members.
    pub(super) fn of_cgroup(members: &str) -> Self {
        let (stream, theirs) = UnixStream::pair().expect("a pair of sockets");
        let process = Command::new("sh")
            .args(["-c", "echo 0 >\"$1\"; exec python3 -c \"$2\"", "sh"])
            .args([members, PROGRAM])
            .stdin(OwnedFd::from(theirs))
            .spawn()
            .expect("a process");
        Self {
            process,
            stream: Mutex::new(stream),
        }
    }

    /// Listens in a namespace.
    pub(super) fn listen(&self, netns: &File) -> Vec<Listener> {
        let stream = self.stream.lock().expect("a stream");
        let descriptors = [netns.as_raw_fd()];
        let rights = [ControlMessage::ScmRights(&descriptors)];
        let byte = [IoSlice::new(b"!")];
        sendmsg::<()>(stream.as_raw_fd(), &byte, &rights, MsgFlags::empty(), None)
            .expect("a running process");
        let mut space = cmsg_space!([i32; 4]);
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        let flags = MsgFlags::MSG_CMSG_CLOEXEC;
        let received = recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), flags)
            .expect("listeners");
        let descriptors = received
            .cmsgs()
            .expect("control messages")
            .find_map(|one| match one {
                ControlMessageOwned::ScmRights(descriptors) => Some(descriptors),
                _ => None,
            });
        let sockets = descriptors.expect("listeners").into_iter();
        // SAFETY: the kernel made each descriptor for this process, and nothing else owns it.
        let socket = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
        sockets
            .map(|fd| Listener::serve(socket(fd).into()))
            .collect()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ended = self.process.kill();
        let _ended = self.process.wait();
    }
}

/// A listener that serves one word to each client, without the application.
pub(super) struct Listener {
    socket: Socket,
    thread: Option<JoinHandle<()>>,
}

impl Listener {
    fn serve(socket: Socket) -> Self {
        let accepting = socket.try_clone().expect("a descriptor");
        let serve = move || {
            while let Ok((mut stream, _)) = accepting.accept() {
                let _gone = stream.write_all(SERVED.as_bytes());
            }
        };
        Self {
            socket,
            thread: Some(thread::spawn(serve)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _wakes = self.socket.shutdown(Shutdown::Both);
        drop(self.thread.take().map(JoinHandle::join));
    }
}
