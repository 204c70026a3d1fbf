"""What Linux is asked for: CPU time, the share of others, memory, and a network without the host's pacing."""

import contextlib
import ctypes
import fcntl
import glob
import os
import pathlib
import re
import socket
import struct
import subprocess

from .servers import ROOT

CLONE_NEWNET = 0x4000_0000
SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_UP = 0x8913, 0x8914, 1


def cpu_s(pid):
    """CPU time of all threads of a process, as the scheduler accounts them."""
    total = 0
    for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
        with contextlib.suppress(OSError):
            total += int(pathlib.Path(path).read_text().split()[0])
    return total / 1e9


def busy_s(cores):
    """Seconds that the cores did not idle, time stolen by the hypervisor included."""
    total = 0
    names = {f"cpu{core}" for core in cores}
    for line in pathlib.Path("/proc/stat").read_text().splitlines():
        name, *ticks = line.split()
        if name in names:
            user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, ticks[:8])
            total += user + nice + system + irq + softirq + steal
    return total / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid):
    """Resident memory now."""
    status = pathlib.Path(f"/proc/{pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024


def commit():
    run = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True)
    return run.stdout.strip() or "unknown"


class Network:
    """A network namespace with nothing but loopback, under another congestion control; ours to go back to.

    Children that are started inside are in it. Making one wants root.
    """

    def __init__(self, congestion_control):
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.outside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        if self.libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "a network namespace cannot be made")
        try:
            self.inside = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                asked = struct.pack("16sH14x", b"lo", 0)
                flags = struct.unpack("16sH14x", fcntl.ioctl(any_socket, SIOCGIFFLAGS, asked))[1]
                fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | IFF_UP))
            # Of the namespace of whoever opens it.
            pathlib.Path("/proc/sys/net/ipv4/tcp_congestion_control").write_text(congestion_control)
        finally:
            self.enter(self.outside)

    def enter(self, namespace):
        if self.libc.setns(namespace, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")

    def __enter__(self):
        self.enter(self.inside)

    def __exit__(self, *_):
        self.enter(self.outside)
