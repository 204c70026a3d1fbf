//! A real seccomp filter denies io_uring, as container runtimes do, and the probe says so.
#![allow(unsafe_code, reason = "installs a seccomp filter on a thread of its own")]

use std::thread;

use super::super::probe::{Chosen, Denial, choose};
use super::super::uring::Uring;
use super::{config, io};
use crate::config::DriverChoice;

/// Lets every system call of this thread pass, but for io_uring_setup, which fails with `errno`.
fn deny_uring(errno: i32) {
    let step = |code: u32, jt, jf, k| libc::sock_filter { code: code as u16, jt, jf, k };
    let mut filter = [
        // The number of the call is the first word of struct seccomp_data.
        step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, 0),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, libc::SYS_io_uring_setup as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ERRNO | errno as u32),
        step(libc::BPF_RET | libc::BPF_K, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: takes no memory.
    assert_eq!(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }, 0);
    // SAFETY: `program` and `filter` live across the call, which copies them.
    let result = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(result, 0, "{}", io::Error::last_os_error());
}

#[test]
fn a_seccomp_filter_is_found_out() {
    for (errno, denial) in [(libc::EPERM, Denial::Seccomp), (libc::ENOSYS, Denial::NoSystemCall)] {
        thread::spawn(move || {
            deny_uring(errno);
            let (driver, reason) = choose(DriverChoice::Auto).unwrap();
            assert_eq!(driver, Chosen::Epoll);
            assert!(reason.contains("seccomp"), "{reason}");
            assert_eq!(choose(DriverChoice::Uring).unwrap_err().denial(), &denial);
            let error = Uring::new(&config(), Vec::new()).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(errno));
        })
        .join()
        .unwrap();
    }
    // Other threads are not concerned.
    assert_eq!(choose(DriverChoice::Auto).unwrap().0, Chosen::Uring);
}
