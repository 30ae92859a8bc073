//! The random scenario of one connection, and its execution.

use std::{
    io::ErrorKind,
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    thread,
    time::{Duration, Instant},
};

use super::{super::sockets::begin, WORLD, endpoint::Endpoint};
use fastrand::Rng;

/// The time limit of a connection.
const PATIENCE: Duration = Duration::from_secs(10);

/// The ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PathKind {
    /// An application and its own proxy.
    ToOwnProxy,
    /// The proxies of two Pods.
    BetweenProxies,
}

/// The order in which the ends send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// The server sends after it has received everything.
    ClientFirst,
    /// The client sends after it has received everything.
    ServerFirst,
    /// Each sends after the other's last piece.
    InTurns,
    /// Both send at any time.
    Pipelined,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    /// Each end shuts its direction down after it has sent everything.
    HalfCloses,
    /// The client closes after it has sent everything. The server sends nothing.
    Close,
    /// As `Close`, with a reset.
    Reset,
}

/// All random choices of a seed.
#[derive(Debug)]
pub(super) struct Scenario {
    /// The seed, for the report of a failure.
    #[expect(dead_code, reason = "shown by a failure")]
    seed: u64,
    to: SocketAddr,
    order: Order,
    ending: Ending,
    /// The client sends before the server has accepted.
    early: bool,
    /// Sends data in the SYN, if the client already has a cookie.
    fast_open: bool,
    /// Lengths of the client's and the server's writes.
    pieces: [Vec<usize>; 2],
    /// The start of their bytes in the noise.
    noise: [usize; 2],
}

impl Scenario {
    pub(super) fn of(seed: u64, path: PathKind) -> Self {
        let mut rng = Rng::with_seed(seed);
        let orders = [
            Order::ClientFirst,
            Order::ServerFirst,
            Order::InTurns,
            Order::Pipelined,
        ];
        let ending = match rng.u8(0..8) {
            0 => Ending::Close,
            1 => Ending::Reset,
            _ => Ending::HalfCloses,
        };
        let is_cut = ending != Ending::HalfCloses;
        let mut order = orders[rng.usize(0..orders.len())];
        if is_cut {
            order = Order::Pipelined;
        }
        let speaks = order != Order::ServerFirst;
        let fast_open = speaks && rng.u8(0..16) == 0;
        let mut pieces = [0; 2].map(|_| pieces(&mut rng));
        if is_cut {
            pieces[1].clear();
        }
        Self {
            seed,
            to: destination(&mut rng, path, fast_open),
            order,
            ending,
            early: fast_open || (speaks && rng.bool()),
            fast_open,
            pieces,
            noise: [0; 2].map(|_| rng.usize(..Endpoint::NOISE / 2)),
        }
    }

    /// Runs the scenario. Returns the number of bytes that arrived.
    pub(super) fn run(&self, listener: &TcpListener) -> u64 {
        let mut client = Endpoint::new(self.connect(), self.script(0), self.script(1));
        if self.early {
            client.write(self.allowed(0, 0));
        }
        let accepted = self.accept(listener);
        let mut server = Endpoint::new(accepted, self.script(1), self.script(0));
        let heard = if self.ending == Ending::HalfCloses {
            self.converse(&mut client, &mut server);
            client.heard() + server.heard()
        } else {
            self.cut(client, &mut server);
            server.heard()
        };
        heard as u64
    }

    /// Runs both ends, in turns, until each has received the other's end of data.
    fn converse(&self, client: &mut Endpoint, server: &mut Endpoint) {
        let mut is_shut = [false; 2];
        self.until(|| {
            let mut moved = client.write(self.allowed(0, client.heard()));
            moved |= server.write(self.allowed(1, server.heard()));
            for (side, is_shut) in [&mut *client, &mut *server].into_iter().zip(&mut is_shut) {
                if side.is_done() && !*is_shut {
                    side.stream.shutdown(Shutdown::Write).unwrap();
                    *is_shut = true;
                }
                moved |= side
                    .read()
                    .unwrap_or_else(|error| panic!("{error}: {self:?}"));
            }
            (moved, client.has_ended() && server.has_ended())
        });
        assert!(client.is_complete() && server.is_complete(), "{self:?}");
    }

