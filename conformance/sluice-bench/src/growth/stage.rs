//! A node with a daemon, which grows.

use std::{
    collections::BTreeMap,
    fs, mem,
    net::Ipv4Addr,
    path::PathBuf,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use nix::sys::signal::Signal;
use serde::Serialize;
use sluice_lab::{
    APPLICATION, Binaries, PROXY,
    backend::{
        Backend as _,
        sluice::{MEMORY, Sluice},
    },
    pod_annotations::EXCLUDE_OUTBOUND_RANGES,
};
use sluice_testbed::{
    agent::{ExecContext, serve::READY},
    bulk_netns::BulkNetns,
    cgroup::Cgroup,
    interrupt::Interrupt,
    process::{Process, footprint, output},
};
use tempfile::TempDir;

use crate::{
    cpu::on_cpu,
    growth::Axis,
    idle::{REST, allocated},
    statistics::median,
};

/// The daemon has a processor of its own.
const RUNTIME: usize = 0;
const DAEMON: usize = 1;
/// A destination of documentation (RFC 5737); the ports above are destinations, too.
const DESTINATION: &str = "198.51.100.1:20000";
const OUTBOUND: u16 = 15001;
/// The Pod that is watched.
const WATCHED: u16 = 0;
const CONNECTS: u32 = 2000;
const ADDS: usize = 5;
const PATIENCE: Duration = Duration::from_mins(2);
/// A daemon that used no processor for so long has nothing to do; at most so long it is waited for.
const PAUSE: Duration = Duration::from_millis(50);
const CALM: Duration = Duration::from_secs(5);
/// Networks of a list, which do not touch: RFC 1918.
const FIRST_NETWORK: Ipv4Addr = Ipv4Addr::new(172, 16, 0, 0);
const NETWORK_STRIDE: u32 = 16;
const NETWORK_PREFIX: u8 = 29;

/// What things cost at a size.
#[derive(Clone, Copy, Default, Serialize)]
pub(super) struct Costs {
    /// The median of an application's connections.
    pub(super) connect_nanos: f64,
    /// The median of some.
    pub(super) add_millis: f64,
    pub(super) restart_millis: f64,
    /// Resident memory, before the restart.
    pub(super) daemon_kib: f64,
}

/// The node.
pub(super) struct Stage {
    // Processes end before their namespaces.
    holders: Vec<Process>,
    sluice: Sluice,
    crowd: BulkNetns,
    /// How many Pods the daemon knows.
    added: u16,
    connections: u32,
    /// Destinations of the watched Pod.
    destinations: u16,
    networks: u16,
    pods_cgroup: PathBuf,
    cgroup: Cgroup,
    directory: TempDir,
}

impl Stage {
    /// Makes it, with namespaces for so many Pods, and adds the Pod that is watched.
    pub(super) fn start(
        binaries: &Binaries,
        what: &str,
        pods: u16,
        interrupt: &Interrupt,
    ) -> Result<Self> {
        let prefix = format!("sluice-growth-{}-", what.to_ascii_lowercase());
        let directory = TempDir::with_prefix_in(prefix, MEMORY)?;
        let name = directory.path().file_name().unwrap_or_default();
        let name = name.to_string_lossy().into_owned();
        let cgroup = Cgroup::create(&name)?;
        let pods_cgroup = cgroup.child("pods")?;
        // One more, to be added and deleted.
        let crowd = BulkNetns::make(name, pods + 1, interrupt)?;
        let sluice = on_cpu(DAEMON, || {
            Sluice::start(binaries, directory.path(), cgroup.path(), "", interrupt)
        })?;
        let mut stage = Self {
            holders: Vec::new(),
            sluice,
            crowd,
            added: 0,
            connections: 0,
            destinations: 1,
            networks: 0,
            pods_cgroup,
            cgroup,
            directory,
        };
        stage.add()?;
        Ok(stage)
    }

    /// Makes it as large as that; a Pod holds at most `each` connections.
    pub(super) fn grow(
        &mut self,
        axis: Axis,
        size: u32,
        each: u16,
        interrupt: &Interrupt,
    ) -> Result<()> {
        match axis {
            Axis::Pods => {
                while u32::from(self.added) < size {
                    interrupt.check()?;
                    self.add()?;
                }
            }
            Axis::Networks => {
                self.call("DEL", WATCHED)?;
                self.networks = u16::try_from(size)?;
                self.call("ADD", WATCHED)?;
            }
            Axis::Destinations => {
                self.destinations = u16::try_from(size)?;
                let mut command = self.repeat(WATCHED, size)?;
                on_cpu(RUNTIME, || output(&mut command, PATIENCE))?;
            }
            Axis::Connections => {
                for count in parts(size.saturating_sub(self.connections), each) {
                    self.hold(count, interrupt)?;
                }
                self.connections = size;
            }
        }
        thread::sleep(REST);
        Ok(())
    }

    /// Adds the next Pod.
    fn add(&mut self) -> Result<()> {
        self.crowd.ip(self.added, "link set lo up")?;
        self.call("ADD", self.added)?;
        self.added += 1;
        Ok(())
    }

    /// Adds a Pod that holds so many connections.
    fn hold(&mut self, count: u16, interrupt: &Interrupt) -> Result<()> {
        let number = self.added;
        self.add()?;
        let mut command = self.repeat(number, count.into())?;
        command.arg("--hold");
        let log = self.directory.path().join(format!("hold-{number}.log"));
        let mut holder = Process::start("a holder", &mut command, &log)?;
        let ready = interrupt.wait(PATIENCE, || {
            holder.check()?;
            Ok(holder.log().lines().any(|line| line == READY))
        });
        let tail = holder.tail();
        self.holders.push(holder);
        ensure!(ready?, "connections are not open\n{tail}");
        Ok(())
    }

    /// A command that connects in a Pod, from the application to the proxy's port.
    fn repeat(&self, number: u16, count: u32) -> Result<Command> {
        let netns = self.crowd.path(number);
        let place = ExecContext {
            netns: Some(&netns),
            cgroup: Some(&self.pods_cgroup),
            ..ExecContext::default()
        };
        let mut command = place.own()?;
        command.args(["syscall-loop", "--to", DESTINATION]);
        command.args(["--listen", &OUTBOUND.to_string()]);
        command.args(["--count", &count.to_string()]);
        if number == WATCHED {
            command.args(["--destinations", &self.destinations.to_string()]);
        }
        command.args(["--owner", &PROXY.to_string()]);
        command.args(["--user", &APPLICATION.to_string()]);
        Ok(command)
    }

    /// Measures all but a restart.
    pub(super) fn costs(&mut self, interrupt: &Interrupt) -> Result<Costs> {
        interrupt.check()?;
        let mut command = self.repeat(WATCHED, CONNECTS)?;
        command.arg("--time");
        let connect = on_cpu(RUNTIME, || output(&mut command, PATIENCE))?;
        let adds = on_cpu(RUNTIME, || {
            let add = |_| -> Result<f64> {
                let took = self.call("ADD", self.spare())?;
                self.call("DEL", self.spare())?;
                Ok(took)
            };
            (0..ADDS).map(add).collect::<Result<Vec<_>>>()
        })?;
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        let daemon_kib = footprint(self.sluice.pid()?)?.0 as f64;
        Ok(Costs {
            connect_nanos: connect.trim().parse()?,
            add_millis: median(&adds).context("no ADD")?,
            restart_millis: 0.0,
            daemon_kib,
        })
    }

    /// Restarts the daemon, and waits until it has nothing to do any more. Milliseconds until it serves.
    pub(super) fn restart(&mut self, interrupt: &Interrupt) -> Result<f64> {
        let begin = Instant::now();
        on_cpu(DAEMON, || self.sluice.restart(Signal::SIGTERM, interrupt))?;
        let took = begin.elapsed();
        let mut before = None;
        interrupt.wait(CALM, || {
            thread::sleep(PAUSE);
            let now = Some(self.ticks()?);
            Ok(mem::replace(&mut before, now) == now)
        })?;
        Ok(took.as_secs_f64() * 1e3)
    }

    /// Processor time of the daemon so far, in ticks.
    fn ticks(&self) -> Result<u64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.sluice.pid()?))?;
        ticks(&stat).context("no processor time in /proc")
    }

    /// The memory of the daemon's maps, as the kernel states it.
    pub(super) fn maps_bytes(&self) -> Result<u64> {
        let mut maps = BTreeMap::new();
        for file in fs::read_dir(format!("/proc/{}/fdinfo", self.sluice.pid()?))? {
            // A descriptor may be closed meanwhile.
            let info = fs::read_to_string(file?.path()).unwrap_or_default();
            maps.extend(map(&info));
        }
        Ok(maps.into_values().sum())
    }

    fn spare(&self) -> u16 {
        self.crowd.count() - 1
    }

    /// Has the plugin called. Only Pods that are watched, or compared with that, have the list.
    fn call(&self, verb: &str, number: u16) -> Result<f64> {
        let plugin = Command::new(self.sluice.plugin().context("a plugin")?);
        let entry = self.sluice.entry().context("an entry")?;
        let mut annotations = BTreeMap::new();
        if self.networks > 0 && [WATCHED, self.spare()].contains(&number) {
            annotations.insert(EXCLUDE_OUTBOUND_RANGES.to_owned(), networks(self.networks));
        }
        self.crowd
            .call_with(plugin, &entry, verb, number, &annotations)
    }

    /// Deletes the Pods, and then the rest.
    pub(super) fn remove(self) -> Result<()> {
        for number in 0..self.added {
            self.call("DEL", number)?;
        }
        let Self {
            holders,
            sluice,
            crowd,
            cgroup,
            directory,
            ..
        } = self;
        holders.into_iter().try_for_each(Process::stop)?;
        Box::new(sluice).stop()?;
        drop(crowd);
        cgroup.remove()?;
        Ok(directory.close()?)
    }
}

