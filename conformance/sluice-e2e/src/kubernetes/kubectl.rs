//! The cluster's administrator.

use std::{
    path::{Path, PathBuf},
    process::{Command, Output},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;
use sluice_testbed::process::finish;

/// Above what the commands wait for.
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

    /// A command that still lacks its arguments.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.arg("--kubeconfig").arg(&self.access);
        // Else it keeps what it learns about the API below /root.
        command
            .arg("--cache-dir")
            .arg(self.access.with_extension("cache"));
        command
    }

    /// Runs it with `input`, and returns what it printed.
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

    /// `kubectl sluice` that still lacks its arguments, with the plugin from a directory.
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

    /// An answer of the API server as it came.
    pub(crate) fn raw(&self, path: &str) -> Result<String> {
        self.run(&["get", "--raw", path], "")
    }

    /// Makes or changes objects.
    pub(crate) fn apply(&self, manifest: &str) -> Result<String> {
        self.run(&["apply", "--filename=-"], manifest)
    }

    /// An object.
    pub(crate) fn get(&self, namespace: &str, object: &str) -> Result<Value> {
        let arguments = ["get", "--namespace", namespace, object, "--output=json"];
        serde_json::from_str(&self.run(&arguments, "")?).with_context(|| object.to_owned())
    }

    /// Runs something in a container.
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
