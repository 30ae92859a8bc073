//! The rows: one connection or query each, and its outcome in words.

use std::{
    thread::sleep,
    time::{Duration, Instant},
};

use super::super::load::{DIAL, Load};
use super::{
    ambient::Ambient,
    network::{CLIENT, OUTSIDE, PORT, SERVER, VIPS, address},
};

/// One row.
pub(super) struct Row {
    pub(super) name: &'static str,
    /// Without interception the outcome is another one.
    pub(super) needs_proxy: bool,
    /// Whether the family is IPv6 is the second argument.
    pub(super) run: fn(&Ambient, bool) -> String,
}

/// A port without an application.
const CLOSED: u16 = 8081;

pub(super) const ROWS: [Row; 15] = [
    row("the Pod's address, in the mesh", true, |n, v6| {
        by(n, CLIENT, &address(SERVER, v6), PORT)
    }),
    row("the Service's address", true, |n, v6| {
        by(n, CLIENT, vip(v6), 80)
    }),
    row("the Service's address, by its own Pod", true, |n, v6| {
        by(n, SERVER, vip(v6), 80)
    }),
    row("the Pod's own address", false, |n, v6| {
        by(n, SERVER, &address(SERVER, v6), PORT)
    }),
    row("loopback", false, |n, v6| by(n, SERVER, loopback(v6), PORT)),
    row("plaintext into the mesh", true, |n, v6| {
        by(n, OUTSIDE, &address(SERVER, v6), PORT)
    }),
    row("plaintext out of the mesh", true, |n, v6| {
        by(n, CLIENT, &address(OUTSIDE, v6), PORT)
    }),
    row("a closed port in the mesh", true, |n, v6| {
        by(n, CLIENT, &address(SERVER, v6), CLOSED)
    }),
    row("a closed port from outside", true, |n, v6| {
        by(n, OUTSIDE, &address(SERVER, v6), CLOSED)
    }),
    row("a closed port outside", true, |n, v6| {
        by(n, CLIENT, &address(OUTSIDE, v6), CLOSED)
    }),
    row("a closed port of the Pod itself", false, |n, v6| {
        by(n, SERVER, &address(SERVER, v6), CLOSED)
    }),
    row("a name of the mesh, over UDP", true, |n, v6| {
        resolve(n, v6, false)
    }),
    row("a name of the mesh, over TCP", true, |n, v6| {
        resolve(n, v6, true)
    }),
    row("ztunnel replaced under load", true, |n, v6| {
        let [load] = replaced(n, v6, [(CLIENT, vip(v6), 80)]);
        load
    }),
    row("ztunnel replaced under load of plaintext", true, plaintext),
];

const fn row(name: &'static str, needs_proxy: bool, run: fn(&Ambient, bool) -> String) -> Row {
    Row {
        name,
        needs_proxy,
        run,
    }
}

fn vip(v6: bool) -> &'static str {
    VIPS[usize::from(v6)]
}

fn loopback(v6: bool) -> &'static str {
    if v6 { "::1" } else { "127.0.0.1" }
}

/// Connects from a Pod: the application's view of the source, and the transport that ztunnel logs.
fn by(ambient: &Ambient, from: usize, to: &str, port: u16) -> String {
    let before = ambient.logs().len();
    let program = format!("{DIAL}print(dial('{to}', {port}), end='')");
    let seen = ambient.network.run(from, &program);
    let end = Instant::now() + Duration::from_millis(600);
    loop {
        let logs = ambient.logs();
        let lines: Vec<_> = (logs[before..].lines())
            .filter(|line| line.contains("connection complete"))
            .collect();
        let has = |direction: &str, word: &str| {
            lines
                .iter()
                .any(|line| line.contains(direction) && line.contains(word))
        };
        let inbound = "direction=\"inbound\"";
        if has(inbound, "src.identity") {
            return format!("{seen}, HBONE");
        }
        if has(inbound, "") {
            return format!("{seen}, plaintext into ztunnel");
        }
        if Instant::now() > end {
            let outbound = has("direction=\"outbound\"", "");
            return seen
                + if outbound {
                    ", plaintext out of ztunnel"
                } else {
                    ""
                };
        }
        sleep(Duration::from_millis(20));
    }
}

/// Asks a resolver outside the Pod for the Service's name.
fn resolve(ambient: &Ambient, v6: bool, over_tcp: bool) -> String {
    let resolver = address(OUTSIDE, v6);
    let (family, kind) = if v6 { ("AF_INET6", 28) } else { ("AF_INET", 1) };
    let socket = if over_tcp {
        "SOCK_STREAM"
    } else {
        "SOCK_DGRAM"
    };
    let program = format!(
        "import socket, struct, sys\n\
         name = b''.join(bytes([len(part)]) + part for part in \
         b'server.shop.svc.cluster.local'.split(b'.')) + b'\\0'\n\
         query = struct.pack('>HHHHHH', 7, 256, 1, 0, 0, 0) + name + struct.pack('>HH', {kind}, 1)\n\
         peer = socket.socket(socket.{family}, socket.{socket})\n\
         peer.settimeout(2)\n\
         try:\n\
         \x20   peer.connect(('{resolver}', 53))\n\
         \x20   peer.sendall((struct.pack('>H', len(query)) if {tcp} else b'') + query)\n\
         \x20   reply = peer.recv(512)\n\
         \x20   if {tcp} and len(reply) == 2: reply += peer.recv(512)\n\
         \x20   length = 16 if {kind} == 28 else 4\n\
         \x20   print(socket.inet_ntop(socket.{family}, reply[-length:]), end='')\n\
         except OSError as error: print(type(error).__name__, end='')",
        tcp = if over_tcp { "True" } else { "False" },
    );
    ambient.network.run(CLIENT, &program)
}

/// Connects again and again from a Pod to an address, while another ztunnel starts and the first one ends.
fn replaced<const LOADS: usize>(
    ambient: &Ambient,
    v6: bool,
    loads: [(usize, &str, u16); LOADS],
) -> [String; LOADS] {
    let loads = loads.map(|(from, to, port)| {
        let place = |program: &str| ambient.network.command(from, program);
        Load::start(place, (to, port), &address(from, v6))
    });
    sleep(Duration::from_millis(500));
    ambient.start_ztunnel();
    let first = ambient.ztunnels.borrow_mut().remove(0);
    first.stop();
    sleep(Duration::from_secs(1));
    loads.map(Load::finish)
}

/// Likewise into the mesh and out of it, without HBONE.
fn plaintext(ambient: &Ambient, v6: bool) -> String {
    let [server, outside] = [SERVER, OUTSIDE].map(|index| address(index, v6));
    let loads = [(OUTSIDE, &*server, PORT), (CLIENT, &*outside, PORT)];
    let [into, out] = replaced(ambient, v6, loads);
    let logs = ambient.logs();
    let passed = ["inbound", "outbound"]
        .map(|direction| logs.contains(&format!("direction=\"{direction}\"")));
    format!("into: {into}; out of: {out}; through ztunnel: {passed:?}")
}