/// How many Pods the steps need.
pub(super) fn pods(axis: Axis, steps: &[u32], each: u16) -> u16 {
    let most = steps.last().copied().unwrap_or(1);
    let pods = match axis {
        Axis::Networks | Axis::Destinations => 1,
        Axis::Pods => most,
        Axis::Connections => {
            let before = [0].iter().chain(steps);
            let parts = steps.iter().zip(before).map(|(size, before)| {
                let count = parts(size.saturating_sub(*before), each).count();
                u32::try_from(count).unwrap_or(u32::MAX)
            });
            1 + parts.sum::<u32>()
        }
    };
    u16::try_from(pods).unwrap_or(u16::MAX)
}

/// Parts of at most so many.
fn parts(count: u32, each: u16) -> impl Iterator<Item = u16> {
    let whole = count / u32::from(each);
    let rest = u16::try_from(count % u32::from(each)).unwrap_or_default();
    (0..whole)
        .map(move |_| each)
        .chain(Some(rest).filter(|rest| *rest > 0))
}

fn networks(count: u16) -> String {
    let network = |number: u16| {
        let address = u32::from(FIRST_NETWORK) + u32::from(number) * NETWORK_STRIDE;
        format!("{}/{NETWORK_PREFIX}", Ipv4Addr::from(address))
    };
    (0..count).map(network).collect::<Vec<_>>().join(",")
}

