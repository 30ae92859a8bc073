//! The implementation of the verbs (CNI spec 1.1.0, "CNI operations").

use std::{
    io::{self, Write as _},
    time::Instant,
};

use serde_json::json;
use sluice_api::{
    AddRequest, AddResponse, DelResponse, GcRequest, Status, has_no_sidecar_annotation, path,
    text::Printable,
};

use crate::{
    Error, Invocation, Stdin,
    conf::{self, Conf, config_error},
    daemon::Daemon,
    pending_del::PendingDel,
    remains::Remains,
    result,
    spec::{SUPPORTED, Verb},
    version,
};

/// The output of an invocation.
#[derive(Debug)]
pub struct Output {
    /// For standard output: a result, an error object, or nothing.
    pub stdout: String,
    /// Whether the exit code is zero.
    pub succeeded: bool,
}

/// Runs one invocation. Its deadline counts from `started`.
#[must_use]
pub fn run(invocation: &Invocation, stdin: Stdin, started: Instant) -> Output {
    // Before the configuration's version is known, errors use the newest version.
    let mut version = SUPPORTED[SUPPORTED.len() - 1].to_owned();
    match execute(invocation, stdin, started, &mut version) {
        Ok(stdout) => Output {
            stdout: stdout.unwrap_or_default(),
            succeeded: true,
        },
        Err(error) => Output {
            stdout: error.to_json(&version).to_string(),
            succeeded: false,
        },
    }
}

/// Writes the configuration's version to `negotiated_version`.
fn execute(
    invocation: &Invocation,
    stdin: Stdin,
    started: Instant,
    negotiated_version: &mut String,
) -> Result<Option<String>, Error> {
    let verb = invocation.verb()?;
    if verb == Verb::Del {
        return del(invocation, &Remains::read(stdin), started).map(|()| None);
    }
    let stdin = stdin.map_err(Error::Stdin)?;
    if verb == Verb::Version && stdin.trim_ascii().is_empty() {
        return Ok(Some(versions(negotiated_version)));
    }
    let document = conf::decode(&stdin)?;
    let version = conf::version(&document)?;
    if verb == Verb::Version {
        return Ok(Some(versions(&version)));
    }
    if SUPPORTED.contains(&&*version) {
        negotiated_version.clone_from(&version);
    }
    version::check(&version, verb)?;
    let conf = Conf::new(document)?;
    let daemon = Daemon::new(&conf.socket, started + conf.timeout);
    match verb {
        Verb::Add => add(invocation, conf, &version, &daemon).map(Some),
        Verb::Check => check(invocation, conf, &version, &daemon).map(|()| None),
        Verb::Gc => gc(&conf, &daemon).map(|()| None),
        Verb::Status => status(&daemon).map(|()| None),
        Verb::Del | Verb::Version => Ok(None),
    }
}

fn versions(asked: &str) -> String {
    json!({ "cniVersion": asked, "supportedVersions": SUPPORTED }).to_string()
}

/// Reports the Pod, and returns the result.
fn add(
    invocation: &Invocation,
    conf: Conf,
    version: &str,
    daemon: &Daemon,
) -> Result<String, Error> {
    let (socket, require_daemon) = (conf.socket.clone(), conf.require_daemon);
    let (request, result) = reported(invocation, conf, version)?;
    PendingDel::new(&request.attachment, &socket)
        .remove()
        .map_err(Error::StaleDelMarker)?;
    match daemon.post::<AddResponse>(path::ADD, &request) {
        Ok(_) => Ok(result),
        // A Pod without a sidecar does not need the daemon.
        Err(Error::Daemon { .. }) if !require_daemon && is_unmeshed(&request) => Ok(result),
        Err(error) => Err(error),
    }
}

/// The runtime's report of a Pod, and the chain's result in the configuration's version.
fn reported(
    invocation: &Invocation,
    conf: Conf,
    version: &str,
) -> Result<(AddRequest, String), Error> {
    let attachment = invocation.attachment(&conf.network)?;
    let prev_result = conf.prev_result.ok_or_else(not_chained)?;
    let result = result::in_version(&prev_result, version)?;
    let request = AddRequest {
        netns: invocation.netns()?.to_owned(),
        addresses: result::addresses(&result, version, &attachment.ifname)?,
        attachment,
        pod: invocation.pod()?,
        annotations: conf.annotations,
        manifest: None,
    };
    Ok((request, result))
}

/// Whether the annotations are present and exclude interception.
fn is_unmeshed(request: &AddRequest) -> bool {
    request
        .annotations
        .as_ref()
        .is_some_and(has_no_sidecar_annotation)
}

/// Unenrolls the Pod. A runtime repeats DEL until it succeeds, and keeps the Pod until then. So DEL
/// succeeds if the container ID is valid: the daemon replays a pending DEL later, and most of the state
/// ends with the Pod's namespace. Without the network name the daemon finds the attachment by its
/// container and interface.
fn del(invocation: &Invocation, remains: &Remains, started: Instant) -> Result<(), Error> {
    let attachment = invocation.attachment(&remains.network)?;
    for problem in &remains.problems {
        report("DEL ignores an invalid configuration", problem);
    }
    let daemon = Daemon::new(&remains.socket, started + remains.timeout);
    if let Err(error) = daemon.post::<DelResponse>(path::DEL, &attachment) {
        let stored = PendingDel::new(&attachment, &remains.socket).write();
        report("DEL goes on without the daemon", &error);
        if let Err(error) = stored {
            let error = Printable::new(error);
            log(&format!("failed to record the pending DEL: {error}"));
        }
    }
    Ok(())
}

/// Writes a line to the runtime's log.
fn report(what: &str, error: &Error) {
    let details = error.details();
    let parted = if details.is_empty() { "" } else { ": " };
    let line = Printable::new(format!("{error}{parted}{details}"));
    log(&format!("{what}: {line}"));
}

/// Writes a line to the runtime's log. A log that cannot be written does not fail the call.
fn log(line: &str) {
    let _unwritten = writeln!(io::stderr(), "sluice-cni: {line}");
}

/// Compares the runtime's report with the daemon's record, and the record with the kernel.
fn check(invocation: &Invocation, conf: Conf, version: &str, daemon: &Daemon) -> Result<(), Error> {
    let (request, _) = reported(invocation, conf, version)?;
    daemon.post(path::CHECK, &request)
}

/// Without a list nothing is removed: an absent list is not an empty one.
fn gc(conf: &Conf, daemon: &Daemon) -> Result<(), Error> {
    let Some(valid) = conf.valid.clone() else {
        return Ok(());
    };
    let request = GcRequest {
        network: conf.network.clone(),
        valid,
    };
    daemon.post::<DelResponse>(path::GC, &request).map(drop)
}

fn status(daemon: &Daemon) -> Result<(), Error> {
    match daemon.get::<Status>(path::STATUS) {
        Ok(Status { ready: true, .. }) => Ok(()),
        Ok(status) => Err(Error::Degraded {
            reason: status.problems.join("; "),
        }),
        Err(error) => Err(Error::NotAvailable {
            reason: error.to_string(),
        }),
    }
}

fn not_chained() -> Error {
    let problem = "is missing: sluice-cni must stand after the main plugin in a conflist";
    config_error("prevResult", problem.to_owned())
}
