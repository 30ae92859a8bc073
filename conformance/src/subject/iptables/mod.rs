//! The reference: the rules that a sidecar's init container writes, in each meshed Pod.

mod meshes;
mod plan;
mod rules;

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
    mesh::Mesh,
    settings::Settings,
    subject::{Counters, Subject, passthrough_address},
};
use plan::Plan;
use rules::{Family, V4, V6};

const LIMIT: Duration = Duration::from_secs(10);
/// Packets with the mark of the transparent proxy are delivered locally, whatever their address.
const TPROXY_TABLE: &str = "133";

/// Real rules.
pub(crate) struct Iptables;

impl Subject for Iptables {
    fn entry(&self) -> Option<Value> {
        None
    }

    fn plugin(&self) -> Option<PathBuf> {
        None
    }

    fn enrol(&self, netns: &Path, settings: &Settings) -> Result<()> {
        let transparent = settings.mesh == Mesh::Istio && Plan::read(settings)?.transparent;
        let place = Place {
            netns: Some(netns),
            ..Place::default()
        };
        let ip = |arguments: &str| {
            let arguments = arguments.split(' ');
            output(place.command(Path::new("ip"))?.args(arguments), LIMIT)
        };
        passthrough_address(netns)?;
        for (program, family) in [("iptables-restore", V4), ("ip6tables-restore", V6)] {
            write(&place, program, &text(settings, &family)?)?;
        }
        if transparent {
            for family in ["-4", "-6"] {
                ip(&format!(
                    "{family} rule add fwmark {} lookup {TPROXY_TABLE}",
                    rules::MARK
                ))?;
                ip(&format!(
                    "{family} route add local default dev lo table {TPROXY_TABLE}"
                ))?;
            }
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

/// What `iptables-restore` reads for a Pod with these settings.
pub(crate) fn rules_v4(settings: &Settings) -> Result<String> {
    Ok(rules::rules(&Plan::read(settings)?, &V4))
}

fn text(settings: &Settings, family: &Family) -> Result<String> {
    match settings.mesh {
        Mesh::Istio => Ok(rules::rules(&Plan::read(settings)?, family)),
        _ => meshes::rules(settings, family),
    }
}

fn write(place: &Place<'_>, program: &str, rules: &str) -> Result<()> {
    let Output { status, stderr, .. } =
        finish(&mut place.command(Path::new(program))?, rules, LIMIT)?;
    let said = String::from_utf8_lossy(&stderr);
    ensure!(status.success(), "{program}: {said}\n{rules}");
    Ok(())
}