/// proc(5): `utime` and `stime` are fields 14 and 15; the name, field 2, may hold blanks.
fn ticks(stat: &str) -> Option<u64> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(11).map(str::parse::<u64>);
    Some(times.next()?.ok()? + times.next()?.ok()?)
}

/// The number of a map and its bytes, from fdinfo.
fn map(info: &str) -> Option<(u32, u64)> {
    let field = |name: &str| {
        let line = info.lines().find_map(|line| line.strip_prefix(name));
        Some(line?.strip_prefix(':')?.trim().to_owned())
    };
    Some((
        field("map_id")?.parse().ok()?,
        field("memlock")?.parse().ok()?,
    ))
}

/// Bytes in the kernel's small objects, and in its memory for each processor.
#[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
pub(super) fn kernel_bytes() -> Result<f64> {
    Ok((allocated()? + meminfo("Percpu:")?) as f64)
}

/// Bytes of memory that processes could have.
pub(super) fn available() -> Result<u64> {
    meminfo("MemAvailable:")
}

fn meminfo(name: &str) -> Result<u64> {
    let meminfo = fs::read_to_string("/proc/meminfo")?;
    kib(&meminfo, name)
        .map(|kib| kib << 10)
        .with_context(|| format!("no {name}"))
}

fn kib(meminfo: &str, name: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_of_the_connections_has_a_pod() {
        assert_eq!(parts(25, 10).collect::<Vec<_>>(), [10, 10, 5]);
        assert_eq!(parts(0, 10).count(), 0);
        // The watched one, then 1, 9 and 15 connections.
        assert_eq!(pods(Axis::Connections, &[1, 10, 25], 10), 5);
        assert_eq!(pods(Axis::Pods, &[1, 10], 10), 10);
    }

    #[test]
    fn networks_of_a_list_do_not_touch() {
        assert_eq!(networks(2), "172.16.0.0/29,172.16.0.16/29");
        assert!(networks(5000).ends_with("172.17.56.112/29"));
    }

    #[test]
    fn memory_is_read_from_the_kernels_files() {
        let info = "pos:\t0\nmap_type:\t1\nmemlock:\t4096\nmap_id:\t7\nfrozen:\t0\n";
        assert_eq!(map(info), Some((7, 4096)));
        let stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 8 0 0 0 30 4 0 0 20 0 1 0\n";
        assert_eq!(ticks(stat), Some(34));
        assert_eq!(map("prog_id:\t7\nmemlock:\t4096\n"), None);
        assert_eq!(
            kib("MemFree:  5 kB\nPercpu:    12 kB\n", "Percpu:"),
            Some(12)
        );
    }
}
