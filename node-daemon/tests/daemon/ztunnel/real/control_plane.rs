//! Linkerd's control plane for one proxy: identity, destination and policy.
//!
//! The identity service signs one certificate for every proxy. The destination service knows the Pods of the
//! mesh, whose proxies speak TLS with that identity. The policy service has no policy.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::Path,
};

use prost::Message;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};

use super::{
    grpc::{self, Answer, Status},
    network::{CLIENT, SERVER, address},
};
use crate::node::Pod;

/// The services' addresses, on loopback.
pub(super) const IDENTITY: &str = "127.0.0.1:8090";
pub(super) const DESTINATION: &str = "127.0.0.1:8086";
pub(super) const POLICY: &str = "127.0.0.1:8091";
/// The name of every proxy.
pub(super) const NAME: &str = "baker.shop.serviceaccount.identity.linkerd.cluster.local";
/// 2100-01-01, in seconds.
const VALID_UNTIL: i64 = 4_102_444_800;

/// `io.linkerd.proxy.identity.CertifyResponse`.
#[derive(Clone, PartialEq, Message)]
struct Certified {
    #[prost(bytes = "vec", tag = "1")]
    leaf: Vec<u8>,
    #[prost(message, optional, tag = "3")]
    valid_until: Option<Timestamp>,
}

#[derive(Clone, PartialEq, Message)]
struct Timestamp {
    #[prost(int64, tag = "1")]
    seconds: i64,
}

/// `io.linkerd.proxy.destination.GetDestination`.
#[derive(Clone, PartialEq, Message)]
struct GetDestination {
    #[prost(string, tag = "2")]
    path: String,
}

/// `io.linkerd.proxy.destination.DestinationProfile`.
#[derive(Clone, PartialEq, Message)]
struct DestinationProfile {
    #[prost(bool, tag = "4")]
    opaque_protocol: bool,
    #[prost(message, optional, tag = "6")]
    endpoint: Option<WeightedAddr>,
}

#[derive(Clone, PartialEq, Message)]
struct WeightedAddr {
    #[prost(message, optional, tag = "1")]
    addr: Option<TcpAddress>,
    #[prost(uint32, tag = "3")]
    weight: u32,
    #[prost(message, optional, tag = "5")]
    tls_identity: Option<TlsIdentity>,
}

#[derive(Clone, PartialEq, Message)]
struct TlsIdentity {
    #[prost(message, optional, tag = "1")]
    dns_like_identity: Option<DnsLikeIdentity>,
}

#[derive(Clone, PartialEq, Message)]
struct DnsLikeIdentity {
    #[prost(string, tag = "1")]
    name: String,
}

/// `io.linkerd.proxy.net.TcpAddress`.
#[derive(Clone, PartialEq, Message)]
struct TcpAddress {
    #[prost(message, optional, tag = "1")]
    ip: Option<IpAddress>,
    #[prost(uint32, tag = "2")]
    port: u32,
}

/// One of the two is set.
#[derive(Clone, PartialEq, Message)]
struct IpAddress {
    #[prost(fixed32, optional, tag = "1")]
    ipv4: Option<u32>,
    #[prost(message, optional, tag = "2")]
    ipv6: Option<Ipv6>,
}

#[derive(Clone, PartialEq, Message)]
struct Ipv6 {
    #[prost(fixed64, tag = "1")]
    first: u64,
    #[prost(fixed64, tag = "2")]
    last: u64,
}

/// The authority of a mesh.
pub(super) struct Authority {
    issuer: Issuer<'static, KeyPair>,
    /// Its certificate, which every proxy trusts.
    pub(super) anchor: String,
}

impl Authority {
    pub(super) fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let anchor = params.self_signed(&key).unwrap().pem();
        Self {
            issuer: Issuer::new(params, key),
            anchor,
        }
    }

    /// Writes a proxy's documents into a directory, and serves the proxy in its Pod.
    pub(super) fn serve(&self, home: &Pod, directory: &Path) {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![NAME.to_owned()]).unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        fs::write(directory.join("key.p8"), key.serialize_der()).unwrap();
        let request = params.serialize_request(&key).unwrap();
        fs::write(directory.join("csr.der"), request.der()).unwrap();
        fs::write(directory.join("token"), "token").unwrap();
        let certified = Certified {
            leaf: leaf.der().to_vec(),
            valid_until: Some(Timestamp {
                seconds: VALID_UNTIL,
            }),
        };
        let certified = certified.encode_to_vec();
        grpc::serve(home, IDENTITY, move |_| Answer::Message(certified.clone()));
        grpc::serve(home, DESTINATION, profile);
        grpc::serve(home, POLICY, |_| Answer::Status(Status::NotFound));
    }
}

/// The profile of a Pod in the mesh: its proxy takes TLS, its application speaks first.
fn profile(request: &[u8]) -> Answer {
    let wanted = GetDestination::decode(request).unwrap_or_default();
    let meshed = |ip: IpAddr| {
        let addresses = [CLIENT, SERVER].map(|index| [false, true].map(|v6| address(index, v6)));
        addresses.as_flattened().contains(&ip.to_string())
    };
    let Some(pod) = wanted
        .path
        .parse()
        .ok()
        .filter(|to: &SocketAddr| meshed(to.ip()))
    else {
        return Answer::Status(Status::InvalidArgument);
    };
    let ip = match pod.ip() {
        IpAddr::V4(v4) => IpAddress {
            ipv4: Some(v4.to_bits()),
            ipv6: None,
        },
        IpAddr::V6(v6) => {
            let [first, last] = [0, 8].map(|at| {
                let half = v6.octets()[at..at + 8].try_into().unwrap();
                u64::from_be_bytes(half)
            });
            IpAddress {
                ipv4: None,
                ipv6: Some(Ipv6 { first, last }),
            }
        }
    };
    let profile = DestinationProfile {
        opaque_protocol: true,
        endpoint: Some(WeightedAddr {
            addr: Some(TcpAddress {
                ip: Some(ip),
                port: pod.port().into(),
            }),
            weight: 1,
            tls_identity: Some(TlsIdentity {
                dns_like_identity: Some(DnsLikeIdentity {
                    name: NAME.to_owned(),
                }),
            }),
        }),
    };
    Answer::Watch(profile.encode_to_vec())
}
