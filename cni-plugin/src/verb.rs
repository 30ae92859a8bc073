//! What each verb does (CNI spec 1.1.0, "CNI operations").

use daemon_api::{
    Admit, Admitted, Attachment, Collect, Retired, Status, path, surely_without_sidecar,
};
use serde_json::json;

use crate::{
    Error, Invocation, Stdin,
    conf::{self, Conf, wrong},
    daemon::Daemon,
    error::Verb,
    result,
    tombstone::Tombstone,
    version::{self, SUPPORTED},
};

/// What the plugin answers.
#[derive(Debug)]
pub struct Response {
    /// For standard output: a result, an error object, or nothing.
    pub stdout: String,
    /// Whether the exit code is zero.
    pub succeeded: bool,
}

/// Carries out one invocation.
#[must_use]
pub fn respond(invocation: &Invocation, stdin: Stdin) -> Response {
    // Until the configuration has said which version it speaks, errors speak the newest.
    let mut version = SUPPORTED[SUPPORTED.len() - 1].to_owned();
    match run(invocation, stdin, &mut version) {
        Ok(None) => Response {
            stdout: String::new(),
            succeeded: true,
        },
        Ok(Some(result)) => Response {
            stdout: result,
            succeeded: true,
        },
        Err(error) => Response {
            stdout: error.to_json(&version).to_string(),
            succeeded: false,
        },
    }
}

fn run(invocation: &Invocation, stdin: Stdin, said: &mut String) -> Result<Option<String>, Error> {
    let verb = invocation.verb()?;
    let stdin = stdin.map_err(Error::Stdin)?;
    let document = conf::decode(&stdin)?;
    let version = conf::version(&document)?;
    if verb == Verb::Version {
        let versions = json!({ "cniVersion": version, "supportedVersions": SUPPORTED });
        return Ok(Some(versions.to_string()));
    }
    if SUPPORTED.contains(&&*version) {
        said.clone_from(&version);
    }
    version::check(&version, verb)?;
    let conf = Conf::new(document)?;
    let daemon = Daemon::new(&conf.socket, conf.timeout);
    match verb {
        Verb::Add => add(invocation, conf, &daemon).map(Some),
        Verb::Del => del(invocation, &conf, &daemon).map(|()| None),
        Verb::Check => check(invocation, &conf, &daemon).map(|()| None),
        Verb::Gc => gc(&conf, &daemon).map(|()| None),
        Verb::Status => status(&daemon).map(|()| None),
        Verb::Version => Ok(None),
    }
}

/// Reports the Pod, and passes the result on.
fn add(invocation: &Invocation, conf: Conf, daemon: &Daemon) -> Result<String, Error> {
    let attachment = invocation.attachment(&conf.network)?;
    let prev_result = conf.prev_result.ok_or_else(not_chained)?;
    let admit = Admit {
        netns: invocation.netns()?.to_owned(),
        addresses: result::addresses(&prev_result, &attachment.ifname)?,
        attachment,
        pod: invocation.pod()?,
        annotations: conf.annotations,
        manifest: None,
    };
    Tombstone::new(&admit.attachment, &conf.socket)
        .remove()
        .map_err(Error::Tombstone)?;
    match daemon.post::<Admitted>(path::ADMIT, &admit) {
        Ok(_) => Ok(prev_result),
        // Nobody needs to be asked about a Pod that certainly has no sidecar.
        Err(Error::Daemon { .. }) if is_unmeshed(&admit) => Ok(prev_result),
        Err(error) => Err(error),
    }
}

/// Whether the annotations are there and say that no traffic is to be intercepted.
fn is_unmeshed(admit: &Admit) -> bool {
    admit
        .annotations
        .as_ref()
        .is_some_and(surely_without_sidecar)
}

/// Lets the Pod go. A runtime repeats DEL until it succeeds, and keeps the Pod until then: what
/// the daemon cannot hear now it reads later, and most of it ends with the Pod's namespace.
fn del(invocation: &Invocation, conf: &Conf, daemon: &Daemon) -> Result<(), Error> {
    let attachment = invocation.attachment(&conf.network)?;
    match daemon.post::<Retired>(path::RETIRE, &attachment) {
        Ok(_) => Ok(()),
        Err(error @ Error::Daemon { .. }) => {
            eprintln!("sluice-cni: DEL goes on without the daemon: {error}");
            if let Err(error) = Tombstone::new(&attachment, &conf.socket).put() {
                eprintln!("sluice-cni: the daemon will not read of it: {error}");
            }
            Ok(())
        }
        Err(error) => Err(error),
    }
}

fn check(invocation: &Invocation, conf: &Conf, daemon: &Daemon) -> Result<(), Error> {
    let attachment: Attachment = invocation.attachment(&conf.network)?;
    invocation.netns()?;
    if conf.prev_result.is_none() {
        return Err(not_chained());
    }
    daemon.post(path::CHECK, &attachment)
}

/// Without a list nothing is collected: an absent list is not an empty one.
fn gc(conf: &Conf, daemon: &Daemon) -> Result<(), Error> {
    let Some(valid) = conf.valid.clone() else {
        return Ok(());
    };
    let collect = Collect {
        network: conf.network.clone(),
        valid,
    };
    daemon.post::<Retired>(path::GC, &collect).map(drop)
}

fn status(daemon: &Daemon) -> Result<(), Error> {
    match daemon.get::<Status>(path::STATUS) {
        Ok(Status { ready: true, .. }) => Ok(()),
        Ok(status) => Err(Error::NotAvailable {
            reason: status.problems.join("; "),
        }),
        Err(error) => Err(Error::NotAvailable {
            reason: error.to_string(),
        }),
    }
}

fn not_chained() -> Error {
    let problem = "is missing: sluice-cni must stand after the main plugin in a conflist";
    wrong("prevResult", problem.to_owned())
}
