//! The map of open connections of the node's processes to Pods that do not intercept them.

use std::{fmt, sync::Arc};

use sluice_abi::{ConnKey, Endpoint, maps};

use super::{Error, loaded::Loaded, typed_map::TypedMap};

/// The map `node_conns`, which the programs write. A shared handle.
#[derive(Clone)]
pub(crate) struct NodeConns(Arc<Shared>);

struct Shared {
    /// The cookie of the node's netns; `None` if its connections are intercepted as others.
    node: Option<u64>,
    map: TypedMap<ConnKey, u8>,
}

impl NodeConns {
    /// Opens the map.
    pub(super) fn open(loaded: &mut Loaded, node: Option<u64>) -> Result<Self, Error> {
        let map = TypedMap::open(loaded, maps::NODE_CONNS)?;
        Ok(Self(Arc::new(Shared { node, map })))
    }

    /// Whether a process of the node opened this connection, and its socket is open.
    ///
    /// # Errors
    ///
    /// If the map cannot be read.
    pub(crate) fn has(&self, client: Endpoint, server: Endpoint) -> Result<bool, Error> {
        let Shared { node, map } = &*self.0;
        let Some(cookie) = *node else {
            return Ok(false);
        };
        let conn = ConnKey {
            cookie,
            client,
            server,
        };
        Ok(map.get(conn)?.is_some())
    }
}

impl fmt::Debug for NodeConns {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("NodeConns");
        text.field("node", &self.0.node).finish_non_exhaustive()
    }
}
