//! Tests of system calls that a sockmap changes: without acceleration, they must behave as on plain
//! TCP.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::{Shutdown, TcpStream, UdpSocket},
    os::fd::{AsRawFd, FromRawFd as _, OwnedFd},
    ptr, thread,
    time::Duration,
};

use sluice_abi::{PodFlags, REDIRECT_WINDOW_BYTES, Reason};

use super::{
    super::lab::{APP, Lab, WORLD, await_that},
    super::sockets::{begin, connect_pair, connect_pair_nonblocking, listen, take},
    ALL,
};

/// An application's connection in a Pod with these flags, and its proxy's end.
fn of_an_application(flags: PodFlags) -> (Lab, TcpStream, TcpStream) {
    let mut lab = Lab::bare();
    lab.enroll_with(flags);
    let proxy = listen(&lab.pod, "[::]:15001");
    let to = format!("{}:80", WORLD[0]);
    let (client, server) = connect_pair((&lab.pod, APP, &to), (&lab.pod, &proxy));
    (lab, client, server)
}

fn of_an_application_left_to_tcp() -> (Lab, TcpStream, TcpStream) {
    of_an_application(PodFlags::ACCELERATE_PROXIES)
}

/// An accelerated application's connection: both ends are nonblocking.
fn of_an_accelerated_application() -> (Lab, TcpStream, TcpStream) {
    let mut lab = Lab::bare();
    lab.enroll_with(ALL);
    let proxy = listen(&lab.pod, "[::]:15001");
    let to = format!("{}:80", WORLD[0]);
    let (client, server) = connect_pair_nonblocking((&lab.pod, APP, &to), (&lab.pod, &proxy));
    (lab, client, server)
}

/// The number of bytes that the kernel accepts without a reader.
fn taken_unread(lab: &Lab, mut client: &TcpStream) -> usize {
    let mut taken = 0;
    let error = loop {
        match client.write(&[7; 16384]) {
            Ok(length) => taken += length,
            Err(error) => break error,
        }
        assert!(taken < 64 << 20, "{taken} bytes were taken");
    };
    assert_eq!(error.kind(), ErrorKind::WouldBlock);
    println!(
        "{taken} bytes, {} budgets spent",
        lab.count(Reason::AccelStoppedWindow)
    );
    taken
}

#[test]
fn reader_without_reads_queues_tcp_buffers_and_window() {
    let (lab, client, _server) = of_an_application_left_to_tcp();
    client.set_nonblocking(true).unwrap();
    let plain = taken_unread(&lab, &client);
    assert_eq!(lab.count(Reason::AccelStoppedWindow), 0);

    let (lab, mut client, mut server) = of_an_accelerated_application();
    for _ in 0..2 {
        client.write_all(b"hear").unwrap();
        await_that(|| server.read(&mut [0; 4]).is_ok());
    }
    assert_eq!(lab.count(Reason::AccelStarted), 1);
    let accelerated = taken_unread(&lab, &client);
    assert_eq!(lab.count(Reason::AccelStoppedWindow), 1);
    // TCP adapts its buffers to measurements, so two runs differ slightly.
    let bound = plain + plain / 2 + REDIRECT_WINDOW_BYTES as usize;
    assert!(
        accelerated <= bound,
        "{accelerated} against {plain} over TCP"
    );
}

#[test]
fn msg_waitall_returns_all_bytes() {
    for flags in [PodFlags::ACCELERATE_PROXIES, ALL] {
        let (lab, mut client, server) = of_an_application(flags);
        let speaker = thread::spawn(move || {
            for _ in 0..4 {
                client.write_all(&[7; 250]).unwrap();
                thread::sleep(Duration::from_millis(10));
            }
            client
        });
        let mut heard = [0_u8; 1000];
        // SAFETY: the buffer has the given length.
        let length = unsafe {
            let buffer = heard.as_mut_ptr().cast();
            libc::recv(server.as_raw_fd(), buffer, heard.len(), libc::MSG_WAITALL)
        };
        assert_eq!((length, heard), (1000, [7; 1000]));
        drop(speaker.join().unwrap());
        assert_eq!(lab.count(Reason::AccelStarted), 0);
    }
}

