//! What this kernel offers and permits, which driver follows from it, and why.
//!
//! Everything is tried, on a ring that lives for the length of the call; `/proc` is only read to
//! explain a denial and to show limits. [`probe`] never fails: a denial is a finding.

use std::fmt;
use std::io;

use super::{sys, uring::trial};
use crate::config::DriverChoice;

/// What was found. Its `Display` is the text of `ringwire doctor`.
#[derive(Clone, Debug)]
pub struct Report {
    /// As `uname -r` says.
    pub kernel: String,
    /// Why io_uring cannot be used, if it cannot.
    pub denial: Option<Denial>,
    /// Features of io_uring; all absent where it is denied.
    pub features: Vec<Feature>,
    /// Limits that bound the number of connections.
    pub limits: Vec<Limit>,
}

/// One feature of io_uring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// As the field calls it.
    pub name: &'static str,
    /// Whether it works here.
    pub available: bool,
    /// Whether the uring driver cannot run without it.
    pub required: bool,
    /// What to change to get it.
    pub advice: &'static str,
}

/// One limit of this process or host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// As setrlimit(2) or sysctl(8) name it.
    pub name: &'static str,
    /// Its value; two for a soft and a hard one.
    pub value: String,
    /// What it bounds and how to raise it.
    pub advice: &'static str,
}

/// Why io_uring cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Denial {
    /// The sysctl `kernel.io_uring_disabled` has this value.
    Sysctl(u8),
    /// The call is refused although the sysctl allows it: a seccomp filter or a security module.
    Seccomp,
    /// There is no such system call: the kernel was built without it, or a filter says so.
    NoSystemCall,
    /// Memory for the ring cannot be had.
    NoMemory,
    /// A required feature is missing.
    TooOld(&'static str),
    /// Something else, as the kernel said it.
    Other(String),
}

impl fmt::Display for Denial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sysctl(value) => write!(
                f,
                "the sysctl kernel.io_uring_disabled is {value}: set it to 0{}",
                if *value == 1 { ", or join the group in kernel.io_uring_group" } else { "" }
            ),
            Self::Seccomp => f.write_str(
                "io_uring_setup is refused (EPERM) by a seccomp filter or security module: allow \
                 io_uring_setup, io_uring_enter and io_uring_register in the container's seccomp profile",
            ),
            Self::NoSystemCall => f.write_str(
                "the kernel knows no io_uring (ENOSYS): it was built without CONFIG_IO_URING, or a seccomp \
                 filter or sandbox hides it",
            ),
            Self::NoMemory => f.write_str(
                "no memory for a ring (ENOMEM): raise RLIMIT_MEMLOCK (`ulimit -l`) or the cgroup's memory limit",
            ),
            Self::TooOld(feature) => write!(f, "{feature} is missing: Linux 6.1 or later is needed"),
            Self::Other(error) => write!(f, "setting up a ring failed: {error}"),
        }
    }
}

/// Whether the kernel has TLS: an error that says what to do if not.
///
/// # Errors
/// Where `/proc/sys/net/ipv4/tcp_available_ulp` does not list `tls`, or cannot be read.
pub fn kernel_tls() -> Result<(), String> {
    const LIST: &str = "/proc/sys/net/ipv4/tcp_available_ulp";
    match std::fs::read_to_string(LIST) {
        Ok(list) if list.split_whitespace().any(|name| name == "tls") => Ok(()),
        Ok(_) => Err(format!("the kernel has no TLS ({LIST} does not list `tls`): `modprobe tls`")),
        Err(error) => Err(format!("whether the kernel has TLS is not known: {LIST}: {error}")),
    }
}

/// The driver that will run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chosen {
    /// [`Uring`](super::uring::Uring).
    Uring,
    /// [`Epoll`](super::epoll::Epoll).
    Epoll,
}

impl Chosen {
    /// As metrics and benchmark results name it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Epoll => "epoll",
        }
    }
}

/// A driver was asked for by name and cannot run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused(Denial);

impl Refused {
    /// What stands in the way.
    pub fn denial(&self) -> &Denial {
        &self.0
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the driver `uring` cannot run here: {}; or choose the driver `auto` or `epoll`", self.0)
    }
}

impl std::error::Error for Refused {}

