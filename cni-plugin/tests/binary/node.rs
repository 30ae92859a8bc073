//! The plugin's surroundings: a configuration, an environment, and a daemon with scripted answers.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    rc::Rc,
    thread::{self, JoinHandle},
};

use serde_json::{Value, json};
use tempfile::TempDir;

/// The behaviour of a fake daemon on a connection.
pub(super) enum Daemon {
    /// Answers with this status and body.
    Answers(u16, Value),
    /// Sends these bytes and closes.
    Says(&'static [u8]),
    /// Reads, and never answers.
    Hangs,
}

/// The plugin's surroundings.
pub(super) struct Node {
    directory: Rc<TempDir>,
    served: Option<JoinHandle<Option<(String, Value)>>>,
}

/// The result of the plugin.
pub(super) struct Outcome {
    pub(super) succeeded: bool,
    pub(super) stdout: Value,
    pub(super) text: String,
    pub(super) stderr: String,
    pub(super) request: Option<(String, Value)>,
}

impl Node {
    pub(super) fn without_daemon() -> Self {
        Self {
            directory: Rc::new(tempfile::tempdir().unwrap()),
            served: None,
        }
    }

    pub(super) fn with(daemon: Daemon) -> Self {
        let mut node = Self::without_daemon();
        let listener = UnixListener::bind(node.socket()).unwrap();
        node.served = Some(thread::spawn(move || serve(&listener, daemon)));
        node
    }

    pub(super) fn adding() -> Self {
        Self::with(Daemon::Answers(
            200,
            json!({"meshed": true, "reason": "injected"}),
        ))
    }

    pub(super) fn deleting() -> Self {
        Self::with(Daemon::Answers(200, json!({"attachments": []})))
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.directory.path().join("daemon.sock")
    }

    /// The directory of the daemon's socket, which is removed with the last reference.
    pub(super) fn directory(&self) -> Rc<TempDir> {
        Rc::clone(&self.directory)
    }

    /// A configuration with everything that a runtime puts into one.
    pub(super) fn conf(&self, version: &str) -> Value {
        json!({
            "cniVersion": version,
            "name": "pods",
            "type": "sluice-cni",
            "socket": self.socket(),
            "timeoutSeconds": 1,
            "capabilities": {"io.kubernetes.cri.pod-annotations": true},
            "runtimeConfig": {"io.kubernetes.cri.pod-annotations": {"sidecar.istio.io/status": "{}"}},
            "prevResult": prev_result(version),
        })
    }

    pub(super) fn run(self, verb: &str, conf: &Value) -> Outcome {
        self.run_with(verb, conf, &[])
    }

    pub(super) fn run_with(
        self,
        verb: &str,
        conf: &Value,
        environment: &[(&str, &str)],
    ) -> Outcome {
        self.run_text(verb, &conf.to_string(), environment)
    }

    /// The plugin as a runtime starts it.
    pub(super) fn command(verb: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sluice-cni"));
        command
            .env_clear()
            .env("CNI_COMMAND", verb)
            .env("CNI_CONTAINERID", "c0ffee")
            .env("CNI_NETNS", "/run/netns/pod")
            .env("CNI_IFNAME", "eth0")
            .env(
                "CNI_ARGS",
                "IgnoreUnknown=1;K8S_POD_NAME=cart;K8S_POD_NAMESPACE=shop",
            )
            .env("CNI_PATH", "/opt/cni/bin")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    pub(super) fn run_text(self, verb: &str, conf: &str, environment: &[(&str, &str)]) -> Outcome {
        let socket = self.socket();
        let mut plugin = Self::command(verb)
            .envs(environment.iter().copied())
            .spawn()
            .unwrap();
        let mut stdin = plugin.stdin.take().unwrap();
        stdin.write_all(conf.as_bytes()).unwrap();
        drop(stdin);
        let output = plugin.wait_with_output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let stdout = match &*text {
            "" => Value::Null,
            // What is no number of a computer's is not looked into.
            text => serde_json::from_str(text).unwrap_or_default(),
        };
        let request = self.served.and_then(|served| {
            // Without a call the daemon still waits: an empty call ends it.
            drop(UnixStream::connect(&socket));
            served.join().unwrap()
        });
        Outcome {
            succeeded: output.status.success(),
            stdout,
            text,
            stderr: String::from_utf8(output.stderr).unwrap(),
            request,
        }
    }
}

impl Outcome {
    #[track_caller]
    pub(super) fn fails_with(&self, code: u64, part: &str) {
        assert!(!self.succeeded, "{}", self.stdout);
        assert_eq!(self.stdout["code"], code, "{}", self.stdout);
        assert!(self.stdout.to_string().contains(part), "{}", self.stdout);
        assert!(self.stdout["cniVersion"].is_string());
    }

    #[track_caller]
    pub(super) fn succeeds_with(&self, stdout: &Value) {
        assert!(self.succeeded, "{} {}", self.stdout, self.stderr);
        assert_eq!(self.stdout, *stdout);
    }
}

/// The attachments of which the daemon will read that they are gone.
pub(super) fn pending_deletions(directory: &TempDir) -> Vec<Value> {
    let directory = sluice_api::pending_dels_dir(&directory.path().join("daemon.sock"));
    let files = std::fs::read_dir(directory).into_iter().flatten().flatten();
    let read = |file: std::fs::DirEntry| std::fs::read(file.path()).unwrap();
    files
        .map(|file| serde_json::from_slice(&read(file)).unwrap())
        .collect()
}

fn serve(listener: &UnixListener, daemon: Daemon) -> Option<(String, Value)> {
    let (mut stream, _) = listener.accept().unwrap();
    let mut request = Vec::new();
    let mut chunk = [0; 4096];
    let (head, body) = loop {
        let bytes = stream.read(&mut chunk).unwrap();
        if bytes == 0 {
            return None;
        }
        request.extend_from_slice(&chunk[..bytes]);
        let text = String::from_utf8_lossy(&request).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else {
            continue;
        };
        let length = head
            .lines()
            .find_map(|line| line.strip_prefix("content-length: "));
        if length.map_or(0, |text| text.parse::<usize>().unwrap()) == body.len() {
            break (head.to_owned(), body.to_owned());
        }
    };
    match daemon {
        Daemon::Answers(status, body) => {
            let body = body.to_string();
            let head = format!(
                "HTTP/1.1 {status} X\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            stream.write_all((head + &body).as_bytes()).unwrap();
        }
        Daemon::Says(bytes) => stream.write_all(bytes).unwrap(),
        Daemon::Hangs => {
            // Until the plugin gives up.
            let _closed = stream.read(&mut chunk);
        }
    }
    let line = head.lines().next().unwrap().to_owned();
    Some((line, serde_json::from_str(&body).unwrap_or(Value::Null)))
}

/// A result in the form of a version, with keys that no version knows.
pub(super) fn prev_result(version: &str) -> Value {
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let form = match version {
        "0.1.0" | "0.2.0" => "result-0.1.json",
        "0.3.0" | "0.3.1" | "0.4.0" => "result-0.x.json",
        _ => "result-1.x.json",
    };
    let mut result: Value =
        serde_json::from_str(&std::fs::read_to_string(golden.join(form)).unwrap()).unwrap();
    result["cniVersion"] = version.into();
    result
}
