//! Sluice's entry in the list of a network's plugins.

use std::path::Path;

use serde_json::{Map, Value, json};

/// The plugin's name: that of its file, and the entry's `type`.
pub(crate) const PLUGIN: &str = "sluice-cni";
/// Runtimes pass a Pod's annotations only to an entry that declares this capability
/// (containerd since 1.5, CRI-O since 1.29).
const ANNOTATIONS: &str = "io.kubernetes.cri.pod-annotations";

/// The key of an entry with which every ADD needs the daemon.
const REQUIRE_DAEMON: &str = "requireDaemon";

/// The settings in the entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The daemon's socket, unless it is the plugin's default.
    socket: Option<String>,
    /// Whether every ADD needs the daemon.
    require_daemon: bool,
}

impl Entry {
    pub(crate) fn new(socket: &Path) -> Self {
        let elsewhere = socket != Path::new(sluice_api::SOCKET);
        Self {
            socket: elsewhere.then(|| socket.to_string_lossy().into_owned()),
            require_daemon: false,
        }
    }

    /// An entry with which every ADD needs the daemon, if `require`.
    pub(crate) fn requiring_daemon(self, require: bool) -> Self {
        Self {
            require_daemon: require,
            ..self
        }
    }

    /// The text of a new entry.
    pub(crate) fn to_json(&self) -> Map<String, Value> {
        self.update(&Map::from_iter([("type".to_owned(), json!(PLUGIN))]))
    }

    /// An existing entry with the missing keys added. Its other keys do not change.
    pub(crate) fn update(&self, entry: &Map<String, Value>) -> Map<String, Value> {
        let mut updated = entry.clone();
        let declared = entry.get("capabilities").and_then(Value::as_object);
        let mut capabilities = declared.cloned().unwrap_or_default();
        capabilities.insert(ANNOTATIONS.to_owned(), json!(true));
        updated.insert("capabilities".to_owned(), capabilities.into());
        match &self.socket {
            Some(socket) => updated.insert("socket".to_owned(), json!(socket)),
            None => updated.shift_remove("socket"),
        };
        if self.require_daemon {
            updated.insert(REQUIRE_DAEMON.to_owned(), json!(true));
        } else {
            updated.shift_remove(REQUIRE_DAEMON);
        }
        updated
    }
}
