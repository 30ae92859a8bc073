//! An agent of ztunnel for the runs without Sluice: it sends the same Pods to every ztunnel.

use std::{
    fs::File,
    os::fd::{AsRawFd as _, OwnedFd},
    path::Path,
    thread,
};

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, accept, bind, listen, socket,
};

use super::super::messages::{Add, Hello, Info, Nothing, Request, Response, receive, send_with};

/// A Pod for ztunnel.
pub(super) struct Workload {
    pub(super) name: &'static str,
    pub(super) netns: File,
}

/// Serves ztunnels at a socket until the process ends.
pub(super) fn serve(path: &Path, pods: Vec<Workload>) {
    let listener = socket(
        AddressFamily::Unix,
        SockType::SeqPacket,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&listener, Backlog::new(4).unwrap()).unwrap();
    thread::spawn(move || {
        let mut connections = Vec::new();
        while let Ok(accepted) = accept(listener.as_raw_fd()) {
            // SAFETY: the kernel made this descriptor for this process, and nothing else owns it.
            let stream: OwnedFd = unsafe { std::os::fd::FromRawFd::from_raw_fd(accepted) };
            send_all(&stream, &pods);
            connections.push(stream);
        }
    });
}

fn send_all(stream: &OwnedFd, pods: &[Workload]) {
    let Some((Hello { .. }, _)) = receive(stream) else {
        return;
    };
    for Workload { name, netns } in pods {
        let add = Add {
            uid: format!("uid-{name}"),
            info: Some(Info {
                name: (*name).to_owned(),
                namespace: "shop".to_owned(),
                service_account: "baker".to_owned(),
            }),
        };
        let request = Request {
            add: Some(add),
            ..Request::default()
        };
        exchange(stream, &request, &[netns.as_raw_fd()]);
    }
    let snapshot_sent = Some(Nothing {});
    let request = Request {
        snapshot_sent,
        ..Request::default()
    };
    exchange(stream, &request, &[]);
}

fn exchange(stream: &OwnedFd, request: &Request, descriptors: &[i32]) {
    send_with(stream, request, descriptors).unwrap();
    let (Response { ack }, _) = receive(stream).expect("an acknowledgement");
    assert_eq!(ack.unwrap_or_default().error, "");
}
