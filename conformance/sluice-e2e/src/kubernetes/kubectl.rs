//! kubectl with the rights of an administrator.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sluice_testbed::process::finish;

/// Longer than any time limit that the commands have of their own.
const LIMIT: Duration = Duration::from_mins(4);

/// kubectl with full access.
#[derive(Clone)]
pub(crate) struct Kubectl {
    program: PathBuf,
    access: PathBuf,
}

impl Kubectl {
    /// The program and its kubeconfig.
    pub(crate) fn new(program: PathBuf, access: PathBuf) -> Self {
        Self { program, access }
    }

    /// A command without arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.access);
        // Otherwise its cache of the API is below /root.
        command
            .arg("--cache-dir")
            .arg(self.access.with_extension("cache"));
        command
    }

    /// Runs it with `input`, and returns its output.
    pub(crate) fn run(&self, arguments: &[&str], input: &str) -> Result<String> {
        let Output {
            status,
            stdout,
            stderr,
        } = finish(self.command().args(arguments), input, LIMIT)?;
        if !status.success() {
            let said = String::from_utf8_lossy(&stderr);
            bail!("kubectl {}: {}", arguments.join(" "), said.trim());
        }
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// `kubectl sluice` without arguments, with the plugin from a directory.
    pub(crate) fn plugin(&self, plugins: &Path) -> Command {
        let mut command = Command::new(&self.program);
        command
            .arg("sluice")
            .env("PATH", plugins)
            .env("KUBECONFIG", &self.access);
        command
    }

    /// Runs `kubectl sluice`, with the plugin from a directory. Returns its exit code and output.
    pub(crate) fn sluice(
        &self,
        plugins: &Path,
        arguments: &[&str],
    ) -> Result<(Option<i32>, String)> {
        let output = finish(self.plugin(plugins).args(arguments), "", LIMIT)?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        Ok((output.status.code(), said))
    }

    /// The body of an answer of the API server.
    pub(crate) fn raw(&self, path: &str) -> Result<String> {
        self.run(&["get", "--raw", path], "")
    }

    /// Creates or changes objects.
    pub(crate) fn apply(&self, manifest: &str) -> Result<String> {
        self.run(&["apply", "--filename=-"], manifest)
    }

    /// An object.
    pub(crate) fn get(&self, namespace: &str, object: &str) -> Result<Value> {
        let arguments = ["get", "--namespace", namespace, object, "--output=json"];
        serde_json::from_str(&self.run(&arguments, "")?).with_context(|| object.to_owned())
    }

    /// Runs a command in a container.
    pub(crate) fn exec(&self, target: [&str; 3], program: &[&str]) -> Result<String> {
        let [namespace, pod, container] = target;
        let mut arguments = vec![
            "exec",
            "--namespace",
            namespace,
            pod,
            "--container",
            container,
            "--",
        ];
        arguments.extend(program);
        self.run(&arguments, "")
    }
}
