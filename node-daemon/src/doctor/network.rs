//! Checks of the network configuration, by the installer, and of the API server.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use serde_json::Value;

use super::check::Check;
use crate::kube::{Cluster, Error};

const INSTALLER: &str = "sluice-install";
const CONFIGURATIONS: &str = "/etc/cni/net.d";

/// The runtime's configuration, the plugin and its entry: `sluice-install status`.
pub(super) fn plugin() -> Check {
    const CHECK: &str = "CNI chain";
    if !Path::new(CONFIGURATIONS).exists() {
        return Check::skipped(
            CHECK,
            format!("{CONFIGURATIONS} is not visible here"),
            "run 'sluice-install status' on the node, or in the container 'installer'",
        );
    }
    let beside = std::env::current_exe()
        .unwrap_or_default()
        .with_file_name(INSTALLER);
    let program = if beside.exists() {
        beside
    } else {
        INSTALLER.into()
    };
    let output = match Command::new(&program).args(["status", "--json"]).output() {
        Ok(output) => output,
        Err(error) => {
            return Check::skipped(
                CHECK,
                format!("{} cannot be run: {error}", program.display()),
                "run 'sluice-install status' on the node",
            );
        }
    };
    let Ok(status) = serde_json::from_slice::<Value>(&output.stdout) else {
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Check::problem(CHECK, said, "run 'sluice-install status' on the node");
    };
    judge(CHECK, &status)
}

/// The judgement of the installer's answer.
fn judge(check: &'static str, status: &Value) -> Check {
    let text = |key: &str| status[key].as_str().unwrap_or("none").to_owned();
    let phase = text("phase");
    let found = format!(
        "phase {phase}, plugin {}, the runtime uses {}",
        text("plugin"),
        text("selected")
    );
    let conflicts = status["conflicts"].as_array().map_or(0, Vec::len);
    match (status["active"].as_bool(), &*phase) {
        (_, "removing") => Check::problem(
            check,
            format!("an uninstall is half done: {found}"),
            "run 'sluice-install uninstall' or 'sluice-install install' again",
        ),
        (Some(true), _) if conflicts > 0 => Check::warning(
            check,
            format!("{found}; {conflicts} plugins redirect the same Pods"),
            "remove the other mesh plugin from the chain",
        ),
        (Some(true), _) => Check::ok(check, found),
        _ => Check::problem(
            check,
            format!("the next Pod is not intercepted: {found}"),
            "run 'sluice-install install'; 'sluice-install status' names the cause",
        ),
    }
}

/// The daemon's access to the API server: the same request as at its start.
pub(super) fn api_server(kubeconfig: Option<PathBuf>, timeout: Duration) -> Check {
    const CHECK: &str = "API server";
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => return Check::skipped(CHECK, error.to_string(), ""),
    };
    let cluster = Cluster::new(kubeconfig);
    let node = std::env::var("NODE_NAME").unwrap_or_default();
    let listed =
        runtime.block_on(async { tokio::time::timeout(timeout, cluster.try_list(&node)).await });
    match listed {
        Ok(Ok(count)) => Check::ok(CHECK, format!("lists {count} Pods of this node")),
        Ok(Err(Error::NoAccess)) => Check::skipped(
            CHECK,
            "not in a cluster, and no kubeconfig is configured",
            "nothing, if the runtime passes annotations",
        ),
        Ok(Err(error)) => Check::problem(
            CHECK,
            crate::pods::one_line(&error),
            "check the service account's right to list Pods, and the network to the API server",
        ),
        Err(_) => Check::problem(
            CHECK,
            format!("no answer within {} s", timeout.as_secs()),
            "check the network to the API server",
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::doctor::Level;

    #[test]
    fn installers_status_is_judged_by_phase_and_effect() {
        for (status, expected) in [
            (json!({"phase": "installed", "active": true}), Level::Ok),
            (
                json!({"phase": "installed", "active": false}),
                Level::Problem,
            ),
            (json!({"phase": "removing", "active": true}), Level::Problem),
            (
                json!({"active": true, "conflicts": ["istio-cni"]}),
                Level::Warning,
            ),
            (json!({}), Level::Problem),
        ] {
            assert_eq!(judge("CNI chain", &status).level, expected, "{status}");
        }
    }
}