/// Chooses a driver by [`probe`]: the driver, and the reason as a line for the log.
///
/// # Errors
/// `Uring` was asked for and is denied. Falling back is for `Auto` only, and never silent.
///
/// ```
/// use ringwire::{DriverChoice, doctor};
/// let (driver, reason) = doctor::choose(DriverChoice::Auto)?;
/// println!("driver {}: {reason}", driver.name());
/// # Ok::<(), doctor::Refused>(())
/// ```
pub fn choose(choice: DriverChoice) -> Result<(Chosen, String), Refused> {
    probe().choose(choice)
}

impl Report {
    /// As [`choose`], of what was found already.
    ///
    /// # Errors
    /// As [`choose`].
    pub fn choose(&self, choice: DriverChoice) -> Result<(Chosen, String), Refused> {
        match (choice, &self.denial) {
            (DriverChoice::Epoll, _) => Ok((Chosen::Epoll, "epoll was asked for".into())),
            (DriverChoice::Uring, None) => Ok((Chosen::Uring, "uring was asked for".into())),
            (DriverChoice::Uring, Some(denial)) => Err(Refused(denial.clone())),
            (DriverChoice::Auto, None) => {
                Ok((Chosen::Uring, format!("io_uring works on Linux {}", self.kernel)))
            }
            (DriverChoice::Auto, Some(denial)) => {
                Ok((Chosen::Epoll, format!("falling back from io_uring: {denial}")))
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "kernel    Linux {}", self.kernel)?;
        match &self.denial {
            None => writeln!(f, "io_uring  yes")?,
            Some(denial) => writeln!(f, "io_uring  no: {denial}")?,
        }
        for feature in &self.features {
            let word = if feature.available { "yes" } else { "no " };
            write!(f, "  {word}  {}", feature.name)?;
            match (feature.available, feature.required) {
                (true, _) => writeln!(f)?,
                (false, true) => writeln!(f, " (required): {}", feature.advice)?,
                (false, false) => writeln!(f, ": {}", feature.advice)?,
            }
        }
        writeln!(f, "limits")?;
        for limit in &self.limits {
            writeln!(f, "  {} = {}: {}", limit.name, limit.value, limit.advice)?;
        }
        Ok(())
    }
}

/// Tries what the drivers need. Takes about a millisecond and leaves nothing behind.
///
/// A filter may bind single threads: call it on one that is like those that will run the driver.
///
/// ```
/// print!("{}", ringwire::doctor::probe());
/// ```
pub fn probe() -> Report {
    let trial = trial::run();
    let features = features(trial.as_ref().ok());
    let denial = match trial {
        Err(error) => Some(explain(&error, disabled_by_sysctl())),
        Ok(_) => features
            .iter()
            .find(|feature| feature.required && !feature.available)
            .map(|feature| Denial::TooOld(feature.name)),
    };
    Report { kernel: proc("sys/kernel/osrelease"), denial, features, limits: limits() }
}

fn proc(path: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{path}"));
    text.map_or_else(|_| "unknown".into(), |text| text.trim().to_owned())
}

/// The sysctl's value where there is one (Linux 6.6): 0 allows, 1 allows the privileged and one
/// group, 2 allows nobody.
fn disabled_by_sysctl() -> u8 {
    proc("sys/kernel/io_uring_disabled").parse().unwrap_or(0)
}

fn explain(error: &io::Error, sysctl: u8) -> Denial {
    match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) if sysctl > 0 => Denial::Sysctl(sysctl),
        Some(libc::EPERM | libc::EACCES) => Denial::Seccomp,
        Some(libc::ENOSYS) => Denial::NoSystemCall,
        Some(libc::ENOMEM) => Denial::NoMemory,
        Some(libc::EINVAL) => Denial::TooOld("IORING_SETUP_DEFER_TASKRUN or a provided-buffer ring"),
        _ => Denial::Other(error.to_string()),
    }
}

