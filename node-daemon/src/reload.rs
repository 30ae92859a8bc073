//! Signals of a running daemon. SIGHUP reloads the configuration: keys that count for later requests
//! apply at once, the others are named. SIGUSR1 and SIGUSR2 are logged and ignored.

use std::{io, path::PathBuf};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::watch,
};
use tracing::{error, info, warn};

use crate::{
    config::Config,
    log::{Log, LogFilter},
    pods::Pods,
};

/// The signals, caught from the moment on at which this exists: their default is to end the process.
pub(crate) struct Signals {
    hangup: Signal,
    user1: Signal,
    user2: Signal,
}

impl Signals {
    /// Catches the signals.
    pub(crate) fn catch() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
        })
    }

    /// Handles the signals until the task is aborted.
    pub(crate) async fn handle(mut self, reload: Reload) {
        loop {
            tokio::select! {
                _ = self.hangup.recv() => reload.run().await,
                _ = self.user1.recv() => ignored("SIGUSR1"),
                _ = self.user2.recv() => ignored("SIGUSR2"),
            }
        }
    }
}

fn ignored(signal: &str) {
    info!(
        signal,
        "signal ignored; SIGHUP reloads the configuration, SIGTERM stops the daemon"
    );
}

/// The input and the targets of a reload.
pub(crate) struct Reload {
    /// The file of `--config`.
    pub(crate) path: Option<PathBuf>,
    /// The configuration in use.
    pub(crate) config: watch::Sender<Config>,
    /// `--log`, which overrides the configuration.
    pub(crate) flag: Option<LogFilter>,
    /// The log.
    pub(crate) log: Log,
    /// The manager.
    pub(crate) pods: Pods,
}

impl Reload {
    async fn run(&self) {
        let new = match Config::read(self.path.as_deref()) {
            Ok(new) => new,
            Err(error) => {
                let error = anyhow::Error::from(error);
                error!(
                    error = format!("{error:#}"),
                    "configuration not reloaded; the previous one stays in use"
                );
                return;
            }
        };
        let Changes {
            merged,
            applied,
            kept,
        } = Changes::between(&self.config.borrow(), new);
        let filter = self.flag.as_ref().unwrap_or(&merged.log);
        if let Err(error) = self.log.set(filter) {
            error!(%error, "log filter not replaced");
        }
        if self
            .pods
            .set_missing_annotations(merged.missing_annotations)
            .await
            .is_err()
        {
            return;
        }
        self.config.send_replace(merged);
        info!(changed = applied.join(", "), "configuration reloaded");
        if self.flag.is_some() && applied.contains(&"log") {
            warn!("--log overrides the key log of the configuration");
        }
        if !kept.is_empty() {
            warn!(
                keys = kept.join(", "),
                "these keys changed and need a restart of the daemon"
            );
        }
    }
}

/// The difference between two configurations.
struct Changes {
    /// The old configuration with the new values of the keys that a reload applies.
    merged: Config,
    /// The changed keys that a reload applies.
    applied: Vec<&'static str>,
    /// The changed keys that need a restart.
    kept: Vec<&'static str>,
}

impl Changes {
    fn between(old: &Config, new: Config) -> Self {
        let mut changes = Self {
            merged: old.clone(),
            applied: Vec::new(),
            kept: Vec::new(),
        };
        // Every key is named: a new one does not compile without a decision.
        let Config {
            log,
            on_exit,
            missing_annotations,
            proxy_user,
            daemon_set,
            pod_metrics,
            acceleration,
            mesh,
            meshes,
            on_enrol,
            families,
            dns_capture,
            excluded_namespaces,
            istio,
            linkerd,
            raw_sockets,
            ambient,
            kubeconfig,
            metrics_address,
            pod_events,
        } = new;
        changes.apply("log", |config| &mut config.log, log);
        changes.apply("on-exit", |config| &mut config.on_exit, on_exit);
        changes.apply(
            "missing-annotations",
            |config| &mut config.missing_annotations,
            missing_annotations,
        );
        changes.apply("proxy-user", |config| &mut config.proxy_user, proxy_user);
        changes.apply("daemon-set", |config| &mut config.daemon_set, daemon_set);
        changes.apply("pod-metrics", |config| &mut config.pod_metrics, pod_metrics);
        changes.keep("acceleration", old.acceleration == acceleration);
        changes.keep("mesh", old.mesh == mesh);
        changes.keep("meshes", old.meshes == meshes);
        changes.keep("on-enrol", old.on_enrol == on_enrol);
        changes.keep("families", old.families == families);
        changes.keep("dns-capture", old.dns_capture == dns_capture);
        changes.keep(
            "excluded-namespaces",
            old.excluded_namespaces == excluded_namespaces,
        );
        changes.keep("istio", old.istio == istio);
        changes.keep("linkerd", old.linkerd == linkerd);
        changes.keep("raw-sockets", old.raw_sockets == raw_sockets);
        changes.keep("ambient", old.ambient == ambient);
        changes.keep("kubeconfig", old.kubeconfig == kubeconfig);
        changes.keep("metrics-address", old.metrics_address == metrics_address);
        changes.keep("pod-events", old.pod_events == pod_events);
        changes
    }

    fn apply<T: PartialEq>(
        &mut self,
        key: &'static str,
        field: impl FnOnce(&mut Config) -> &mut T,
        new: T,
    ) {
        let current = field(&mut self.merged);
        if *current != new {
            *current = new;
            self.applied.push(key);
        }
    }

    fn keep(&mut self, key: &'static str, same: bool) {
        if !same {
            self.kept.push(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reload_applies_some_keys_and_names_the_others() {
        let old = Config::default();
        let text = "log = 'debug'\non-exit = 'detach'\nmesh = 'kuma'\nacceleration = 'all'";
        let new: Config = toml::from_str(text).unwrap();
        let changes = Changes::between(&old, new.clone());
        assert_eq!(changes.applied, ["log", "on-exit"]);
        assert_eq!(changes.kept, ["acceleration", "mesh"]);
        assert_eq!(changes.merged.on_exit, new.on_exit);
        assert_eq!(changes.merged.mesh, old.mesh);
        let none = Changes::between(&old, old.clone());
        assert_eq!((none.applied, none.kept), (vec![], vec![]));
    }
}
