//! What Linux tells about processes and itself: CPU time, memory, limits. Reads `/proc` only.

use ringwire::doctor::{self as probe, Chosen};
use ringwire::{DriverChoice, MAX_SHARDS};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use std::fs;

/// Descriptors of the generator itself: rings, eventfds, standard streams.
const OWN_DESCRIPTORS: u64 = 64;
/// Direct descriptors a ring can have at most.
const MAX_DIRECT: u64 = 1 << 20;

/// CPU time of a process since it began, all threads.
#[derive(Clone, Copy, Debug, Default)]
pub struct CpuTime {
    /// Nanoseconds on a CPU, as the scheduler accounts them.
    pub total_ns: u64,
    /// Clock ticks in user and system mode: coarse, and good for their ratio.
    pub user_ticks: u64,
    /// See `user_ticks`.
    pub system_ticks: u64,
}

impl CpuTime {
    /// Of a process, `self` for this one. `None` if it is gone.
    pub fn of(pid: &str) -> Option<Self> {
        let mut total_ns = 0;
        for thread in fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten() {
            // The first field of schedstat: time spent on a CPU (proc_pid_schedstat, sched-stats.rst).
            let schedstat = fs::read_to_string(thread.path().join("schedstat")).unwrap_or_default();
            total_ns += schedstat.split(' ').next().and_then(|ns| ns.parse::<u64>().ok()).unwrap_or(0);
        }
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the command's name, which may hold anything: utime and stime are fields 14 and 15.
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
        let mut ticks = || fields.next()?.parse().ok();
        Some(Self { total_ns, user_ticks: ticks()?, system_ticks: ticks()? })
    }

    /// What was used since `before`.
    pub fn since(self, before: Self) -> Self {
        Self {
            total_ns: self.total_ns.saturating_sub(before.total_ns),
            user_ticks: self.user_ticks.saturating_sub(before.user_ticks),
            system_ticks: self.system_ticks.saturating_sub(before.system_ticks),
        }
    }

    /// The part of `total_ns` in user mode.
    pub fn user_ns(self) -> f64 {
        let ticks = (self.user_ticks + self.system_ticks).max(1);
        self.total_ns as f64 * self.user_ticks as f64 / ticks as f64
    }
}

/// CPU time of this process, all threads, in one system call.
pub fn process_cpu_ns() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Resident memory of a process, in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident, shared pages counted whole.
    pub rss: u64,
    /// Resident, shared pages counted by their share.
    pub pss: u64,
    /// Anonymous: heap, stacks, private mappings.
    pub anonymous: u64,
    /// Shared pages backed by files or memory, as io_uring's rings are.
    pub shared: u64,
}

impl Memory {
    /// From `smaps_rollup`. `None` if the process is gone or not ours to look at.
    pub fn of(pid: u32) -> Option<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
        let bytes = |name| read_kilobytes(&text, name).unwrap_or(0) * 1_024;
        Some(Self {
            rss: bytes("Rss:"),
            pss: bytes("Pss:"),
            anonymous: bytes("Anonymous:"),
            shared: bytes("Shared_Clean:") + bytes("Shared_Dirty:"),
        })
    }
}

/// Resident bytes of a process: a quick look, unlike [`Memory::of`], which walks its pages.
pub fn resident_bytes(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    read_kilobytes(&text, "VmRSS:").map(|kilobytes| kilobytes * 1_024)
}

/// The kernel's slab memory, in bytes.
pub fn kernel_slab() -> Option<u64> {
    read_kilobytes(&fs::read_to_string("/proc/meminfo").ok()?, "Slab:").map(|kilobytes| kilobytes * 1_024)
}

fn read_kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

/// What a result has to be read with.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Host {
    /// `uname -r`.
    pub kernel: String,
    /// As `/proc/cpuinfo` names it.
    pub cpu: String,
    /// CPUs of the host.
    pub cpus: usize,
    /// TCP's congestion control: some pace, and then that is what large messages measure.
    pub congestion_control: String,
}

