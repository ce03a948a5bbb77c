//! Processes: where they run, and what they cost.

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::thread;
use std::time::Duration;

/// The core of the server that is asked; who asks it, and what it asks, shares the other.
const SERVERS: u32 = 0;
const OTHERS: u32 = 1;

/// Whether each core has a role.
pub(super) fn are_pinned() -> bool {
    static PINNED: LazyLock<bool> = LazyLock::new(|| {
        let cores = thread::available_parallelism().map_or(1, usize::from);
        cores > 1 && Command::new("taskset").arg("-V").output().is_ok()
    });
    *PINNED
}

fn on_core(core: u32, program: impl AsRef<Path>) -> Command {
    let program = program.as_ref();
    if !are_pinned() {
        return Command::new(program);
    }
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

pub(super) fn on_servers_core(program: impl AsRef<Path>) -> Command {
    on_core(SERVERS, program)
}

pub(super) fn on_others_core(program: impl AsRef<Path>) -> Command {
    on_core(OTHERS, program)
}

pub(super) fn is_there(program: &str) -> bool {
    Command::new(program).arg("-v").output().is_ok()
}

/// Where a file of this benchmark's is put.
pub(super) fn scratch(name: &str) -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("throughput-{name}"))
}

/// A server, until it is dropped.
pub(super) struct Server {
    pub(super) address: String,
    process: Child,
}

impl Server {
    /// One of [`serve`](super::serve)'s.
    pub(super) fn start(server: &str, upstream: Option<&Server>) -> Server {
        let exe = std::env::current_exe().expect("a path");
        let mut command = match server {
            "upstream" => on_others_core(exe),
            _ => on_servers_core(exe),
        };
        command.args(["--serve", server]);
        command.args(upstream.map(|upstream| &upstream.address));
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut process = command.spawn().expect("a process");
        let mut address = String::new();
        let said = process.stdout.take().expect("a pipe");
        BufReader::new(said)
            .read_line(&mut address)
            .expect("an address");
        address.truncate(address.trim_end().len());
        Server { address, process }
    }

    pub(super) fn of(process: Child, address: String) -> Server {
        Server { address, process }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// In user and system mode, up to now.
    pub(super) fn cpu_time(&self) -> Duration {
        /// As all that Linux tells programs is in hundredths of a second.
        const TICK: Duration = Duration::from_millis(10);

        let stat = format!("/proc/{}/stat", self.process.id());
        let stat = fs::read_to_string(stat).expect("Linux's /proc");
        // The second field is a name in brackets; from the third on, these are the 12th and 13th.
        let fields = stat.rsplit(')').next().unwrap_or_default();
        let ticks = fields.split_whitespace().skip(11).take(2);
        ticks
            .map(|ticks| TICK * ticks.parse().expect("a number"))
            .sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
