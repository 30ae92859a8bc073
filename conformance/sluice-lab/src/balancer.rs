//! A socket load balancer beside the backend, as CNI plugins attach one (`ebpf/programs/src/bin`).

use std::{
    fs::File,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use aya::{
    Ebpf,
    maps::HashMap,
    programs::{CgroupAttachMode, CgroupSockAddr},
};
use clap::{Args, ValueEnum};

/// The map of Services.
const SERVICES: &str = "services";

/// Whether a socket load balancer is attached, when and where.
#[derive(Args, Clone, Debug)]
pub struct BalancerOptions {
    /// Attach a socket load balancer beside Sluice. Without it the node translates Services, as
    /// kube-proxy does.
    #[arg(long = "balancer", value_enum, value_name = "WHEN")]
    pub order: Option<Order>,
    /// The cgroup of the balancer.
    #[arg(
        long = "balancer-at",
        value_enum,
        value_name = "CGROUP",
        default_value = "root"
    )]
    pub place: Place,
    /// The balancer's object, which is built with the daemon.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "target/bpf/bpfel-unknown-none/release/balancer"
    )]
    pub balancer_object: PathBuf,
}

/// When the balancer is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Order {
    /// Before the daemon starts.
    Before,
    /// After the daemon has started.
    After,
    /// Before the daemon starts, which is then killed and started again.
    Restart,
}

/// The cgroup of the balancer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Place {
    /// The cgroup root that the daemon serves.
    Root,
    /// Its child with the Pods.
    Child,
}

/// The attached programs. They are detached when this is dropped.
pub struct Balancer(Ebpf);

impl Balancer {
    /// Loads the programs and attaches them to a cgroup.
    pub fn attach(object: &Path, cgroup: &Path) -> Result<Self> {
        let failed = || format!("cannot load {}: run make build", object.display());
        let mut loaded = Ebpf::load_file(object).with_context(failed)?;
        let directory = File::open(cgroup)?;
        for (name, program) in loaded.programs_mut() {
            let program: &mut CgroupSockAddr = program.try_into()?;
            program.load().with_context(|| format!("program {name}"))?;
            // A link admits other programs by itself, and takes no flag for that.
            program.attach(&directory, CgroupAttachMode::Single)?;
        }
        Ok(Self(loaded))
    }

    /// Sets the backend of a Service.
    pub fn set(&mut self, service: SocketAddr, backend: SocketAddr) -> Result<()> {
        let map = self.0.map_mut(SERVICES).context("the object has the map")?;
        let mut services: HashMap<_, [u32; 5], [u32; 5]> = map.try_into()?;
        Ok(services.insert(words(service), words(backend), 0)?)
    }
}

/// The words of an address and a port in the programs' maps: network byte order, IPv4 v4-mapped.
fn words(at: SocketAddr) -> [u32; 5] {
    let v6 = match at.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let mut words = [0; 5];
    for (word, bytes) in words.iter_mut().zip(v6.octets().as_chunks().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    words[4] = u32::from(at.port().to_be());
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_words_in_network_order() {
        let port = u32::from(80_u16.to_be());
        let mapped = 0xffff_u32.to_be();
        let v4 = 0x0a60_0001_u32.to_be();
        let of = |text: &str| words(text.parse().unwrap());
        assert_eq!(of("10.96.0.1:80"), [0, 0, mapped, v4, port]);
        assert_eq!(of("[::ffff:10.96.0.1]:80"), of("10.96.0.1:80"));
        assert_eq!(of("[::1]:80"), [0, 0, 0, 1_u32.to_be(), port]);
    }
}