fn features(found: Option<&trial::Found>) -> Vec<Feature> {
    let works = found.is_some();
    let found = found.copied().unwrap_or_default();
    let required = |name, available, advice| Feature { name, available, required: true, advice };
    let optional = |name, available, advice| Feature { name, available, required: false, advice };
    vec![
        required("SINGLE_ISSUER", works, "Linux 6.0"),
        required("DEFER_TASKRUN", works, "Linux 6.1"),
        required("provided-buffer ring", works, "Linux 5.19"),
        required("multishot receive", found.multishot_receive, "Linux 6.0"),
        optional(
            "direct descriptors",
            found.direct_descriptors,
            "Linux 5.19 and a positive RLIMIT_NOFILE; without, plain descriptors are used",
        ),
        optional("multishot accept", found.multishot_accept, "Linux 5.19; not used by the driver"),
        optional(
            "registered ring descriptor",
            found.registered_ring,
            "Linux 5.18; saves time per system call",
        ),
        optional("NO_SQARRAY", found.no_sq_array, "Linux 6.6; saves time per submission"),
        optional(
            "incremental buffers",
            found.incremental_buffers,
            "Linux 6.12; messages share receive buffers, which saves memory and cache",
        ),
        optional("minimal-wait timeout", found.min_wait, "Linux 6.12; not used by the driver"),
        optional("receive bundles", found.receive_bundles, "Linux 6.10; not used by the driver"),
        optional("zero-copy send", found.send_zero_copy, "Linux 6.0; not used by the driver"),
        optional("messages between rings", found.ring_messages, "Linux 5.18; not used by the driver"),
        optional(
            "NAPI busy poll",
            found.napi,
            "Linux 6.9 and CONFIG_NET_RX_BUSY_POLL; not used by the driver",
        ),
    ]
}

fn limits() -> Vec<Limit> {
    let pair = |resource| match sys::rlimit(resource) {
        Ok((soft, hard)) => format!("{} (hard {})", amount(soft), amount(hard)),
        Err(error) => error.to_string(),
    };
    vec![
        Limit {
            name: "RLIMIT_NOFILE",
            value: pair(libc::RLIMIT_NOFILE),
            advice: "plain descriptors per process, and direct ones per ring: `ulimit -n`, LimitNOFILE= in systemd",
        },
        Limit {
            name: "RLIMIT_MEMLOCK",
            value: pair(libc::RLIMIT_MEMLOCK),
            advice: "memory that rings may pin: `ulimit -l`, LimitMEMLOCK= in systemd",
        },
        Limit {
            name: "fs.nr_open",
            value: proc("sys/fs/nr_open"),
            advice: "the highest RLIMIT_NOFILE: sysctl fs.nr_open",
        },
        Limit {
            name: "net.core.somaxconn",
            value: proc("sys/net/core/somaxconn"),
            advice: "connections that may wait to be accepted: sysctl net.core.somaxconn",
        },
    ]
}

fn amount(value: u64) -> String {
    if value == libc::RLIM_INFINITY { "unlimited".into() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denied(error: i32, sysctl: u8) -> Report {
        let denial = Some(explain(&io::Error::from_raw_os_error(error), sysctl));
        Report { kernel: "6.18.0".into(), denial, features: features(None), limits: Vec::new() }
    }

    #[test]
    fn a_denial_is_explained_with_its_next_step() {
        let told = |error, sysctl| denied(error, sysctl).denial.unwrap().to_string();
        assert!(told(libc::EPERM, 2).contains("kernel.io_uring_disabled is 2: set it to 0"));
        assert!(told(libc::EPERM, 1).contains("kernel.io_uring_group"));
        assert!(told(libc::EPERM, 0).contains("seccomp profile"));
        assert!(told(libc::ENOSYS, 0).contains("CONFIG_IO_URING"));
        assert!(told(libc::ENOMEM, 0).contains("ulimit -l"));
        assert!(told(libc::EINVAL, 0).contains("Linux 6.1"));
        assert!(told(libc::EMFILE, 0).contains("Too many open files"));
    }

    #[test]
    fn only_auto_falls_back_and_it_says_why() {
        let report = denied(libc::EPERM, 2);
        let (driver, reason) = report.choose(DriverChoice::Auto).unwrap();
        assert_eq!(driver, Chosen::Epoll);
        assert!(reason.contains("kernel.io_uring_disabled is 2"), "{reason}");
        let refused = report.choose(DriverChoice::Uring).unwrap_err();
        assert_eq!(refused.denial(), &Denial::Sysctl(2));
        assert!(refused.to_string().contains("cannot run here"));
        assert_eq!(report.choose(DriverChoice::Epoll).unwrap().0, Chosen::Epoll);
        let works = Report { denial: None, ..report };
        assert_eq!(works.choose(DriverChoice::Auto).unwrap().0, Chosen::Uring);
    }

    #[test]
    fn the_report_names_what_is_missing_and_how_to_get_it() {
        let text = denied(libc::EPERM, 0).to_string();
        assert!(text.contains("io_uring  no: io_uring_setup is refused"), "{text}");
        assert!(text.contains("no   DEFER_TASKRUN (required): Linux 6.1"), "{text}");
        let text = probe().to_string();
        assert!(text.contains("RLIMIT_NOFILE = "), "{text}");
    }
}
