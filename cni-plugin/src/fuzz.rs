//! Fuzz targets of the plugin, with their invariants.

use crate::{
    Invocation,
    conf::{self, Conf},
    remains::Remains,
    result,
};

/// Standard input.
pub fn stdin(bytes: &[u8]) {
    let Ok(document) = conf::decode(bytes) else {
        return;
    };
    let version = conf::version(&document).unwrap_or_default();
    let remains = Remains::read(Ok(bytes.to_vec()));
    assert!(remains.socket.is_absolute());
    let Ok(conf) = Conf::new(document) else {
        return;
    };
    assert!(conf.socket.is_absolute());
    assert!((1..=60).contains(&conf.timeout.as_secs()));
    if let Some(prev_result) = &conf.prev_result {
        let _either = result::in_version(prev_result, &version);
        for address in result::addresses(prev_result, &version, "eth0")
            .into_iter()
            .flatten()
        {
            assert!(!address.interface.is_empty());
        }
        let text = prev_result.as_bytes();
        assert!(bytes.windows(text.len()).any(|part| part == text));
    }
}

/// The environment: variables in the order of the fields of [`Invocation`], one on each line.
pub fn environment(text: &str) {
    let mut lines = text.split('\n').map(str::to_owned);
    let mut next = || lines.next().unwrap_or_default();
    let invocation = Invocation {
        command: next(),
        container_id: next(),
        netns: next(),
        ifname: next(),
        args: next(),
    };
    let _either = invocation.verb();
    if let Ok(attachment) = invocation.attachment("pods") {
        assert!(!attachment.container_id.contains('/') && !attachment.ifname.contains('/'));
        assert!(!attachment.container_id.is_empty() && attachment.ifname.len() <= 15);
    }
    if let Ok(pod) = invocation.pod() {
        assert!(
            [pod.namespace, pod.name, pod.uid]
                .iter()
                .all(|one| !one.contains(';'))
        );
    }
}