impl Host {
    /// This host.
    pub fn look() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
        let cpuinfo = read("/proc/cpuinfo");
        let cpu = cpuinfo.lines().find_map(|line| line.strip_prefix("model name")?.split(':').nth(1));
        Self {
            kernel: read("/proc/sys/kernel/osrelease"),
            cpu: cpu.unwrap_or("unknown").trim().to_owned(),
            cpus: cpuinfo.lines().filter(|line| line.starts_with("processor")).count(),
            congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
        }
    }
}

/// Of the range of source ports, the part that is used. connect(2) looks for a port of one parity
/// first: when these are taken, every call walks through all of them, and 20,000 connections per second
/// become 2,000.
const USED_PORTS: (u64, u64) = (9, 20);
/// Of the direct descriptors a ring may have, as above.
const USED_DESCRIPTORS: (u64, u64) = (9, 10);

/// Source ports that one address has for one target.
pub fn source_ports() -> u64 {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let ports: Vec<u64> = range.split_whitespace().filter_map(|port| port.parse().ok()).collect();
    match ports[..] {
        [first, last] => (last.saturating_sub(first) + 1) * USED_PORTS.0 / USED_PORTS.1,
        _ => 28_000,
    }
}

/// Makes room for so many connections, as far as this process may: the workers it takes, of which
/// `wished` are asked for.
///
/// On io_uring connections stand in tables of the workers' rings, each as large as the limit on
/// descriptors; on epoll all of them count against it.
///
/// # Errors
/// In words, with the command that would help.
pub fn reserve(connections: u64, driver: DriverChoice, wished: Option<usize>) -> Result<usize, String> {
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    let (chosen, _) = probe::choose(driver).map_err(|refused| refused.to_string())?;
    let per_worker = (maximum.saturating_mul(USED_DESCRIPTORS.0) / USED_DESCRIPTORS.1).clamp(1, MAX_DIRECT);
    let (workers, wanted) = match chosen {
        Chosen::Uring => {
            let needed = connections.div_ceil(per_worker) as usize;
            let workers = wished.unwrap_or(1);
            if needed > MAX_SHARDS || (wished.is_some() && needed > workers) {
                return Err(format!(
                    "{connections} connections need {needed} workers, as each can hold {per_worker}: give \
                     --workers {needed} (at most {MAX_SHARDS} in a process, and more with --join), or \
                     raise the limit as root: `ulimit -Hn 1048576`"
                ));
            }
            (workers.max(needed), connections.min(maximum) + OWN_DESCRIPTORS)
        }
        Chosen::Epoll => (wished.unwrap_or(1), connections + OWN_DESCRIPTORS),
    };
    if maximum < wanted && matches!(chosen, Chosen::Epoll) {
        return Err(format!(
            "{connections} connections need {wanted} descriptors, and {maximum} are allowed: as root, \
             `ulimit -Hn {wanted}` (and `sysctl -w fs.nr_open={wanted}` if that is refused), or give \
             fewer, or more processes (--join)"
        ));
    }
    let wanted = wanted.min(maximum);
    if limit.current.is_some_and(|current| current < wanted) {
        let raised = Rlimit { current: Some(wanted), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).map_err(|error| {
            format!("the descriptor limit cannot be raised: {error}; `ulimit -n {wanted}`")
        })?;
    }
    Ok(workers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_uses_time_and_memory() {
        let before = CpuTime::of("self").unwrap();
        let start = std::time::Instant::now();
        // The scheduler's account lags behind by a tick.
        let used = loop {
            let used = CpuTime::of("self").unwrap().since(before);
            if used.total_ns > 5_000_000 || start.elapsed().as_secs() >= 20 {
                break used;
            }
        };
        assert!(used.total_ns > 5_000_000, "{used:?}");
        let memory = Memory::of(std::process::id()).unwrap();
        assert!(memory.rss >= memory.anonymous && memory.anonymous > 0, "{memory:?}");
    }

    #[test]
    fn more_descriptors_than_there_can_be_are_refused_with_advice() {
        for driver in [DriverChoice::Auto, DriverChoice::Epoll] {
            let error = reserve(1 << 40, driver, None).unwrap_err();
            assert!(error.contains("ulimit -Hn") && error.contains("--join"), "{error}");
        }
        assert_eq!(reserve(10, DriverChoice::Auto, Some(3)), Ok(3));
    }
}
