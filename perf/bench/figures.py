"""The figures of a cell: from samples to medians, with minimum and maximum."""

import dataclasses
import statistics
import typing

from .cases import CASES
from .cores import are_apart
from .servers import CEILINGS

# A cell of so many samples with the cores near each other does without the others.
ENOUGH = 3


def part(sample):
    """What the scenario measured."""
    return next(sample[name] for name in ("echo", "rate", "broadcast", "churn", "idle") if sample.get(name))


def cpu(key):
    return lambda sample: sample["cpu"][key]


def latency(key):
    return lambda sample: part(sample)["latency"][key] / 1e3


def last(sample):
    return sample["broadcast"]["last"]["p50_ns"] / 1e3


def per_s(sample):
    of = part(sample)
    return of.get("messages_per_s") or of.get("delivered_per_s") or of.get("handshakes_per_s")


def memory(key):
    return lambda sample: sample["memory"][key]


class Figure(typing.NamedTuple):
    label: str
    of: typing.Callable  # of a sample
    scenarios: frozenset
    middle: typing.Callable = statistics.median


LOADS = frozenset({"echo", "rate", "broadcast", "churn"})
IDLE = frozenset({"idle"})
FIGURES = {
    "cpu": Figure("CPU time of the server per message, ns", cpu("server_ns_per_message"), LOADS),
    "user": Figure(
        "The user part of it, ns (split by the clock's ticks, coarse: mean)", cpu("server_user_ns_per_message"), LOADS, statistics.mean
    ),
    "system": Figure("The system part of it, ns", cpu("server_system_ns_per_message"), LOADS, statistics.mean),
    "per_s": Figure("Messages per second (handshakes, where there are none)", per_s, LOADS),
    "p50": Figure("Latency, median, µs", latency("p50_ns"), LOADS),
    "p99": Figure("Latency, 99th percentile, µs", latency("p99_ns"), LOADS),
    "p999": Figure("Latency, 99.9th percentile, µs", latency("p999_ns"), LOADS),
    "last": Figure("Time from publishing a message to its last delivery, median, µs", last, frozenset({"broadcast"})),
    "generator": Figure("CPU time of the generator per message, ns", cpu("own_ns_per_message"), LOADS),
    "resident": Figure("Resident memory of the server after the load, MiB", lambda s: s["resident_bytes"] / 2**20, LOADS),
    "idle": Figure("Growth of resident memory per idle connection, bytes", memory("rss_bytes_per_connection"), IDLE),
    "idle_held": Figure(
        "Resident memory with all connections idle, KiB", lambda sample: sample["memory"]["held"]["rss"] / 1024, IDLE
    ),
    "idle_kernel": Figure(
        "Growth of the kernel's slab per idle connection, both ends, bytes", memory("kernel_bytes_per_connection"), IDLE
    ),
    "idle_cpus": Figure("CPUs used while all connections are silent", cpu("server_cpus"), IDLE),
}
COUNTS = {
    "user_share": "Share of user mode in the server's CPU time (5,000 samples a second)",
    "syscalls": "System calls per message",
    "instructions": "User instructions per message (callgrind)",
}


class Spread(typing.NamedTuple):
    median: float
    low: float
    high: float
    count: int

    @property
    def relative(self):
        """From the lowest to the highest, of the median."""
        return (self.high - self.low) / self.median if self.median else 0


@dataclasses.dataclass
class Results:
    """Everything that a run measured."""

    head: dict
    samples: dict = dataclasses.field(default_factory=dict)  # by case and server: a list
    counts: dict = dataclasses.field(default_factory=dict)  # by case and server: by name of COUNTS
    rates: dict = dataclasses.field(default_factory=dict)  # messages per second of the open loops, by case
    gaps: list = dataclasses.field(default_factory=list)  # what could not be measured, in words

    def spread(self, case, server, key):
        """The figure of a cell, or nothing if it was not measured."""
        figure = FIGURES[key]
        if CASES[case].scenario not in figure.scenarios:
            return None
        values = [figure.of(one) for one in self.valid(case, server)]
        values = [value for value in values if value is not None]
        return Spread(figure.middle(values), min(values), max(values), len(values)) if values else None

    def is_apart(self, sample):
        """Whether the two cores were far apart, as far as that was measured."""
        return are_apart(sample.get("core_distance_ns", 0), self.head.get("core_distance_ns", float("inf")))

    def valid(self, case, server):
        """The samples that count: those with the cores near each other, if they are enough."""
        samples = self.samples.get(case, {}).get(server, [])
        near = [one for one in samples if not self.is_apart(one)]
        return near if len(near) >= ENOUGH else samples

    def median(self, case, server, key):
        if key in COUNTS:
            return self.counts.get(case, {}).get(server, {}).get(key)
        spread = self.spread(case, server, key)
        return spread and spread.median

    def user_ns(self, case, server):
        """User time per message: from the profile's share, or from the ticks if there is none."""
        share, cpu_ns = self.median(case, server, "user_share"), self.median(case, server, "cpu")
        if share is None or cpu_ns is None:
            return self.median(case, server, "user")
        return share * cpu_ns

    def cells(self, case, key, servers=None):
        """Medians by server, of those that were measured."""
        names = servers if servers is not None else self.samples.get(case, {})
        found = {name: self.median(case, name, key) for name in names}
        return {name: value for name, value in found.items() if value is not None}

    def ceiling(self, case, key="cpu"):
        """The better of the bare loops."""
        return min(self.cells(case, key, CEILINGS).values(), default=None)

    def servers(self):
        """All that were measured, in the order of the run."""
        return list(dict.fromkeys(name for servers in self.samples.values() for name in servers if servers[name]))

    def all_samples(self):
        return [one for servers in self.samples.values() for samples in servers.values() for one in samples]


def primary(case):
    """The figure by which servers are compared in a case."""
    return "idle" if CASES[case].scenario == "idle" else "cpu"


def number(value):
    """As a table shows it: three digits or more, of everything."""
    if value is None:
        return "–"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = 1 if abs(value) >= 10 else 2 if abs(value) >= 1 else 3
    return f"{value:.{digits}f}"
