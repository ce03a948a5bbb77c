//! How much memory a process has in RAM, as Linux counts it.

use std::fmt::Display;

/// In bytes.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub now: u64,
    pub peak: u64,
}

impl Memory {
    /// That of a process, by its number or as `self`.
    pub fn of(process: impl Display) -> Memory {
        let status = std::fs::read_to_string(format!("/proc/{process}/status")).unwrap();
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let kib = line.unwrap().trim().trim_end_matches(" kB");
            kib.parse::<u64>().unwrap() * 1024
        };
        Memory {
            now: field("VmRSS:"),
            peak: field("VmHWM:"),
        }
    }

    /// How much higher the peak is than it was. Linux adds its counts up roughly, so that a later
    /// peak can even seem lower than an earlier one.
    pub fn peak_above(&self, earlier: Memory) -> u64 {
        self.peak.saturating_sub(earlier.peak)
    }
}
