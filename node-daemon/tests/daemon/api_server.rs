//! A minimal API server: TLS, a token, Pods by name. The name of the Pod selects the answer.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write},
    net::{TcpListener, TcpStream},
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};

use rcgen::{CertifiedKey, generate_simple_self_signed};
use rustls::{ServerConfig, ServerConnection, StreamOwned, pki_types::PrivateKeyDer};
use serde_json::{Value, json};

/// The delay of a silent answer: longer than any timeout.
const SILENCE: Duration = Duration::from_mins(1);

type Stream = StreamOwned<ServerConnection, TcpStream>;

pub(crate) struct ApiServer {
    address: String,
    state: Arc<State>,
}

struct State {
    tls: Arc<ServerConfig>,
    certificate: String,
    token: Mutex<String>,
    pods: Mutex<Vec<Value>>,
    /// The labels of the namespace `shop`.
    labels: Mutex<Value>,
    /// The paths and bodies of `PATCH` requests.
    patches: Mutex<Vec<(String, String)>>,
    asked: AtomicUsize,
    ended: AtomicBool,
}

impl ApiServer {
    pub(crate) fn start(pods: Vec<Value>) -> Self {
        let CertifiedKey { cert, signing_key } =
            generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let key = PrivateKeyDer::try_from(signing_key.serialize_der()).expect("a key");
        let tls =
            ServerConfig::builder_with_provider(rustls::crypto::ring::default_provider().into())
                .with_safe_default_protocol_versions()
                .expect("versions of TLS")
                .with_no_client_auth()
                .with_single_cert(vec![cert.der().clone()], key)
                .expect("a server's side");
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let state = Arc::new(State {
            tls: tls.into(),
            certificate: cert.pem(),
            token: Mutex::new("first".to_owned()),
            pods: Mutex::new(pods),
            labels: Mutex::new(json!({})),
            patches: Mutex::default(),
            asked: AtomicUsize::new(0),
            ended: AtomicBool::new(false),
        });
        let serving = Arc::clone(&state);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if serving.ended.load(Ordering::Relaxed) {
                    return;
                }
                let state = Arc::clone(&serving);
                thread::spawn(move || state.serve(stream));
            }
        });
        Self { address, state }
    }

    /// Writes a kubeconfig with this token into a directory. Returns the line of the daemon's
    /// configuration that names it.
    pub(crate) fn kubeconfig(&self, directory: &Path, token: &str) -> String {
        let file = |name: &str, text: &str| {
            let path = directory.join(name);
            fs::write(&path, text).expect("a file");
            path
        };
        let certificate = file("ca.pem", &self.state.certificate);
        let token = file("token", token);
        let config = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "here",
            "contexts": [{ "name": "here", "context": { "cluster": "here", "user": "daemon" } }],
            "users": [{ "name": "daemon", "user": { "tokenFile": token } }],
            "clusters": [{ "name": "here", "cluster": {
                "server": format!("https://{}", self.address),
                "certificate-authority": certificate,
            } }],
        });
        let path = file("kubeconfig", &config.to_string());
        format!("kubeconfig = \"{}\"\n", path.display())
    }

    /// Accepts only this token from now on.
    pub(crate) fn rotate(&self, token: &str) {
        token.clone_into(&mut self.state.token.lock().expect("the token"));
    }

    /// Sets the labels of the namespace `shop`.
    pub(crate) fn label_namespace(&self, labels: Value) {
        *self.state.labels.lock().expect("labels") = labels;
    }

    /// The paths and bodies of `PATCH` requests so far.
    pub(crate) fn patches(&self) -> Vec<(String, String)> {
        self.state.patches.lock().expect("patches").clone()
    }

    /// The number of requests so far.
    pub(crate) fn asked(&self) -> usize {
        self.state.asked.load(Ordering::Relaxed)
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::Relaxed);
        drop(TcpStream::connect(&self.address));
    }
}