#[test]
fn an_application_splices_from_its_connection() {
    for flags in [PodFlags::ACCELERATE_PROXIES, ALL] {
        let (lab, mut client, server) = of_an_application(flags);
        client.write_all(&[7; 3000]).unwrap();
        assert_eq!(splice(&server).unwrap(), [7; 3000]);
        assert_eq!(lab.count(Reason::AccelStarted), 0);
    }
}

/// Reads the available data by `splice(2)` into a pipe.
fn splice(from: &TcpStream) -> io::Result<Vec<u8>> {
    let mut ends = [0; 2];
    // SAFETY: the array has space for two descriptors, which have no other owner.
    let [read, write] = unsafe {
        assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
        ends.map(|end| OwnedFd::from_raw_fd(end))
    };
    // SAFETY: no offsets are passed, and both descriptors are open.
    let moved = unsafe {
        let (from, to) = (from.as_raw_fd(), write.as_raw_fd());
        libc::splice(from, ptr::null_mut(), to, ptr::null_mut(), 30_000, 0)
    };
    let moved = usize::try_from(moved).map_err(|_| io::Error::last_os_error())?;
    let mut heard = vec![0; moved];
    std::fs::File::from(read).read_exact(&mut heard)?;
    Ok(heard)
}

/// Only for kernels on which splices are detected. For others, `sluiced status` warns.
#[test]
fn splicing_application_is_no_longer_accelerated() {
    let (lab, mut client, mut server) = of_an_accelerated_application();
    if lab.datapath.features().splice != Some(true) {
        assert_eq!(lab.hooks_if_any("tcp_splice_read"), None);
        return;
    }
    for _ in 0..3 {
        client.write_all(b"hear").unwrap();
        await_that(|| server.read(&mut [0; 4]).is_ok());
    }
    assert_eq!(lab.count(Reason::AccelStarted), 1);
    splice(&server).unwrap_err();
    for _ in 0..3 {
        client.write_all(b"more").unwrap();
        await_that(|| splice(&server).is_ok_and(|heard| heard == b"more"));
    }
    assert_eq!(lab.count(Reason::AccelStoppedSplice), 1);

    // A later connection of the Pod starts on TCP, and stays there.
    let proxy = listen(&lab.pod, "[::]:15001");
    let to = format!("{}:81", WORLD[0]);
    let (mut client, mut server) =
        connect_pair_nonblocking((&lab.pod, APP, &to), (&lab.pod, &proxy));
    for _ in 0..3 {
        client.write_all(b"hear").unwrap();
        await_that(|| server.read(&mut [0; 4]).is_ok());
    }
    assert_eq!(lab.count(Reason::AccelStarted), 1);
}

#[test]
fn splice_with_unread_redirected_data_aborts() {
    let (lab, mut client, mut server) = of_an_accelerated_application();
    if lab.datapath.features().splice != Some(true) {
        return;
    }
    for _ in 0..2 {
        client.write_all(b"hear").unwrap();
        await_that(|| server.read(&mut [0; 4]).is_ok());
    }
    client.write_all(b"redirected").unwrap();
    splice(&server).unwrap_err();
    assert_eq!(lab.count(Reason::AccelAborted), 1);
    client.write_all(b"after it").unwrap_err();
    splice(&server).unwrap_err();
}

#[test]
fn blocking_sockets_never_get_eagain() {
    let (lab, mut client, mut server) = of_an_accelerated_application();
    server.set_nonblocking(false).unwrap();
    for _ in 0..20 {
        client.write_all(b"question").unwrap();
        server.read_exact(&mut [0; 8]).unwrap();
        server.write_all(b"answer").unwrap();
        await_that(|| client.read(&mut [0; 6]).is_ok());
    }
    assert_eq!(lab.count(Reason::AccelStarted), 0);
    assert!(lab.count(Reason::AccelSkippedBlocking) > 0);
    assert_eq!(lab.count(Reason::AccelDrained), 1);
    // A socket in a map would wake up for its own end's activity, and have no data.
    let speaker = thread::spawn(move || {
        thread::sleep(Duration::from_millis(50));
        client.write_all(b"last").unwrap();
        client
    });
    server.shutdown(Shutdown::Write).unwrap();
    server.read_exact(&mut [0; 4]).unwrap();
    drop(speaker.join().unwrap());
}

