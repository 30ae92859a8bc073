//! The reference: the rules that a sidecar's init container writes, in each meshed Pod.

use std::{
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use anyhow::{Result, ensure};
use serde_json::Value;

use crate::{
    inside::Place,
    lab::process::{finish, output},
    subject::{Counters, Subject},
};

const LIMIT: Duration = Duration::from_secs(10);

/// Real rules.
pub(crate) struct Iptables;

impl Subject for Iptables {
    fn entry(&self) -> Option<Value> {
        None
    }

    fn plugin(&self) -> Option<PathBuf> {
        None
    }

    fn enrol(&self, netns: &Path) -> Result<()> {
        let place = Place {
            netns: Some(netns),
            ..Place::default()
        };
        let lo = ["-6", "address", "add", "::6/128", "dev", "lo", "nodad"];
        output(place.command(Path::new("ip"))?.args(lo), LIMIT)?;
        let families = [
            ("iptables-restore", "127.0.0.6/32", "127.0.0.1/32"),
            ("ip6tables-restore", "::6/128", "::1/128"),
        ];
        for (program, passthrough, loopback) in families {
            let rules = rules(passthrough, loopback);
            let Output { status, stderr, .. } =
                finish(&mut place.command(Path::new(program))?, &rules, LIMIT)?;
            ensure!(
                status.success(),
                "{program}: {}",
                String::from_utf8_lossy(&stderr)
            );
        }
        Ok(())
    }

    fn counters(&self) -> Result<Option<Counters>> {
        Ok(None)
    }

    fn tracks_connections(&self) -> bool {
        true
    }

    fn stop(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

/// In the order of the chains: the first that matches wins.
fn rules(passthrough: &str, loopback: &str) -> String {
    let mut rules = vec!["*nat".to_owned()];
    let mut add = |rule: &str| rules.push(format!("-A {rule}"));
    for port in [15008, 15020, 15021, 15090] {
        add(&format!("PREROUTING -p tcp --dport {port} -j ACCEPT"));
    }
    add("PREROUTING -p tcp -j REDIRECT --to-ports 15006");
    add("OUTPUT -p tcp --dport 15020 -j ACCEPT");
    add(&format!("OUTPUT -o lo -s {passthrough} -j ACCEPT"));
    for owner in ["--uid-owner", "--gid-owner"] {
        add(&format!(
            "OUTPUT -o lo ! -d {loopback} -p tcp ! --dport 15008 -m owner {owner} 1337 \
             -j REDIRECT --to-ports 15006"
        ));
        add(&format!("OUTPUT -o lo -m owner ! {owner} 1337 -j ACCEPT"));
        add(&format!("OUTPUT -m owner {owner} 1337 -j ACCEPT"));
    }
    add(&format!("OUTPUT -d {loopback} -j ACCEPT"));
    add("OUTPUT -p tcp -j REDIRECT --to-ports 15001");
    rules.push("COMMIT\n".to_owned());
    rules.join("\n")
}