    /// The client closes as soon as it has sent everything.
    fn cut(&self, mut client: Endpoint, server: &mut Endpoint) {
        self.until(|| {
            let moved = client.write(usize::MAX) | server.read().unwrap();
            (moved, client.is_done())
        });
        if self.ending == Ending::Reset {
            let linger = Some(Duration::ZERO);
            socket2::SockRef::from(&client.stream)
                .set_linger(linger)
                .unwrap();
        }
        drop(client);
        self.until(|| match server.read() {
            Ok(moved) => (moved, server.has_ended()),
            Err(error) if self.ending == Ending::Reset => {
                assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{self:?}");
                (true, true)
            }
            Err(error) => panic!("{error}: {self:?}"),
        });
        assert!(
            self.ending == Ending::Reset || server.is_complete(),
            "{self:?}"
        );
    }

    /// Repeats a step, which returns whether there was progress and whether all is done.
    fn until(&self, mut step: impl FnMut() -> (bool, bool)) {
        let end = Instant::now() + PATIENCE;
        loop {
            match step() {
                (_, true) => return,
                (true, _) => {}
                (false, _) => thread::yield_now(),
            }
            assert!(Instant::now() < end, "it does not end: {self:?}");
        }
    }

    /// The limit up to which an end may send after it has received `heard` bytes.
    fn allowed(&self, side: usize, heard: usize) -> usize {
        let other = 1 - side;
        let whole = self.pieces[other].iter().sum();
        let waits = match self.order {
            Order::Pipelined => false,
            Order::ClientFirst => side == 1 && heard < whole,
            Order::ServerFirst => side == 0 && heard < whole,
            Order::InTurns => return self.turn(side, heard),
        };
        if waits { 0 } else { usize::MAX }
    }

    /// The client may be a piece ahead of the server; the server is never ahead.
    fn turn(&self, side: usize, heard: usize) -> usize {
        let mut left = heard;
        let complete = self.pieces[1 - side].iter().take_while(|piece| {
            let is_complete = **piece <= left;
            left = left.saturating_sub(**piece);
            is_complete
        });
        let complete = complete.count();
        if complete == self.pieces[1 - side].len() {
            return usize::MAX;
        }
        let turns = complete + usize::from(side == 0);
        self.pieces[side].iter().take(turns).sum()
    }

    fn script(&self, side: usize) -> (usize, &[usize]) {
        (self.noise[side], &self.pieces[side])
    }

    fn connect(&self) -> TcpStream {
        begin(self.to, |socket| {
            if self.fast_open {
                option(socket, libc::TCP_FASTOPEN_CONNECT, 1);
            }
        })
    }

    fn accept(&self, listener: &TcpListener) -> TcpStream {
        let mut accepted = None;
        self.until(|| {
            accepted = listener.accept().ok();
            (false, accepted.is_some())
        });
        accepted.unwrap().0
    }
}

/// Up to six pieces, most of them small, a few larger than the window.
fn pieces(rng: &mut Rng) -> Vec<usize> {
    let one = |rng: &mut Rng| match rng.u8(..) {
        0..100 => rng.usize(1..=16),
        100..220 => rng.usize(17..=4096),
        220..252 => rng.usize(4097..=32_768),
        252.. => rng.usize(32_769..=320_000),
    };
    (0..rng.usize(1..=6)).map(|_| one(rng)).collect()
}

/// An address of the other Pod, in each of its forms. The kernel keeps Fast Open cookies for each
/// address, and the alias address of an application's connection depends on the port.
fn destination(rng: &mut Rng, path: PathKind, fast_open: bool) -> SocketAddr {
    let [v4, v6] = WORLD;
    let first = match path {
        PathKind::ToOwnProxy => 100,
        PathKind::BetweenProxies => 20_000,
    };
    let port = if fast_open {
        first
    } else {
        rng.u16(first..first + 5000)
    };
    let forms = [
        format!("{v4}:{port}"),
        format!("[{v6}]:{port}"),
        format!("[::ffff:{v4}]:{port}"),
    ];
    forms[rng.usize(0..forms.len())].parse().unwrap()
}

/// Sets a TCP option.
pub(super) fn option(socket: &impl AsRawFd, name: libc::c_int, value: libc::c_int) {
    // SAFETY: the value has the given length.
    let status = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            name,
            (&raw const value).cast(),
            4,
        )
    };
    assert_eq!(status, 0, "option {name}");
}
