//! The output of `sluiced pods --refused`.

use std::time::{SystemTime, UNIX_EPOCH};

use sluice_api::RefusedAdd;

use super::table::printable;

/// A block for each refused Pod.
pub(super) fn page(refused: &[RefusedAdd]) -> String {
    if refused.is_empty() {
        return "no Pod was refused since the daemon started".to_owned();
    }
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
    let blocks = refused.iter().map(|entry| block(entry, now));
    blocks.collect::<Vec<_>>().join("\n")
}

fn block(entry: &RefusedAdd, now: u64) -> String {
    let age = |then: u64| age(now.saturating_sub(then) / 1000);
    let times = match entry.count {
        1 => "once".to_owned(),
        count => format!("{count} times in {}", age_of(entry)),
    };
    let name = match (&*entry.pod.namespace, &*entry.pod.name) {
        (_, "") => format!("container {}", entry.container_id),
        (namespace, name) => format!("{namespace}/{name}"),
    };
    let error = crate::refusals::error(entry);
    format!(
        "{}: {} (code {}), {times}, {} ago\n  error   {}\n  remedy  {}",
        printable(&name),
        printable(&entry.reason),
        entry.code,
        age(entry.last),
        sluice_api::text::Printable::new(error),
        sluice_api::text::Printable::new(&entry.remedy),
    )
}

fn age_of(entry: &RefusedAdd) -> String {
    age(entry.last.saturating_sub(entry.first) / 1000)
}

/// A duration in its largest unit.
fn age(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86400),
    }
}

#[cfg(test)]
mod tests {
    use sluice_api::PodName;

    use super::*;

    #[test]
    fn block_names_pod_reason_and_remedy() {
        let entry = RefusedAdd {
            first: 0,
            last: 300_000,
            count: 3,
            pod: PodName {
                namespace: "shop".into(),
                name: "cart".into(),
                uid: String::new(),
            },
            container_id: "c".into(),
            code: 100,
            reason: "pod_settings".into(),
            message: "annotation x".into(),
            details: "y\u{1b}".into(),
            remedy: "change it".into(),
        };
        let expected = "shop/cart: pod_settings (code 100), 3 times in 5 min, 12 s ago\n  error   \
                        annotation x: y\\u{1b}\n  remedy  change it";
        assert_eq!(block(&entry, 312_000), expected);
        assert_eq!(age(90_000), "25 h");
    }
}
