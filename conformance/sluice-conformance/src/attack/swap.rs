//! A path whose target changes between the daemon's checks.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
};

use anyhow::{Result, ensure};
use serde_json::Value;
use sluice_lab::Lab;
use sluice_testbed::{http, netns::Netns};

use crate::attack::{
    Saw, goal,
    request::{ADDRESS, CONTAINER, attachment, exchange, report, socket},
};

/// Reports a link that another thread moves between a Pod's namespace and the host's.
pub(super) fn swap_netns(lab: &Lab, count: usize) -> Result<Saw> {
    let own = Netns::create(format!("{}-swapped", lab.name))?;
    own.ip("link add eth0 type veth peer name far0")?;
    own.ip(&format!("address add {ADDRESS}/24 dev eth0"))?;
    own.ip("link set eth0 up")?;
    let (path, next) = (lab.file("swapped"), lab.file("swapped-next"));
    let of_pod = round(lab, own.path())?;
    symlink(own.path(), &path)?;
    let done = AtomicBool::new(false);
    let seen: Result<Vec<Vec<u64>>> = thread::scope(|scope| {
        scope.spawn(|| {
            let targets = [Path::new("/proc/1/ns/net"), own.path()];
            for target in targets.iter().cycle() {
                if done.load(Ordering::Relaxed) {
                    return;
                }
                let _moved = symlink(target, &next).and_then(|()| fs::rename(&next, &path));
            }
        });
        let seen = (0..count).map(|_| round(lab, &path)).collect();
        done.store(true, Ordering::Relaxed);
        seen
    });
    fs::remove_file(&path)?;
    own.remove()?;
    let seen = seen?.concat();
    let foreign = seen
        .iter()
        .filter(|cookie| !of_pod.contains(cookie))
        .count();
    let detail = format!(
        "the Pod's namespace {} times, another {foreign} times",
        seen.len() - foreign
    );
    ensure!(of_pod.len() == 1, "the Pod's own namespace is not accepted");
    Ok(goal(foreign > 0, detail))
}

/// Reports a Pod, lists the Pods and removes it again. The cookies of the attacker's Pods.
fn round(lab: &Lab, path: &Path) -> Result<Vec<u64>> {
    exchange(lab, "/v1/add", &report(lab, &path.to_string_lossy()))?;
    let pods: Value = serde_json::from_str(&http::get(&socket(lab), "/v1/pods")?)?;
    exchange(lab, "/v1/del", &attachment(lab).to_string())?;
    let all = pods.as_array().into_iter().flatten();
    let own = all.filter(|pod| pod["attachment"]["container_id"] == CONTAINER);
    Ok(own.filter_map(|pod| pod["cookie"].as_u64()).collect())
}
