//! Tests of the search for listeners, in real namespaces.

use std::{
    net::{TcpListener, TcpStream},
    os::fd::AsRawFd as _,
};

use proptest::prelude::*;

use super::*;

#[test]
fn only_listeners_on_the_port_are_found() {
    let listeners = ["127.0.0.1:0", "[::1]:0"].map(|at| TcpListener::bind(at).unwrap());
    for listener in listeners {
        let at = listener.local_addr().unwrap();
        let _connected = TcpStream::connect(at).unwrap();
        let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        let inode = socket_inode(link.to_str().unwrap()).unwrap();
        let found = ListenSockets::here().unwrap();
        let on_port: Vec<_> = found.0.iter().filter(|one| one.port == at.port()).collect();
        assert_eq!(on_port.len(), 1);
        let uid = nix::unistd::geteuid().as_raw();
        assert_eq!((on_port[0].inode, on_port[0].uid), (inode, uid));
        assert!(!found.any_on(1));
    }
}

#[test]
fn only_links_to_sockets_have_an_inode() {
    assert_eq!(socket_inode("socket:[12]"), Some(12));
    assert_eq!(socket_inode("pipe:[12]"), None);
    assert_eq!(socket_inode("/tmp/socket:[12]"), None);
}

const PROXY: ProxyUser = ProxyUser {
    uid: 1337,
    gid: 1337,
    mark: 0,
    mark_mask: 0,
    validator: None,
};

#[test]
fn listeners_of_other_users_are_counted_and_not_fetched() {
    let socket = |owner: Option<(u32, u32)>| {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::fchown(&socket, Some(uid), Some(gid)).unwrap();
        }
        let family = 2;
        let socket = socket.into();
        ListenSocket { socket, family }
    };
    for (owner, expected) in [
        (None, false),
        (Some((1337, 0)), true),
        (Some((0, 1337)), true),
        (Some((1000, 1000)), false),
    ] {
        assert_eq!(socket(owner).is_of(PROXY), expected, "{owner:?}");
    }
    let marked = ProxyUser {
        mark: 0x539,
        mark_mask: 0xfff,
        ..PROXY
    };
    let listener = socket(None);
    nix::sys::socket::setsockopt(&listener.socket, Mark, &0x1539).unwrap();
    assert!(listener.is_of(marked) && !listener.is_of(PROXY));
    let described = ListenSockets::here().unwrap();
    let mark = described.0.iter().filter(|one| one.mark == 0x1539);
    assert_eq!(mark.count(), 1);
}

#[test]
fn fetches_of_other_users_sockets_are_bounded() {
    let described = |inode: u64, uid| Described {
        port: 15006,
        inode,
        uid,
        mark: 0,
    };
    let foreign = (0..1000).map(|inode| described(inode, 1000));
    let all = foreign.chain([described(5000, 1337)]).collect();
    let (duplicated, beyond) = ListenSockets(all).candidates(15006, PROXY);
    assert!(duplicated.contains(&5000));
    assert_eq!(
        (duplicated.len(), beyond),
        (MOST_UNCLEAR + 1, 1000 - MOST_UNCLEAR)
    );
}

proptest! {
    #[test]
    fn parser_accepts_any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let _either = Described::parse(&bytes);
    }
}
