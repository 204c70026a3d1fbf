"""One sample: a fresh server on its core, one run of the generator on the other, and what was measured."""

import itertools
import json
import os
import resource
import signal
import socket
import subprocess
import time

from .answers import AnswerFault, answer_bytes
from .cases import CASES
from .cores import are_apart
from .host import busy_s, cpu_s, resident_bytes
from .servers import BASELINES, LOADGEN, SERVERS

# Each server gets the next one: the listener of a killed io_uring process lives on for a moment.
PORTS = itertools.cycle(range(20_000, 21_000))
WARMUP_S = 0.4


class Failure(Exception):
    """A sample that could not be taken, or whose answers were wrong. The rest of the run goes on."""


class Server:
    """A server process on its core, listening."""

    def __init__(self, name, case, cores, prefix=(), patience_s=10):
        self.port = next(PORTS)
        start = SERVERS[name].callgrind if prefix else SERVERS[name].command
        command = [str(part) for part in [*prefix, *start(case, self.port)]]

        def prepare():
            os.sched_setaffinity(0, cores)
            hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

        self.process = subprocess.Popen(
            command,
            preexec_fn=prepare,
            env={**os.environ, **SERVERS[name].environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + patience_s
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self.process.poll() is not None:
                    self.stop()
                    raise Failure(f"{name} does not listen: {' '.join(command)}") from None
                time.sleep(0.02)

    @property
    def pid(self):
        return self.process.pid

    def stop(self, with_signal=signal.SIGKILL):
        """Ends it, by force in the end."""
        self.process.send_signal(with_signal)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def cores_of(case, options):
    """The server's cores and the generator's."""
    if case.shards:
        shared = [options.core_server, options.core_load][: case.shards]
        return set(shared), shared
    return {options.core_server}, [options.core_load]


def load_command(name, case, server, options, seconds, warmup=WARMUP_S, rate=None):
    """The generator's command line, and where it writes its report."""
    path = BASELINES / "sample.json"
    path.unlink(missing_ok=True)
    scenario, *arguments = case.load
    if scenario != "idle":
        arguments += [f"--duration={seconds}", f"--warmup={warmup}"]
    if rate:
        arguments.append(f"--rate={rate:.0f}")
    if SERVERS[name].bare:
        arguments.append("--raw")
    _, cores = cores_of(case, options)
    if case.tls:
        arguments.append("--insecure")
    arguments += ["--quiet", f"--json={path}", f"--cores={','.join(map(str, cores))}", f"--pid={server.pid}"]
    url = f"{'wss' if case.tls else 'ws'}://127.0.0.1:{server.port}/"
    return [str(LOADGEN), scenario, url, *arguments], path


def read_report(path, curve):
    """The generator's report on its one load, without its course and, but for `curve`, without histograms."""
    text = path.read_text() if path.exists() else ""
    if not text:
        return None
    report = json.loads(text)
    (load,) = report["loads"]
    load["series"] = []
    load["ramp"]["latency"].pop("hdr", None)
    for part in ("echo", "rate", "idle", "broadcast", "churn"):
        kept = load.get(part) or {}
        for of in ("send_lag", "first", "median", "last"):
            kept.get(of, {}).pop("hdr", None)
        if not curve:
            kept.get("latency", {}).pop("hdr", None)
    return {"host": report["host"], **load}


def sample(name, case_name, options, rate=None):
    """One run of the generator against a fresh server: its report, and the share of the cores that others used."""
    case = CASES[case_name]
    server_cores, load_cores = cores_of(case, options)
    cores = server_cores | set(load_cores)
    extra = {}
    server = Server(name, case, server_cores)
    try:
        if case.wants == "deflate":
            try:
                extra["answer_bytes"] = answer_bytes(server.port)
            except AnswerFault as fault:
                raise Failure(f"{name}, {case_name}: {fault}") from fault
        seconds = max(options.seconds, case.least_s)
        command, path = load_command(name, case, server, options, seconds, rate=rate)
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        began, busy, own = time.monotonic(), busy_s(cores), cpu_s(server.pid)
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
        took, busy, own = time.monotonic() - began, busy_s(cores) - busy, cpu_s(server.pid) - own
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        if server.process.poll() is None:
            extra["resident_bytes"] = resident_bytes(server.pid)
    finally:
        server.stop()
    report = read_report(path, case.curve)
    if report and (done.returncode == 3 or done.returncode < 2 and starved(report)):
        # Late or starved: the host was busy, or the rate too high for the generator.
        return {**report, **extra, "others_share": 1}
    if done.returncode != 0 or not report:
        raise Failure(f"{name}, {case_name}: exit code {done.returncode}\n{done.stdout}{done.stderr}")
    own += after.ru_utime + after.ru_stime - children.ru_utime - children.ru_stime
    return {**report, **extra, "others_share": round(max(0, busy - own) / (len(cores) * took), 4)}


def starved(report):
    """Nothing is wrong but that nothing came: the server or the generator was not let run."""
    counts = [value for value in report["errors"].values() if isinstance(value, int)]
    part = report.get("echo") or report.get("rate") or report.get("broadcast")
    came = part and part.get("messages", part.get("delivered"))
    return sum(counts) == 0 and bool(part) and (came == 0 or not report["cpu"]["server_ns_per_message"])


def sample_at_distance(name, case_name, options, rate):
    """A sample with its cores near each other, as far as they would be waited for. Memory has no use for that."""
    if CASES[case_name].scenario == "idle":
        return sample(name, case_name, options, rate)
    before_ns = options.cores.wait()
    one = sample(name, case_name, options, rate)
    after_ns = options.cores.distance_ns()
    return {**one, "core_distance_ns": max(before_ns, after_ns), "core_pace_ps": options.cores.pace_ps()}


def quiet_sample(name, case_name, options, rate=None):
    """The first undisturbed sample, or the least disturbed of a few."""

    def is_apart(one):
        return are_apart(one.get("core_distance_ns", 0), options.cores.usual_ns)

    samples = []
    # An open loop is not valid if the generator was late: that takes less to happen than a disturbed closed loop.
    for number in range(2 * options.tries if rate else options.tries):
        samples.append(sample_at_distance(name, case_name, options, rate))
        # Cores that are apart may be for long: that is tried once more.
        if samples[-1]["others_share"] <= options.max_others and (number > 0 or not is_apart(samples[-1])):
            break
    best = min(samples, key=lambda one: (one["others_share"] == 1, is_apart(one), one["others_share"]))
    if best["others_share"] == 1:
        notes = "; ".join(best["errors"]["notes"])
        raise Failure(f"{name}, {case_name}: no good sample in {len(samples)} tries: {notes}")
    return {**best, "tries": len(samples)}
