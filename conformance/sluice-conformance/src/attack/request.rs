//! Requests to the daemon's socket.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::Result;
use serde_json::{Value, json};
use sluice_lab::Lab;

/// The time in which the daemon must answer.
pub(super) const ANSWER: Duration = Duration::from_secs(6);
/// The container of a reported Pod.
pub(super) const CONTAINER: &str = "attacker";
/// Its address.
pub(super) const ADDRESS: &str = "10.77.250.250";

pub(super) fn socket(lab: &Lab) -> PathBuf {
    lab.file("sluiced.sock")
}

/// An ADD request for a Pod of the attacker's.
pub(super) fn report(lab: &Lab, netns: &str) -> String {
    json!({
        "attachment": attachment(lab),
        "netns": netns,
        "addresses": [{ "ip": ADDRESS, "interface": "eth0" }],
        "annotations": { "sidecar.istio.io/status": "{}" },
    })
    .to_string()
}

pub(super) fn attachment(lab: &Lab) -> Value {
    json!({ "network": lab.name, "container_id": CONTAINER, "ifname": "eth0" })
}

pub(super) fn exchange(lab: &Lab, path: &str, body: &str) -> Result<String> {
    let mut stream = UnixStream::connect(socket(lab))?;
    stream.set_read_timeout(Some(ANSWER))?;
    // A daemon that refuses a body may close before it has all of it.
    let _ = write!(
        stream,
        "POST {path} HTTP/1.1\r\nHost: sluice\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    Ok(answer.replace("\r\n", " "))
}
