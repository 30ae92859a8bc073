//! A subject of the suite: a backend, and the programs beside it.

use anyhow::Result;
use nix::sys::signal::Signal;
use sluice_lab::{
    Binaries, Lab,
    backend::BackendKind,
    balancer::{Balancer, BalancerOptions, Order, Place},
    mesh::Mesh,
};
use sluice_testbed::interrupt::Interrupt;

use crate::suite::services::Services;

/// The child of the lab's cgroup root with the Pods.
const PODS: &str = "pods";

/// A backend, with a socket load balancer beside Sluice or without one.
#[derive(Clone, Debug)]
pub(crate) struct Subject {
    pub(crate) backend: BackendKind,
    balancer: Option<BalancerOptions>,
}

impl Subject {
    /// A backend alone.
    pub(crate) fn alone(backend: BackendKind) -> Self {
        Self {
            backend,
            balancer: None,
        }
    }

    /// A backend with the balancer of the options, if it is Sluice: programs at sockets would hide the
    /// requested address from rules.
    pub(crate) fn beside(backend: BackendKind, options: &BalancerOptions) -> Self {
        let is_wanted = backend == BackendKind::Sluice && options.order.is_some();
        Self {
            backend,
            balancer: is_wanted.then(|| options.clone()),
        }
    }

    /// Starts it on a node.
    pub(crate) fn start(
        &self,
        binaries: Binaries,
        mesh: Mesh,
        interrupt: &Interrupt,
    ) -> Result<(Lab, Services)> {
        let mut attached = None;
        let lab = Lab::with(binaries, |binaries, directory, cgroup| {
            let start = || (self.backend).start(binaries, directory, cgroup, mesh, interrupt);
            let Some(options) = &self.balancer else {
                return start();
            };
            let cgroup = match options.place {
                Place::Root => cgroup.to_owned(),
                Place::Child => cgroup.join(PODS),
            };
            let attach = || Balancer::attach(&options.balancer_object, &cgroup);
            if options.order == Some(Order::After) {
                let backend = start()?;
                attached = Some(attach()?);
                return Ok(backend);
            }
            attached = Some(attach()?);
            let mut backend = start()?;
            if options.order == Some(Order::Restart) {
                backend.restart(Signal::SIGKILL, interrupt)?;
            }
            Ok(backend)
        })?;
        Ok((lab, attached.map_or(Services::Node, Services::Balancer)))
    }
}
