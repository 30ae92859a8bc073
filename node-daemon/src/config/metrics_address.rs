//! The address at which metrics are served.

use std::{
    fmt,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    str::FromStr,
};

use serde::Deserialize;

/// `IP:PORT`, or `:PORT` for every address of the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) enum MetricsAddress {
    /// One address.
    One(SocketAddr),
    /// Every address, of both families if the node has IPv6.
    Every {
        /// The port.
        port: u16,
    },
}

impl FromStr for MetricsAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let port = text.strip_prefix(':').map(str::parse);
        let parsed = match port {
            Some(Ok(port)) => Some(Self::Every { port }),
            Some(Err(_)) => None,
            None => text.parse().ok().map(Self::One),
        };
        parsed.ok_or_else(|| format!("'{text}' is no address: write IP:PORT or :PORT"))
    }
}

impl TryFrom<String> for MetricsAddress {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl fmt::Display for MetricsAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(address) => address.fmt(formatter),
            Self::Every { port } => write!(formatter, ":{port}"),
        }
    }
}

impl MetricsAddress {
    /// The socket addresses in the order in which they are tried: `[::]` serves both families.
    pub(crate) fn candidates(self) -> Vec<SocketAddr> {
        match self {
            Self::One(address) => vec![address],
            Self::Every { port } => vec![
                (Ipv6Addr::UNSPECIFIED, port).into(),
                (Ipv4Addr::UNSPECIFIED, port).into(),
            ],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_complete_or_a_port() {
        for text in ["127.0.0.1:15014", "[::1]:0", ":15014"] {
            assert_eq!(text.parse::<MetricsAddress>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "15014",
            ":",
            ":65536",
            "fd00::1:15014",
            "node:15014",
            "127.0.0.1",
        ] {
            assert!(text.parse::<MetricsAddress>().is_err(), "{text}");
        }
    }
}
