"""What is counted, not timed: system calls, the share of user mode, and user instructions per message. Each
in runs of its own, since counting slows the server down."""

import json
import re
import shutil
import signal
import subprocess
import time

from .cases import CASES
from .sample import WARMUP_S, Failure, Server, cores_of, load_command
from .servers import BASELINES, SERVERS

SYSCALL_SECONDS = 0.6
PROFILE_SECONDS = 1.2
CALLGRIND_SECONDS = 3
# The processor's counters do not exist on many virtual machines; callgrind counts anywhere.
CALLGRIND = ("valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null")


def tools():
    """What can be counted here, by name: how, or why not."""
    perf = shutil.which("perf") and not subprocess.run(
        ["perf", "stat", "-e", "raw_syscalls:sys_enter", "true"], capture_output=True
    ).returncode
    return {
        "syscalls": "perf stat -e raw_syscalls:sys_enter" if perf else "strace -c" if shutil.which("strace") else None,
        "user share": "perf record -e cpu-clock -F 5000" if perf else None,
        "instructions": "valgrind --tool=callgrind" if shutil.which("valgrind") else None,
    }


def messages(path):
    """Messages of a whole run, or handshakes."""
    (load,) = json.loads(path.read_text())["loads"]
    for part in ("echo", "rate"):
        if load.get(part):
            return load[part]["messages"]
    if load.get("broadcast"):
        return load["broadcast"]["delivered"]
    return load["churn"]["handshakes"]


def syscalls_per_message(name, case_name, options, how, rate=None):
    """Over a whole run, its handshakes included: less than a hundredth in most cases."""
    case = CASES[case_name]
    server = Server(name, case, cores_of(case, options)[0])
    counted = BASELINES / "syscalls.txt"
    counted.unlink(missing_ok=True)
    if how.startswith("perf"):
        counter = ["perf", "stat", "-x,", "-e", "raw_syscalls:sys_enter", "-p", str(server.pid), "-o", str(counted)]
    else:
        counter = ["strace", "-f", "-c", "-o", str(counted), "-p", str(server.pid)]
    attached = subprocess.Popen(counter, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        time.sleep(0.15)
        command, path = load_command(name, case, server, options, SYSCALL_SECONDS, warmup=0, rate=rate)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        attached.send_signal(signal.SIGINT)
        attached.wait(10)
    finally:
        attached.kill()
        attached.wait()
        server.stop()
    if done.returncode not in (0, 3):
        raise Failure(f"{name}, {case_name}, counting system calls:\n{done.stdout}{done.stderr}")
    text = counted.read_text()
    found = re.search(r"^(\d+),", text, re.M) or re.search(r"([\d]+)(?:\s+\d+)?\s+total", text)
    if not found:
        raise Failure(f"{name}, {case_name}: {counter[0]} counted nothing")
    return int(found[1]) / max(1, messages(path))


def user_share(name, case_name, options):
    """The share of samples of the clock in user mode, of 5,000 a second."""
    case = CASES[case_name]
    server = Server(name, case, cores_of(case, options)[0])
    recorded = BASELINES / "profile.data"
    recorded.unlink(missing_ok=True)
    recorder = ["perf", "record", "-q", "-e", "cpu-clock", "-F", "5000", "-p", str(server.pid), "-o", str(recorded)]
    try:
        command, _ = load_command(name, case, server, options, PROFILE_SECONDS)
        load = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(WARMUP_S)
        subprocess.run([*recorder, "--", "sleep", str(PROFILE_SECONDS - 0.2)], capture_output=True, timeout=60)
        load.wait(60)
    finally:
        server.stop()
    script = ["perf", "script", "-i", str(recorded), "-F", "ip"]
    addresses = subprocess.run(script, capture_output=True, text=True).stdout.split()
    if not addresses:
        raise Failure(f"{name}, {case_name}: perf record saw nothing")
    # The upper half of the address space is the kernel's.
    return sum(len(address) < 16 for address in addresses) / len(addresses)


def instructions_per_message(name, case_name, options):
    """User instructions under callgrind: of a run, less those of a run that only opens the connections."""
    case = CASES[case_name]
    connections = next(part for part in case.load if part.startswith("-n"))
    ramp = case._replace(load=["idle", connections, "--hold=0"])
    whole, path = instructions(name, case, options)
    sent = messages(path)
    return (whole - instructions(name, ramp, options)[0]) / max(1, sent)


def instructions(name, case, options):
    """Of a whole process, and where the generator's report stands."""
    log = BASELINES / "callgrind.log"
    prefix = [*CALLGRIND, f"--log-file={log}"]
    server = Server(name, case, cores_of(case, options)[0], prefix, patience_s=30)
    try:
        command, path = load_command(name, case, server, options, CALLGRIND_SECONDS, warmup=0)
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    finally:
        server.stop(signal.SIGTERM)
    found = re.search(r"Collected\s*:\s*(\d+)", log.read_text())
    if done.returncode != 0 or not found:
        raise Failure(f"{name}, under callgrind: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    return int(found[1]), path


def count(results, participants, options, rates, note):
    """Counts into `results.counts`; failures are noted, and leave a gap."""
    how = tools()
    for case_name, names in participants.items():
        case = CASES[case_name]
        for name in names:
            into = results.counts.setdefault(case_name, {}).setdefault(name, {})
            jobs = []
            if how["syscalls"] and case.scenario != "idle":
                rate = rates.get(case_name)
                jobs.append(("syscalls", lambda: syscalls_per_message(name, case_name, options, how["syscalls"], rate)))
            if how["user share"] and case.profiled:
                jobs.append(("user_share", lambda: user_share(name, case_name, options)))
            if how["instructions"] and case.profiled and SERVERS[name].callgrind:
                jobs.append(("instructions", lambda: instructions_per_message(name, case_name, options)))
            for what, job in jobs:
                try:
                    into[what] = round(job(), 4)
                except (Failure, OSError, subprocess.TimeoutExpired) as failure:
                    results.gaps.append(f"{what} of {failure}")
            note(f"{case_name:28} {name:20} {into}")
    return how
