//! Processes that the lab started. It ends no others.

use std::{
    fs::{self, File},
    io::{Read, Seek, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

const PAUSE: Duration = Duration::from_millis(5);
const GRACE: Duration = Duration::from_secs(5);
/// Lines of a log that an error quotes.
const TAIL: usize = 12;

/// A process that runs until it is stopped. Dropping it ends it.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it, with its output in the file `log`.
    pub fn start(name: &str, command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::create(log)?;
        command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // A Ctrl-C on the terminal is for the lab, which ends its processes in order.
            .process_group(0);
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name: name.to_owned(),
            child,
            log: log.to_owned(),
        })
    }

    /// Fails, with the end of its log, if it has ended.
    pub fn check(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            Some(status) => bail!("{} ended with {status}\n{}", self.name, self.tail()),
            None => Ok(()),
        }
    }

    /// Whether it has ended by itself; fails, with the end of its log, if it failed.
    pub fn ended(&mut self) -> Result<bool> {
        match self.child.try_wait()? {
            Some(status) if !status.success() => {
                bail!("{} ended with {status}\n{}", self.name, self.tail())
            }
            ended => Ok(ended.is_some()),
        }
    }

    /// Its output.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The last lines of its output.
    pub fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }

    /// Sends it a signal and waits until it has ended.
    pub fn end(&mut self, signal: Signal) -> Result<()> {
        kill(pid(&self.child)?, signal)?;
        if wait(&mut self.child, GRACE)?.is_none() {
            bail!("{} does not end on {signal}\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// Asks it to end, and insists after a while.
    pub fn stop(mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        kill(pid(&self.child)?, Signal::SIGTERM)?;
        if wait(&mut self.child, GRACE)?.is_none() {
            bail!("{} does not end on SIGTERM\n{}", self.name, self.tail());
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        let asked = pid(&self.child).is_ok_and(|pid| kill(pid, Signal::SIGTERM).is_ok());
        if !asked || !matches!(wait(&mut self.child, GRACE), Ok(Some(_))) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Runs a command that ends by itself, within `limit`, with `input` on its standard input.
pub fn finish(command: &mut Command, input: &str, limit: Duration) -> Result<Output> {
    // Files: unlike pipes they cannot fill up, nor be kept open by what the command leaves behind.
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    let mut child = command
        .stdin(self::input(input)?)
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?)
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", command.get_program().display()))?;
    let Some(status) = wait(&mut child, limit)? else {
        killpg(pid(&child)?, Signal::SIGKILL)?;
        child.wait()?;
        bail!("{command:?} does not end within {} s", limit.as_secs());
    };
    Ok(Output {
        status,
        stdout: content(&mut stdout)?,
        stderr: content(&mut stderr)?,
    })
}

fn content(file: &mut File) -> Result<Vec<u8>> {
    let mut content = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut content)?;
    Ok(content)
}

/// A file to be some command's standard input: unlike a pipe it cannot fill up.
pub fn input(content: &str) -> Result<File> {
    let mut file = tempfile::tempfile()?;
    file.write_all(content.as_bytes())?;
    file.rewind()?;
    Ok(file)
}

/// Runs a command that must succeed and returns its output.
pub fn output(command: &mut Command, limit: Duration) -> Result<String> {
    let Output {
        status,
        stdout,
        stderr,
    } = finish(command, "", limit)?;
    let stdout = String::from_utf8_lossy(&stdout).into_owned();
    if !status.success() {
        let said = String::from_utf8_lossy(&stderr);
        bail!("{command:?}: {status}\n{}{}", stdout.trim(), said.trim());
    }
    Ok(stdout)
}

/// Resident memory of a process in KiB, and its open descriptors.
pub fn footprint(pid: u32) -> Result<(u64, usize)> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss.and_then(|text| text.split_whitespace().next()?.parse().ok());
    let descriptors = fs::read_dir(format!("/proc/{pid}/fd"))?.count();
    Ok((rss.context("no VmRSS")?, descriptors))
}

fn wait(child: &mut Child, limit: Duration) -> Result<Option<std::process::ExitStatus>> {
    let started = Instant::now();
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if started.elapsed() > limit {
            return Ok(None);
        }
        thread::sleep(PAUSE);
    }
}

fn pid(child: &Child) -> Result<Pid> {
    Ok(Pid::from_raw(i32::try_from(child.id())?))
}
