//! System calls of which a socket map changes the meaning: they must find plain TCP wherever
//! acceleration is not documented to be on.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{TcpStream, UdpSocket},
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
    ptr, thread,
    time::Duration,
};

use sluice_abi::{BUDGET, PodFlags, Reason};

use super::{
    super::lab::{APP, Lab, WORLD, await_that, listen, meet},
    ALL,
};

/// An application's connection in a Pod with these flags, and its proxy's end.
fn of_an_application(flags: PodFlags) -> (Lab, TcpStream, TcpStream) {
    let mut lab = Lab::bare();
    lab.enrol_with(flags);
    let proxy = listen(&lab.pod, "[::]:15001");
    let to = format!("{}:80", WORLD[0]);
    let (client, server) = meet((&lab.pod, APP, &to), (&lab.pod, &proxy));
    (lab, client, server)
}

fn of_an_application_left_to_tcp() -> (Lab, TcpStream, TcpStream) {
    of_an_application(PodFlags::ACCELERATE_PROXIES)
}

/// Bytes that are taken while nobody reads.
fn taken_unread(flags: PodFlags) -> usize {
    let (lab, mut client, server) = of_an_application(flags);
    client.set_nonblocking(true).unwrap();
    let mut taken = 0;
    let error = loop {
        match client.write(&[7; 16384]) {
            Ok(length) => taken += length,
            Err(error) => break error,
        }
        assert!(taken < 64 << 20, "{taken} bytes were taken");
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    assert_eq!(lab.count(Reason::AccelerationSpent) > 0, flags == ALL);
    drop(server);
    taken
}

#[test]
fn a_reader_that_never_reads_takes_what_it_takes_over_tcp_and_the_budget() {
    let plain = taken_unread(PodFlags::default());
    let accelerated = taken_unread(ALL);
    // TCP grows its buffers by what it measures, so two runs differ a little.
    let bound = plain + plain / 2 + BUDGET as usize;
    assert!(
        accelerated <= bound,
        "{accelerated} against {plain} over TCP"
    );
}

#[test]
fn an_application_that_waits_for_all_gets_all() {
    let (lab, mut client, server) = of_an_application_left_to_tcp();
    let speaker = thread::spawn(move || {
        for _ in 0..4 {
            client.write_all(&[7; 250]).unwrap();
            thread::sleep(Duration::from_millis(10));
        }
        client
    });
    let mut heard = [0_u8; 1000];
    // SAFETY: the buffer is as long as is said.
    let length = unsafe {
        let buffer = heard.as_mut_ptr().cast();
        libc::recv(server.as_raw_fd(), buffer, heard.len(), libc::MSG_WAITALL)
    };
    assert_eq!((length, heard), (1000, [7; 1000]));
    drop(speaker.join().unwrap());
    assert_eq!(lab.count(Reason::Accelerated), 0);
}

#[test]
fn an_application_splices_from_its_connection() {
    let (lab, mut client, server) = of_an_application_left_to_tcp();
    client.write_all(&[7; 3000]).unwrap();
    let mut ends = [0; 2];
    // SAFETY: the array has place for two descriptors, which are nobody else's then.
    let [read, write] = unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        ends.map(|end| OwnedFd::from_raw_fd(end))
    };
    // SAFETY: without offsets, and both descriptors are open.
    let moved = unsafe {
        let (from, to) = (server.as_raw_fd(), write.as_raw_fd());
        libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), 3000, 0)
    };
    let moved = usize::try_from(moved).unwrap();
    assert!(moved > 0);
    let mut heard = vec![0; moved];
    std::fs::File::from(read).read_exact(&mut heard).unwrap();
    assert_eq!(heard, vec![7; moved]);
    assert_eq!(lab.count(Reason::Accelerated), 0);
}

#[test]
fn an_application_hears_that_what_it_sent_without_a_copy_has_left() {
    let (lab, client, mut server) = of_an_application_left_to_tcp();
    set(&client, ZEROCOPY, &ON).unwrap();
    send_without_a_copy(&client, &mut server);
    await_that(|| has_news(&client));
    assert_eq!(lab.count(Reason::Accelerated), 0);
}

#[test]
fn an_accelerated_application_is_refused_what_its_sockets_would_not_keep_to() {
    let (lab, client, mut server) = of_an_application(ALL);
    let datagrams = lab.pod.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for option in [ZEROCOPY, UPPER_LAYER] {
        let refused = set(&client, option, b"tls\0").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{option:?}");
    }
    assert_eq!(lab.count(Reason::AccelerationOption), 2);
    // Datagrams are not accelerated.
    set(&datagrams, ZEROCOPY, &ON).unwrap();
    // Without the option, the flag means nothing: the bytes are copied, and nobody waits for news.
    send_without_a_copy(&client, &mut server);
    assert!(!has_news(&client));
    assert_eq!(lab.count(Reason::Accelerated), 1);
}

#[test]
fn an_application_left_to_tcp_is_told_by_the_kernel_what_upper_layers_there_are() {
    let (lab, client, _server) = of_an_application_left_to_tcp();
    let unknown = set(&client, UPPER_LAYER, b"none\0").unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    assert_eq!(lab.count(Reason::AccelerationOption), 0);
}

#[test]
fn a_node_that_accelerates_nothing_does_not_look_at_options() {
    let (lab, client, _server) = of_an_application(ALL);
    let lab = lab.restart_as(false);
    assert_eq!(lab.hooks("setsockopt"), 0);
    set(&client, ZEROCOPY, &ON).unwrap();
    let lab = lab.restart_as(true);
    assert_eq!(lab.hooks("setsockopt"), 1);
    set(&client, ZEROCOPY, &ON).unwrap_err();
}

const ON: [u8; 4] = 1_i32.to_ne_bytes();
const ZEROCOPY: (i32, i32) = (libc::SOL_SOCKET, libc::SO_ZEROCOPY);
const UPPER_LAYER: (i32, i32) = (libc::SOL_TCP, libc::TCP_ULP);

/// `setsockopt(2)`.
fn set(socket: &impl AsRawFd, (level, name): (i32, i32), value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).unwrap();
    // SAFETY: the value is as long as is said.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            level,
            name,
            value.as_ptr().cast(),
            length,
        )
    };
    if status == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Sends with `MSG_ZEROCOPY`, and compares what arrives.
fn send_without_a_copy(from: &TcpStream, to: &mut TcpStream) {
    let sent = vec![7_u8; 60_000];
    // SAFETY: the buffer is as long as is said, and is not changed until all of it has arrived.
    let length = unsafe {
        let buffer = sent.as_ptr().cast();
        libc::send(from.as_raw_fd(), buffer, sent.len(), libc::MSG_ZEROCOPY)
    };
    assert_eq!(usize::try_from(length).unwrap(), sent.len());
    let mut heard = vec![0; sent.len()];
    to.read_exact(&mut heard).unwrap();
    assert!(heard == sent);
}

/// Whether the kernel has put something into the socket's queue of errors, where it tells which
/// buffers it no longer needs.
fn has_news(socket: &TcpStream) -> bool {
    let mut poll = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: one entry, as is said.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1 && poll.revents & libc::POLLERR != 0
}
