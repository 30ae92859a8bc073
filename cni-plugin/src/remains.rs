//! The tolerant configuration parser for DEL.

use std::{path::PathBuf, time::Duration};

use crate::{
    Error, Stdin,
    conf::{self, Conf, DEFAULT_TIMEOUT, Document},
    spec::SUPPORTED,
};

/// The part of a configuration that DEL needs. A runtime repeats DEL until it succeeds, so an invalid
/// configuration does not stop it.
#[derive(Debug)]
pub(crate) struct Remains {
    /// `name`, or empty if it is unreadable.
    pub(crate) network: String,
    /// As in [`Conf`].
    pub(crate) socket: PathBuf,
    /// As in [`Conf`].
    pub(crate) timeout: Duration,
    /// Every problem in the configuration.
    pub(crate) problems: Vec<Error>,
}

impl Remains {
    /// Reads every valid part.
    pub(crate) fn read(stdin: Stdin) -> Self {
        let mut problems = Vec::new();
        let document = (stdin.map_err(Error::Stdin))
            .and_then(|bytes| conf::decode(&bytes))
            .unwrap_or_else(|error| {
                problems.push(error);
                Document::default()
            });
        match conf::version(&document) {
            Ok(version) if SUPPORTED.contains(&&*version) => {}
            Ok(version) => problems.push(Error::Version { version }),
            Err(error) => problems.push(error),
        }
        let object = &document.object;
        let network = conf::network(object).ok();
        let socket = conf::socket(object).ok();
        let timeout = conf::timeout(object).ok();
        // The other keys are validated only for the message.
        if problems.is_empty() {
            problems.extend(Conf::new(document).err());
        }
        Self {
            network: network.unwrap_or_default(),
            socket: socket.unwrap_or_else(|| sluice_api::SOCKET.into()),
            timeout: timeout.unwrap_or(DEFAULT_TIMEOUT),
            problems,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Remains {
        Remains::read(Ok(text.as_bytes().to_vec()))
    }

    #[test]
    fn readable_keys_of_a_wrong_configuration_are_kept() {
        let rows = [
            (
                r#"{"name":"n","stray":1,"socket":"/s"}"#,
                "n",
                "/s",
                "'stray'",
            ),
            (
                r#"{"name":"n","socket":7}"#,
                "n",
                sluice_api::SOCKET,
                "socket must be",
            ),
            (r#"{"name":7,"socket":"/s"}"#, "", "/s", "name must be"),
            (
                r#"{"name":"n","cniVersion":"9.0.0"}"#,
                "n",
                sluice_api::SOCKET,
                "'9.0.0'",
            ),
            (
                r#"{"name":"n","timeoutSeconds":"x"}"#,
                "n",
                sluice_api::SOCKET,
                "timeoutSeconds",
            ),
            (r#"{"name":"n","#, "", sluice_api::SOCKET, "not JSON"),
            ("", "", sluice_api::SOCKET, "not JSON"),
        ];
        for (text, network, socket, problem) in rows {
            let remains = read(text);
            assert_eq!(remains.network, network, "{text}");
            assert_eq!(remains.socket, PathBuf::from(socket), "{text}");
            let [error] = &remains.problems[..] else {
                panic!("{text}: {:?}", remains.problems);
            };
            assert!(error.to_string().contains(problem), "{text}: {error}");
        }
        assert!(
            read(r#"{"name":"n","type":"sluice-cni"}"#)
                .problems
                .is_empty()
        );
    }

    proptest! {
        #[test]
        fn any_configuration_yields_socket_and_timeout(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let remains = Remains::read(Ok(bytes));
            prop_assert!(remains.socket.is_absolute());
            prop_assert!((1..=60).contains(&remains.timeout.as_secs()));
        }
    }
}
