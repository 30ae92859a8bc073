//! The messages of the ZDS protocol, version 1: Istio's agent on the node sends ztunnel the Pods that
//! it serves. Field numbers are those of `proto/zds.proto` in ztunnel's sources.
//!
//! Each message is one packet of a `SOCK_SEQPACKET` socket. ztunnel begins with [`Hello`]. Then it
//! answers every [`Request`] with one [`Response`], which has no number: it belongs to the request
//! before it.

use prost::Message;

/// The supported version.
pub(super) const VERSION: i32 = 1;
/// The maximum size of a packet in bytes: the size of ztunnel's buffer.
pub(super) const MAX_PACKET: usize = 1024;

/// ztunnel's first message.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct Hello {
    #[prost(int32, tag = "1")]
    pub(super) version: i32,
}

/// A message to ztunnel.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Request {
    #[prost(oneof = "Payload", tags = "1, 2, 3, 5")]
    pub(super) payload: Option<Payload>,
}

/// The payload of a request.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub(super) enum Payload {
    /// Serve a Pod. The descriptor of its network namespace comes as ancillary data.
    #[prost(message, tag = "1")]
    Add(AddWorkload),
    /// Do not serve a Pod any more.
    #[prost(message, tag = "2")]
    Del(DelWorkload),
    /// The snapshot is complete: every other Pod of an earlier connection is gone.
    #[prost(message, tag = "3")]
    SnapshotSent(SnapshotSent),
    /// Serve a Pod as before: it belongs to the snapshot, but its namespace cannot be opened.
    #[prost(message, tag = "5")]
    Keep(KeepWorkload),
}

/// A Pod to serve.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct AddWorkload {
    #[prost(string, tag = "1")]
    pub(super) uid: String,
    #[prost(message, optional, tag = "2")]
    pub(super) workload_info: Option<WorkloadInfo>,
}

/// The identity of a Pod.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct WorkloadInfo {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "2")]
    pub(super) namespace: String,
    #[prost(string, tag = "3")]
    pub(super) service_account: String,
}

/// A Pod that ended.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct DelWorkload {
    /// Field 2, unlike in the other messages.
    #[prost(string, tag = "2")]
    pub(super) uid: String,
}

/// A Pod whose namespace cannot be opened.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct KeepWorkload {
    #[prost(string, tag = "1")]
    pub(super) uid: String,
}

/// The end of the snapshot.
#[derive(Clone, Copy, PartialEq, Eq, Message)]
pub(super) struct SnapshotSent {}

/// ztunnel's answer.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Response {
    #[prost(oneof = "Answer", tags = "1")]
    pub(super) payload: Option<Answer>,
}

/// The payload of an answer.
#[derive(Clone, PartialEq, Eq, prost::Oneof)]
pub(super) enum Answer {
    /// The request was processed.
    #[prost(message, tag = "1")]
    Ack(Ack),
}

/// The result of a request.
#[derive(Clone, PartialEq, Eq, Message)]
pub(super) struct Ack {
    /// Empty if the request succeeded.
    #[prost(string, tag = "1")]
    pub(super) error: String,
}

impl Response {
    /// ztunnel's error, or `None` if the request succeeded.
    pub(super) fn error(self) -> Option<String> {
        let Some(Answer::Ack(Ack { error })) = self.payload else {
            return Some("its answer is no acknowledgement".to_owned());
        };
        (!error.is_empty()).then_some(error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The encoding, by hand: tag `field << 3 | 2`, length, bytes.
    #[test]
    fn messages_have_the_encoding_of_the_protocol() {
        let info = WorkloadInfo {
            name: "n".to_owned(),
            namespace: "s".to_owned(),
            service_account: "a".to_owned(),
        };
        let add = AddWorkload {
            uid: "u".to_owned(),
            workload_info: Some(info),
        };
        let encoded = |payload| {
            Request {
                payload: Some(payload),
            }
            .encode_to_vec()
        };
        let uid = || "u".to_owned();
        assert_eq!(
            encoded(Payload::Add(add)),
            b"\x0a\x0e\x0a\x01u\x12\x09\x0a\x01n\x12\x01s\x1a\x01a"
        );
        assert_eq!(
            encoded(Payload::Del(DelWorkload { uid: uid() })),
            b"\x12\x03\x12\x01u"
        );
        assert_eq!(encoded(Payload::SnapshotSent(SnapshotSent {})), b"\x1a\x00");
        assert_eq!(
            encoded(Payload::Keep(KeepWorkload { uid: uid() })),
            b"\x2a\x03\x0a\x01u"
        );
        assert_eq!(Hello::decode(&b"\x08\x01"[..]).unwrap().version, VERSION);
        let failed = Response::decode(&b"\x0a\x04\x0a\x02no"[..]).unwrap();
        assert_eq!(failed.error().as_deref(), Some("no"));
        assert_eq!(Response::decode(&b"\x0a\x00"[..]).unwrap().error(), None);
        assert!(Response::decode(&b""[..]).unwrap().error().is_some());
    }
}
