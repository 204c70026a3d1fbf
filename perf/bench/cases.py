"""What is measured: the load of each case, and what a server must be able to do to take part."""

import typing

# The open loops run at shares of the capacity that this case measured.
CAPACITY_CASE = "200×20 B"


class Case(typing.NamedTuple):
    load: list  # scenario and options of ringwire-loadgen
    wants: str = "echo"  # what a server has to be able to do
    quick: bool = True  # part of --quick
    share: float | None = None  # open loop: the rate as a share of capacity
    shards: int | None = None  # ringwire on so many cores, the generator on the same ones
    reno: bool = False  # in a network namespace without the host's pacing
    curve: bool = False  # the whole distribution of latencies is kept
    profiled: bool = False  # the user share and user instructions are counted too
    needs: str | None = None  # an option that the generator must have
    tls: bool = False  # within TLS
    least_s: float = 0  # a sample is no shorter, whatever was asked for

    @property
    def scenario(self):
        return self.load[0]


# The 99.9th percentile is to be that of several pauses of a core, and the 99th of 100 messages/s that of some.
OPEN_LOOP_S = 2


def echo(connections, size, *more):
    return ["echo", f"-n{connections}", f"--size={size}", *more]


def to_many(subscribers, size, rate):
    return ["broadcast", f"-n{subscribers}", f"--size={size}", "--binary", f"--rate={rate}", "--arrivals=even"]


def open_loop(load, **more):
    return Case(["rate", "--size=20", *load], wants="WebSocket", curve=True, least_s=OPEN_LOOP_S, **more)


def on_cores(cores, size, *more):
    return Case(echo(200 * cores, size, *more), wants="shards", shards=cores)


def within_tls(load, **more):
    return Case(load, wants="TLS", tls=True, **more)


CASES = {
    "1×20 B": Case(echo(1, 20), curve=True),
    "1×20 B, generator polls": Case(
        echo(1, 20, "--busy-poll-us=200"), wants="WebSocket", curve=True, needs="--busy-poll-us"
    ),
    "200×20 B": Case(echo(200, 20), profiled=True),
    "200×125 B": Case(echo(200, 125)),
    "200×125 B text, CJK": Case(echo(200, 125, "--text", "--cjk"), profiled=True),
    "200×512 B": Case(echo(200, 512)),
    "200×16 KiB": Case(echo(200, 16 << 10)),
    "1×1 MiB": Case(echo(1, 1 << 20)),
    "1×1 MiB, reno": Case(echo(1, 1 << 20), reno=True),
    "200×20 B, 16 deep": Case(echo(200, 20, "--depth=16")),
    "50×20 B, 128 deep": Case(echo(50, 20, "--depth=128"), profiled=True),
    "200×512 B, 16 deep": Case(echo(200, 512, "--depth=16")),
    "200×512 B in 4 frames": Case(echo(200, 512, "--fragments=4"), wants="WebSocket", quick=False),
    "200×1 KiB records, deflate": Case(
        echo(200, 1024, "--text", "--records", "--deflate"), wants="deflate", quick=False
    ),
    "200×20 B at 50 %": open_loop(["-n200"], share=0.5, quick=False),
    "200×20 B at 80 %": open_loop(["-n200"], share=0.8),
    "1×20 B, 100/s": open_loop(["-n1", "--rate=100", "--max-send-lag=1s"], quick=False),
    "handshakes": Case(["churn", "-n64", "--source=127.0.0.0/8"], wants="handshake"),
    "idle 1,000": Case(["idle", "-n1000", "--echo-once", "--hold=1", "--size=20"], wants="idle", quick=False),
    "idle 9,000": Case(["idle", "-n9000", "--echo-once", "--hold=1", "--size=20"], wants="idle"),
    "idle 1,000, subscribed": Case(["idle", "-n1000", "--hold=2"], wants="topic", quick=False),
    "idle 9,000, subscribed": Case(["idle", "-n9000", "--hold=2"], wants="topic", quick=False),
    "100 B to 5,000": Case(to_many(5000, 100, 6), wants="topic"),
    "4 KiB to 5,000": Case(to_many(5000, 4096, 6), wants="topic"),
    "200×20 B, TLS": within_tls(echo(200, 20)),
    "200×20 B, 16 deep, TLS": within_tls(echo(200, 20, "--depth=16")),
    "200×16 KiB, TLS": within_tls(echo(200, 16 << 10)),
    "handshakes, TLS": within_tls(["churn", "-n64", "--source=127.0.0.0/8"]),
    "idle 9,000, TLS": within_tls(["idle", "-n9000", "--echo-once", "--hold=1", "--size=20"], quick=False),
    "200×20 B, one core": on_cores(1, 20),
    "400×20 B, two cores": on_cores(2, 20),
    "200×20 B, 16 deep, one core": on_cores(1, 20, "--depth=16"),
    "400×20 B, 16 deep, two cores": on_cores(2, 20, "--depth=16"),
}

# Pairs of which the second has twice the cores.
SCALING = [
    ("200×20 B, one core", "400×20 B, two cores"),
    ("200×20 B, 16 deep, one core", "400×20 B, 16 deep, two cores"),
]
