//! The connection of one ztunnel: sends what its session still needs, one message at a time.

use std::{
    io::{self, ErrorKind},
    os::fd::OwnedFd,
    time::Duration,
};

use prost::Message as _;
use sluice_api::text::Printable;
use tokio::time::{error::Elapsed, timeout};
use tokio_seqpacket::{UnixSeqpacket, ancillary::AncillaryMessageWriter};
use tracing::{info, warn};

use super::{
    Added, Ztunnels,
    session::{Next, Session},
    zds::{
        AddWorkload, DelWorkload, Hello, KeepWorkload, MAX_PACKET, Payload, Request, Response,
        SnapshotSent, VERSION, WorkloadInfo,
    },
};
use crate::{
    netns::Netns,
    pods::{Uid, Workload},
};

/// Timeout for ztunnel's hello, and for its answer to a message. Istio's agent has the same.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Space for the control message of one descriptor.
const CONTROL: usize = 64;

/// A connection ends.
#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("ztunnel is silent")]
    Silent(#[from] Elapsed),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error("the message cannot be decoded")]
    Decode(#[from] prost::DecodeError),
    #[error("ztunnel speaks version {0} of ZDS; sluiced speaks version {VERSION}")]
    Version(i32),
    #[error("ztunnel sent a message without a request")]
    Unexpected,
}

/// Serves a connection until it ends.
pub(super) async fn serve(socket: UnixSeqpacket, number: u64, ztunnels: Ztunnels) {
    let ended = async {
        let Some(hello) = timeout(ANSWER_TIMEOUT, receive(&socket)).await?? else {
            return Ok(());
        };
        match Hello::decode(&*hello)?.version {
            VERSION => {}
            other => return Err(Error::Version(other)),
        }
        ztunnels.change(|state| state.connections.push(number));
        info!(connection = number, "ztunnel connected");
        converge(&socket, number, &ztunnels).await
    };
    let ended: Result<(), Error> = ended.await;
    ztunnels.change(|state| state.connections.retain(|one| *one != number));
    match ended {
        Ok(()) => info!(connection = number, "ztunnel disconnected"),
        Err(error) => warn!(
            connection = number,
            error = &error as &dyn std::error::Error,
            "ztunnel connection failed; ztunnel connects again"
        ),
    }
}

/// Sends messages until ztunnel closes the connection.
async fn converge(socket: &UnixSeqpacket, number: u64, ztunnels: &Ztunnels) -> Result<(), Error> {
    let mut session = Session::default();
    let mut changes = ztunnels.0.changed.subscribe();
    loop {
        changes.mark_unchanged();
        let next = {
            let state = ztunnels.state();
            session.next(&state.desired, state.is_latest(number))
        };
        let Some(next) = next else {
            tokio::select! {
                closed = changes.changed() => if closed.is_err() { return Ok(()) },
                // Between requests ztunnel sends nothing: this is the end of the connection.
                ended = receive(socket) => match ended? {
                    None => return Ok(()),
                    Some(_) => return Err(Error::Unexpected),
                },
            }
            continue;
        };
        let result = send(socket, &next, session.has_snapshot()).await?;
        session.sent(&next);
        record(ztunnels, number, next, result);
    }
}

/// Logs a failed message, and records the result of an ADD.
fn record(ztunnels: &Ztunnels, number: u64, message: Next, result: Result<(), String>) {
    if let Err(error) = &result {
        let uid = match &message {
            Next::Add(uid, _) | Next::Del(uid) => uid,
            Next::SnapshotSent => "",
        };
        let error = Printable::new(error).to_string();
        warn!(uid = %Printable::new(uid), error, "ztunnel returned an error");
    }
    if let Next::Add(uid, workload) = message {
        let added = Added {
            connection: number,
            netns: workload.netns,
            result,
        };
        ztunnels.change(|state| {
            let newer = |known: &Added| known.connection > added.connection;
            if !state.added.get(&uid).is_some_and(newer) {
                state.added.insert(uid, added);
            }
        });
    }
}

/// Sends a message. Returns ztunnel's error, if any.
async fn send(
    socket: &UnixSeqpacket,
    message: &Next,
    after_snapshot: bool,
) -> Result<Result<(), String>, Error> {
    let (payload, descriptor) = match message {
        Next::Add(uid, workload) => match open(workload).await {
            Some(netns) => (add(uid, workload), Some(netns)),
            None if after_snapshot => {
                return Ok(Err("its network namespace is gone".to_owned()));
            }
            None => (Payload::Keep(KeepWorkload { uid: uid.clone() }), None),
        },
        Next::Del(uid) => (Payload::Del(DelWorkload { uid: uid.clone() }), None),
        Next::SnapshotSent => (Payload::SnapshotSent(SnapshotSent {}), None),
    };
    let request = Request {
        payload: Some(payload),
    };
    let packet = request.encode_to_vec();
    let answer = timeout(ANSWER_TIMEOUT, exchange(socket, &packet, descriptor)).await??;
    Ok(Response::decode(&*answer)?.error().map_or(Ok(()), Err))
}

fn add(uid: &Uid, workload: &Workload) -> Payload {
    Payload::Add(AddWorkload {
        uid: uid.clone(),
        workload_info: Some(WorkloadInfo {
            name: workload.name.clone(),
            namespace: workload.namespace.clone(),
            service_account: workload.service_account.clone(),
        }),
    })
}

/// The descriptor of a Pod's network namespace, if the path still leads to it.
async fn open(workload: &Workload) -> Option<OwnedFd> {
    let Workload { netns, path, .. } = workload.clone();
    let opened = tokio::task::spawn_blocking(move || {
        let opened = Netns::open(&path).ok()?;
        (opened.id() == netns).then(|| opened.into_descriptor())
    });
    opened.await.ok().flatten()
}

/// Sends a packet and receives the answer.
async fn exchange(
    socket: &UnixSeqpacket,
    packet: &[u8],
    descriptor: Option<OwnedFd>,
) -> io::Result<Vec<u8>> {
    if packet.len() > MAX_PACKET {
        return Err(io::Error::new(
            ErrorKind::InvalidInput,
            format!(
                "the message has {} bytes; ztunnel reads {MAX_PACKET}",
                packet.len()
            ),
        ));
    }
    let mut control = [0; CONTROL];
    let mut ancillary = AncillaryMessageWriter::new(&mut control);
    let added = ancillary.add_fds(descriptor.as_slice());
    added.map_err(|error| io::Error::other(error.to_string()))?;
    socket.send_with_ancillary(packet, &mut ancillary).await?;
    let answer = receive(socket).await?;
    answer.ok_or_else(|| ErrorKind::UnexpectedEof.into())
}

/// The next packet, or `None` at the end of the connection. No message of ZDS is empty but an empty
/// answer, which is no acknowledgement either.
async fn receive(socket: &UnixSeqpacket) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = vec![0; MAX_PACKET];
    let received = socket.recv(&mut buffer).await?;
    if received.truncated() {
        let problem = format!("a message has more than {MAX_PACKET} bytes");
        return Err(io::Error::new(ErrorKind::InvalidData, problem));
    }
    buffer.truncate(received.bytes_read());
    Ok((!buffer.is_empty()).then_some(buffer))
}