/// A Pod with these annotations, as an object of the API.
pub(crate) fn pod(name: &str, addresses: &[&str], annotations: &[(&str, &str)]) -> Value {
    let annotations: serde_json::Map<_, _> = (annotations.iter())
        .map(|(key, value)| ((*key).to_owned(), json!(value)))
        .collect();
    let ips: Vec<_> = addresses.iter().map(|ip| json!({ "ip": ip })).collect();
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "namespace": "shop", "name": name, "annotations": annotations },
        "spec": { "containers": [], "nodeName": "here" },
        "status": { "phase": "Running", "podIPs": ips },
    })
}

impl State {
    fn serve(&self, stream: TcpStream) {
        let Ok(connection) = ServerConnection::new(Arc::clone(&self.tls)) else {
            return;
        };
        let mut stream = BufReader::new(StreamOwned::new(connection, stream));
        while let Some(Head {
            method,
            path,
            token,
            body,
        }) = head(&mut stream)
        {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let known = token == format!("Bearer {}", self.token.lock().expect("the token"));
            let done = if known && method == "PATCH" {
                self.patches.lock().expect("patches").push((path, body));
                send(
                    stream.get_mut(),
                    200,
                    &json!({ "apiVersion": "v1", "kind": "Pod", "metadata": {} }),
                )
            } else if known {
                self.answer(stream.get_mut(), &path)
            } else {
                send(stream.get_mut(), 401, &json!({ "code": 401 }))
            };
            if done.is_err() {
                return;
            }
        }
    }

    fn answer(&self, stream: &mut Stream, path: &str) -> std::io::Result<()> {
        let pods = self.pods.lock().expect("the Pods").clone();
        let labels = self.labels.lock().expect("labels").clone();
        let namespace = json!({
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": { "name": "shop", "labels": labels },
        });
        if path == "/api/v1/namespaces/shop" {
            return send(stream, 200, &namespace);
        }
        if path.starts_with("/api/v1/namespaces?") {
            let list = json!({
                "apiVersion": "v1", "kind": "NamespaceList", "metadata": {}, "items": [namespace],
            });
            return send(stream, 200, &list);
        }
        let Some(name) = path.strip_prefix("/api/v1/namespaces/shop/pods/") else {
            let list =
                json!({ "apiVersion": "v1", "kind": "PodList", "metadata": {}, "items": pods });
            return send(stream, 200, &list);
        };
        match name {
            "silent" => thread::sleep(SILENCE),
            "garbage" => return send(stream, 200, &json!([1])),
            "endless" => {
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n")?;
                loop {
                    stream.write_all(&[b' '; 16384])?;
                }
            }
            "forbidden" => return send(stream, 403, &json!({ "code": 403, "message": "not you" })),
            "broken" => return send(stream, 500, &json!({ "code": 500 })),
            _ => {}
        }
        match pods.iter().find(|pod| pod["metadata"]["name"] == name) {
            Some(pod) => send(stream, 200, pod),
            None => send(stream, 404, &json!({ "code": 404, "reason": "NotFound" })),
        }
    }
}

/// A request.
struct Head {
    method: String,
    path: String,
    token: String,
    body: String,
}

/// The next request.
fn head(stream: &mut BufReader<Stream>) -> Option<Head> {
    let mut lines = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).ok()? == 0 {
            return None;
        }
        if line == "\r\n" {
            break;
        }
        lines.push(line.trim_end().to_owned());
    }
    let value = |name| lines.iter().find_map(|line| line.strip_prefix(name));
    let length = value("content-length: ").map_or(0, |text| text.parse().expect("a length"));
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    let mut words = lines.first()?.split(' ').map(str::to_owned);
    Some(Head {
        method: words.next()?,
        path: words.next()?,
        token: value("authorization: ").unwrap_or_default().to_owned(),
        body: String::from_utf8(body).expect("text"),
    })
}

fn send(stream: &mut impl Write, status: u16, body: &Value) -> std::io::Result<()> {
    let mut body = body.clone();
    if status != 200 {
        body["kind"] = json!("Status");
        body["apiVersion"] = json!("v1");
        body["status"] = json!("Failure");
    }
    let body = body.to_string();
    let length = body.len();
    write!(
        stream,
        "HTTP/1.1 {status} Answer\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
    )?;
    stream.flush()
}