#[test]
fn zerocopy_completions_are_delivered_over_tcp() {
    let (lab, client, mut server) = of_an_application_left_to_tcp();
    set(&client, ZEROCOPY, &ON).unwrap();
    send_without_a_copy(&client, &mut server);
    await_that(|| has_news(&client));
    assert_eq!(lab.count(Reason::AccelStarted), 0);
}

#[test]
fn setsockopt_denies_unsupported_options() {
    let (lab, client, mut server) = of_an_accelerated_application();
    server.set_nonblocking(false).unwrap();
    let datagrams = lab.pod.run(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    for option in [ZEROCOPY, UPPER_LAYER] {
        let refused = set(&client, option, b"tls\0").unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{option:?}");
    }
    assert_eq!(lab.count(Reason::AccelSetsockoptDenied), 2);
    // Datagrams are not accelerated.
    set(&datagrams, ZEROCOPY, &ON).unwrap();
    // Without the option, the flag has no effect: the bytes are copied, without a completion.
    send_without_a_copy(&client, &mut server);
    assert!(!has_news(&client));
}

#[test]
fn zerocopy_sockets_are_not_accelerated() {
    let mut lab = Lab::bare();
    lab.enroll_with(ALL);
    let proxy = listen(&lab.pod, "[::]:15001");
    let to = format!("{}:80", WORLD[0]).parse().unwrap();
    let lend = |socket: &socket2::Socket| set(socket, ZEROCOPY, &ON).unwrap();
    let client = lab.pod.run_as(APP, move || begin(to, lend));
    let mut server = take(&lab.pod, &proxy);
    send_without_a_copy(&client, &mut server);
    await_that(|| has_news(&client));
    assert_eq!(lab.count(Reason::AccelSetsockoptDenied), 0);
}

#[test]
fn unaccelerated_sockets_reach_tcp_ulp() {
    let (lab, client, _server) = of_an_application_left_to_tcp();
    let unknown = set(&client, UPPER_LAYER, b"none\0").unwrap_err();
    assert_eq!(unknown.kind(), ErrorKind::NotFound);
    assert_eq!(lab.count(Reason::AccelSetsockoptDenied), 0);
}

#[test]
fn setsockopt_hook_stays_attached_without_acceleration() {
    let (lab, client, _server) = of_an_accelerated_application();
    let lab = lab.restart_as(false);
    assert_eq!(lab.hooks("setsockopt"), 1);
    // The socket is still in the sockhash.
    set(&client, ZEROCOPY, &ON).unwrap_err();
}

const ON: [u8; 4] = 1_i32.to_ne_bytes();
const ZEROCOPY: (i32, i32) = (libc::SOL_SOCKET, libc::SO_ZEROCOPY);
const UPPER_LAYER: (i32, i32) = (libc::SOL_TCP, libc::TCP_ULP);

/// `setsockopt(2)`.
fn set(socket: &impl AsRawFd, (level, name): (i32, i32), value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).unwrap();
    // SAFETY: the value has the given length.
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

/// Sends with `MSG_ZEROCOPY`, and compares the received data.
fn send_without_a_copy(from: &TcpStream, to: &mut TcpStream) {
    let sent = vec![7_u8; 60_000];
    // SAFETY: the buffer has the given length, and does not change until all of it has arrived.
    let length = unsafe {
        let buffer = sent.as_ptr().cast();
        libc::send(from.as_raw_fd(), buffer, sent.len(), libc::MSG_ZEROCOPY)
    };
    assert_eq!(usize::try_from(length).unwrap(), sent.len());
    let mut heard = vec![0; sent.len()];
    to.read_exact(&mut heard).unwrap();
    assert!(heard == sent);
}

/// Whether the socket's error queue has an entry, with which the kernel reports completed zero-copy
/// buffers.
fn has_news(socket: &TcpStream) -> bool {
    let mut poll = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: 0,
        revents: 0,
    };
    // SAFETY: there is one entry, as given.
    let ready = unsafe { libc::poll(&raw mut poll, 1, 0) };
    ready == 1 && poll.revents & libc::POLLERR != 0
}
