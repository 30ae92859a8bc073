//! The socket that ztunnel connects to.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use sluice_api::owned;
use tokio::{sync::Semaphore, time::sleep};
use tokio_seqpacket::{UnixSeqpacket, UnixSeqpacketListener};
use tracing::warn;

use super::{Ztunnels, connection};

/// The maximum number of connections. There are two ztunnels during an upgrade.
const MAX_CONNECTIONS: usize = 8;
/// The minimum interval between two connections.
const PAUSE: Duration = Duration::from_millis(20);

/// The socket cannot be created.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve ztunnel at {}", path.display())]
pub(crate) struct Error {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Binds the socket for root alone, in place of a socket that an earlier daemon left. The lock of the
/// daemon's own socket excludes a second daemon.
pub(super) fn bind(path: &Path) -> Result<UnixSeqpacketListener, Error> {
    let bound = || {
        if let Some(directory) = path.parent() {
            DirBuilder::new()
                .recursive(true)
                .mode(0o755)
                .create(directory)?;
            owned::directory(directory)?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => fs::remove_file(path)?,
            Ok(_) => return Err(io::Error::other("it exists and is no socket; remove it")),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let listener = UnixSeqpacketListener::bind(path)?;
        // Until then the peer's user is checked all the same.
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
        Ok(listener)
    };
    bound().map_err(|source| Error {
        path: path.into(),
        source,
    })
}

/// Accepts connections of root until the process ends.
pub(super) async fn accept(mut listener: UnixSeqpacketListener, ztunnels: Ztunnels) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let accepted = listener.accept().await.and_then(authorized);
        match accepted {
            Ok(socket) => {
                let number = ztunnels.change(|state| {
                    state.accepted += 1;
                    state.accepted
                });
                let ztunnels = ztunnels.clone();
                tokio::spawn(async move {
                    connection::serve(socket, number, ztunnels).await;
                    drop(place);
                });
            }
            Err(error) => warn!(%error, "ztunnel connection refused"),
        }
        sleep(PAUSE).await;
    }
}

/// The descriptors of namespaces are for root alone.
fn authorized(socket: UnixSeqpacket) -> io::Result<UnixSeqpacket> {
    match socket.peer_cred()?.uid() {
        0 => Ok(socket),
        uid => Err(io::Error::new(
            io::ErrorKind::PermissionDenied,
            format!("the peer's uid is {uid}; ztunnel runs as root"),
        )),
    }
}
