//! One end of a test connection: its remaining data to send and to receive.

use std::{
    io::{self, ErrorKind, Read as _, Write as _},
    net::TcpStream,
    sync::LazyLock,
};

/// Random bytes. Each direction sends its own part, so that a misplaced byte is always detected.
static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut rng = fastrand::Rng::with_seed(0);
    let mut noise = vec![0; Endpoint::NOISE];
    rng.fill(&mut noise);
    noise
});

pub(super) struct Endpoint {
    pub(super) stream: TcpStream,
    /// The data to send; the piece boundaries follow.
    says: &'static [u8],
    ends: Vec<usize>,
    said: usize,
    hears: &'static [u8],
    heard: usize,
    has_ended: bool,
}

impl Endpoint {
    /// The number of random bytes.
    pub(super) const NOISE: usize = 8 << 20;

    /// With the start and the pieces of both directions.
    pub(super) fn new(stream: TcpStream, own: (usize, &[usize]), other: (usize, &[usize])) -> Self {
        stream.set_nonblocking(true).unwrap();
        stream.set_nodelay(true).unwrap();
        let part = |(from, pieces): (usize, &[usize])| {
            let length: usize = pieces.iter().sum();
            &NOISE[from..from + length]
        };
        let pieces = own.1.iter();
        Self {
            stream,
            says: part(own),
            ends: pieces
                .scan(0, |at, piece| {
                    *at += piece;
                    Some(*at)
                })
                .collect(),
            said: 0,
            hears: part(other),
            heard: 0,
            has_ended: false,
        }
    }

    /// Writes the rest of a piece, if its end is within `allowed`. Returns whether any byte was
    /// accepted.
    pub(super) fn write(&mut self, allowed: usize) -> bool {
        let Some(end) = self.ends.iter().find(|end| **end > self.said) else {
            return false;
        };
        if *end > allowed {
            return false;
        }
        match self.stream.write(&self.says[self.said..*end]) {
            Ok(taken) => self.said += taken,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return false,
            Err(error) => panic!("{error} after {} bytes", self.said),
        }
        true
    }

    /// Reads the available data, and compares it. Returns whether there was any.
    pub(super) fn read(&mut self) -> io::Result<bool> {
        let mut buffer = [0; 16384];
        match self.stream.read(&mut buffer) {
            Ok(0) => {
                let news = !self.has_ended;
                self.has_ended = true;
                Ok(news)
            }
            Ok(length) => {
                let end = self.heard + length;
                let expected = self.hears.get(self.heard..end).unwrap_or_default();
                assert!(
                    expected == &buffer[..length],
                    "wrong after {} bytes",
                    self.heard
                );
                self.heard = end;
                Ok(true)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(false),
            Err(error) => Err(error),
        }
    }

    pub(super) fn heard(&self) -> usize {
        self.heard
    }

    /// Whether all data was sent.
    pub(super) fn is_done(&self) -> bool {
        self.said == self.says.len()
    }

    /// Whether the peer's end of data was received.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Whether all data was received.
    pub(super) fn is_complete(&self) -> bool {
        self.heard == self.hears.len()
    }
}
