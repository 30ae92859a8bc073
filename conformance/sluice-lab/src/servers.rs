//! Servers that report each connection as they see it, for a Pod's application or its proxy.

use std::time::Duration;

use anyhow::{Result, bail};
use sluice_testbed::{
    agent::{ExecContext, serve::READY},
    interrupt::Interrupt,
    process::Process,
};

use crate::Lab;

/// The wait ends with the condition: the limit is for an emulated processor.
const START: Duration = Duration::from_mins(1);
/// Ports that every host of the lab serves, streams and datagrams.
pub const SERVED: [u16; 12] = [
    53, 80, 443, 5353, 8080, 8085, 9000, 9080, 15008, 15020, 15021, 15090,
];

/// Starts a server of every port that the suite knows.
pub fn listen(lab: &Lab, host: &str, by: &str, place: ExecContext<'_>) -> Result<Process> {
    let mut command = place.own()?;
    command.arg("echo-server");
    for port in SERVED {
        command.args([
            "--tcp",
            &format!("{by}={port}"),
            "--udp",
            &format!("{by}={port}"),
        ]);
    }
    let log = lab.file(&format!("{host}-servers.log"));
    Process::start(&format!("the servers of {host}"), &mut command, &log)
}

/// Waits until a listener serves.
pub fn wait(process: &mut Process, interrupt: &Interrupt) -> Result<()> {
    let ready = interrupt.wait(START, || {
        process.check()?;
        Ok(process.log().lines().any(|line| line == READY))
    })?;
    if !ready {
        bail!("a listener is not ready\n{}", process.tail());
    }
    Ok(())
}
