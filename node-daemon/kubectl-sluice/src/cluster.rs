//! Finds the daemons of a cluster, and runs commands in their containers.

use anyhow::{Context as _, bail};
use k8s_openapi::{api::core::v1::Pod, apimachinery::pkg::apis::meta::v1::Status};
use kube::{
    Api, Client, Config,
    api::{AttachParams, AttachedProcess, ListParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};

use crate::cli::Access;

/// The daemon's container.
const CONTAINER: &str = "sluiced";
/// The limit of a collected output in bytes.
const OUTPUT: u64 = 16 << 20;

/// A cluster.
pub(crate) struct Cluster {
    client: Client,
    selector: String,
}

/// The Pod of a daemon.
#[derive(Clone, Debug)]
pub(crate) struct Daemon {
    /// Its node.
    pub(crate) node: String,
    namespace: String,
    pod: String,
}

/// The result of a command in a container.
#[derive(Debug)]
pub(crate) struct Output {
    /// Its standard output.
    pub(crate) stdout: Vec<u8>,
    /// Its standard error.
    pub(crate) stderr: Vec<u8>,
    /// Its exit code.
    pub(crate) code: u8,
}

impl Cluster {
    pub(crate) async fn connect(access: &Access) -> anyhow::Result<Self> {
        let options = KubeConfigOptions {
            context: access.context.clone(),
            ..KubeConfigOptions::default()
        };
        let config = match &access.kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)?;
                Config::from_custom_kubeconfig(file, &options).await?
            }
            None => Config::from_kubeconfig(&options).await?,
        };
        Ok(Self {
            client: Client::try_from(config)?,
            selector: access.selector.clone(),
        })
    }

    /// The daemons, by node.
    pub(crate) async fn daemons(&self) -> anyhow::Result<Vec<Daemon>> {
        let pods: Api<Pod> = Api::all(self.client.clone());
        let listed = pods
            .list(&ListParams::default().labels(&self.selector))
            .await;
        let listed = listed.context("cannot list the daemons' Pods")?;
        let daemon = |pod: Pod| {
            Some(Daemon {
                node: pod.spec?.node_name?,
                namespace: pod.metadata.namespace?,
                pod: pod.metadata.name?,
            })
        };
        let mut daemons: Vec<_> = listed.items.into_iter().filter_map(daemon).collect();
        if daemons.is_empty() {
            bail!(
                "no Pod has the labels {}: is Sluice installed? --selector names other labels",
                self.selector
            );
        }
        daemons.sort_unstable_by(|one, other| one.node.cmp(&other.node));
        Ok(daemons)
    }

    /// The daemon on the node of a Pod, which is `NAMESPACE/NAME`.
    pub(crate) async fn daemon_of(&self, pod: &str) -> anyhow::Result<Daemon> {
        let Some((namespace, name)) = pod.split_once('/') else {
            bail!("'{pod}' is not NAMESPACE/NAME");
        };
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let found = pods.get(name).await.with_context(|| format!("Pod {pod}"))?;
        let node = found.spec.and_then(|spec| spec.node_name);
        let Some(node) = node else {
            bail!("Pod {pod} is on no node yet");
        };
        let daemons = self.daemons().await?;
        let there = daemons.into_iter().find(|daemon| daemon.node == node);
        there.with_context(|| format!("no daemon runs on node {node}"))
    }

    /// Runs a command in a daemon's container, and collects its output.
    pub(crate) async fn run(
        &self,
        daemon: &Daemon,
        command: Vec<String>,
    ) -> anyhow::Result<Output> {
        let mut process = self.exec(daemon, command).await?;
        let streams = (process.stdout(), process.stderr());
        let (stdout, stderr) = futures_util::future::join(read(streams.0), read(streams.1)).await;
        Ok(Output {
            stdout: stdout?,
            stderr: stderr?,
            code: end(process).await?,
        })
    }

    /// Runs a command in a daemon's container, and copies its output as it comes. Returns its exit
    /// code.
    pub(crate) async fn stream(&self, daemon: &Daemon, command: Vec<String>) -> anyhow::Result<u8> {
        let mut process = self.exec(daemon, command).await?;
        let streams = (process.stdout(), process.stderr());
        let (stdout, stderr) = futures_util::future::join(
            Box::pin(copy(streams.0, tokio::io::stdout())),
            Box::pin(copy(streams.1, tokio::io::stderr())),
        )
        .await;
        stdout?;
        stderr?;
        end(process).await
    }

    async fn exec(&self, daemon: &Daemon, command: Vec<String>) -> anyhow::Result<AttachedProcess> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &daemon.namespace);
        let streams = AttachParams::default()
            .container(CONTAINER)
            .stdin(false)
            .stdout(true)
            .stderr(true);
        let process = pods.exec(&daemon.pod, command, &streams).await;
        process.with_context(|| {
            format!(
                "cannot run a command in {}/{} on node {}",
                daemon.namespace, daemon.pod, daemon.node
            )
        })
    }
}

async fn read(stream: Option<impl AsyncRead + Unpin>) -> std::io::Result<Vec<u8>> {
    let mut content = Vec::new();
    if let Some(stream) = stream {
        stream.take(OUTPUT).read_to_end(&mut content).await?;
    }
    Ok(content)
}

async fn copy(
    stream: Option<impl AsyncRead + Unpin>,
    mut to: impl tokio::io::AsyncWrite + Unpin,
) -> std::io::Result<()> {
    let Some(mut stream) = stream else {
        return Ok(());
    };
    let mut part = [0; 8192];
    loop {
        match stream.read(&mut part).await? {
            0 => return Ok(()),
            count => {
                to.write_all(&part[..count]).await?;
                to.flush().await?;
            }
        }
    }
}

/// The exit code of a process whose output has ended.
async fn end(mut process: AttachedProcess) -> anyhow::Result<u8> {
    let status = match process.take_status() {
        Some(status) => status.await,
        None => None,
    };
    Ok(status.as_ref().map_or(1, exit_code))
}

/// The exit code in the API server's status: `Success`, or a cause `ExitCode`.
fn exit_code(status: &Status) -> u8 {
    if status.status.as_deref() == Some("Success") {
        return 0;
    }
    let causes = status
        .details
        .iter()
        .flat_map(|details| details.causes.iter().flatten());
    let mut codes = causes.filter(|cause| cause.reason.as_deref() == Some("ExitCode"));
    let code = codes
        .next()
        .and_then(|cause| cause.message.as_deref()?.parse().ok());
    code.unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_read_from_the_status() {
        for (status, expected) in [
            (r#"{"status": "Success"}"#, 0),
            (
                r#"{"status": "Failure", "reason": "NonZeroExitCode",
                    "details": {"causes": [{"reason": "ExitCode", "message": "3"}]}}"#,
                3,
            ),
            (r#"{"status": "Failure"}"#, 1),
        ] {
            let status = serde_json::from_str(status).unwrap();
            assert_eq!(exit_code(&status), expected);
        }
    }
}
