"""Who is measured: how each server is started, and what it takes part in."""

import os
import pathlib
import shutil
import subprocess
import typing

PERF = pathlib.Path(__file__).resolve().parents[1]
ROOT = PERF.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
BASELINES = TARGET / "baselines"
# ECDSA on P-256, the same for all who speak TLS.
CERT, KEY = BASELINES / "tls.cert.pem", BASELINES / "tls.key.pem"
LOADGEN = TARGET / "release/ringwire-loadgen"
RINGWIRE = TARGET / "release/ringwire"

# Reads before it sleeps: the option of `ringwire serve`, and what it is set to here.
BUSY_POLL, BUSY_POLL_US = "--busy-poll-us", 200


class Peer(typing.NamedTuple):
    command: typing.Callable  # of case and port: the command line
    can: frozenset
    quick: bool = False  # part of --quick
    bare: bool = False  # TCP without WebSocket
    program: pathlib.Path | None = None  # what must have been built
    environment: dict = {}
    unable: dict = {}  # cases that it cannot do, and why
    callgrind: typing.Callable | None = None  # the command line under valgrind: no io_uring, no AVX-512

    def takes_part(self, case):
        return case.wants in self.can


BARE = frozenset({"echo", "idle"})
WEBSOCKET = frozenset({"echo", "WebSocket", "idle", "handshake"})


def baseline(name, *arguments, can=WEBSOCKET, **more):
    """A program of perf/baselines whose port stands behind its first argument, or is its only one."""
    program = BASELINES / "release" / name

    def command(case, port):
        return [program, *arguments[:1], port, *arguments[1:]]

    return Peer(command, can, program=program, callgrind=None if "uring" in arguments else command, **more)


def topic(case):
    return ["topic"] if case.wants == "topic" else []


def ringwire(driver):
    program = BASELINES / "release/baseline-ringwire"

    def command(case, port):
        cores = [",".join(map(str, range(case.shards)))] if case.shards else []
        return [program, driver, port, *cores, *topic(case)]

    callgrind = command if driver == "epoll" else None
    return Peer(command, WEBSOCKET | {"deflate", "shards", "topic"}, quick=True, program=program, callgrind=callgrind)


def within_tls(program, *arguments, **more):
    """A server that speaks TLS, whose port stands before the certificate and its key."""
    return Peer(
        lambda case, port: [program, *arguments, port, CERT, KEY], frozenset({"TLS"}), quick=True, program=program, **more
    )


def ringwire_tls(driver):
    program = BASELINES / "release/baseline-ringwire"
    command = lambda case, port: [program, driver, port, "tls", CERT, KEY]  # noqa: E731
    return Peer(command, frozenset({"TLS"}), quick=True, program=program)


def serve(*more, can):
    def command(case, port):
        compress = ["--compress"] if case.wants == "deflate" else []
        return [RINGWIRE, "serve", f"--listen=127.0.0.1:{port}", "--shards=1", "--cores=1", *compress, *more]

    return Peer(command, frozenset(can), program=RINGWIRE)


def tungstenite(case, port):
    # Its documentation advises a small read buffer for many connections, a large one for throughput.
    buffer_bytes = 4096 if case.scenario in ("idle", "broadcast") else 131072
    return [BASELINES / "release/baseline-tungstenite", port, buffer_bytes, *topic(case)]


def uws(case, port):
    return [BASELINES / ("uws-topic" if case.wants == "topic" else "uws-echo"), port]


def tungstenite_tls(case, port):
    buffer_bytes = 4096 if case.scenario == "idle" else 131072
    return [BASELINES / "release/baseline-tungstenite-tls", port, CERT, KEY, buffer_bytes]


# mimalloc asks for huge pages, and 2 MiB steps would be all that one sees of a peer's idle connections.
SMALL_PAGES = {"MIMALLOC_ALLOW_THP": "0"}

# `ringwire serve` is what the README starts; the two before it are the library alone, with the system's allocator.
SERVERS = {
    "raw epoll": baseline("baseline-raw", "epoll", can=BARE, bare=True, quick=True),
    "raw io_uring": baseline("baseline-raw", "uring", "1024", "65536", can=BARE, bare=True, quick=True),
    "raw handshake": baseline("baseline-raw", "handshake", can=frozenset({"handshake"}), quick=True),
    "raw fan-out epoll": baseline("baseline-raw", "fanout-epoll", can=frozenset({"topic"}), quick=True),
    "raw fan-out io_uring": baseline("baseline-raw", "fanout-uring", can=frozenset({"topic"}), quick=True),
    "ringwire io_uring": ringwire("uring"),
    "ringwire epoll": ringwire("epoll"),
    "ringwire serve": serve(can=WEBSOCKET | {"deflate"}),
    "ringwire codec on tokio-uring": baseline("baseline-tokio-uring"),
    "ringwire polling": serve(f"{BUSY_POLL}={BUSY_POLL_US}", can={"echo", "WebSocket", "idle"})._replace(quick=True),
    "uWebSockets": Peer(
        uws,
        WEBSOCKET | {"topic"},
        quick=True,
        program=BASELINES / "uws-echo",
        callgrind=lambda case, port: [BASELINES / "uws-echo-avx2", port],
    ),
    "tokio-tungstenite": Peer(
        tungstenite,
        WEBSOCKET | {"topic"},
        quick=True,
        program=BASELINES / "release/baseline-tungstenite",
        environment=SMALL_PAGES,
    ),
    "tokio-websockets": baseline("baseline-tokio-websockets", environment=SMALL_PAGES),
    "fastwebsockets": baseline("baseline-fastwebsockets"),
    "yawc": baseline("baseline-yawc", can=WEBSOCKET | {"deflate"}, environment=SMALL_PAGES),
    "sockudo-ws": baseline("baseline-sockudo", "tokio", can=WEBSOCKET | {"deflate"}, environment=SMALL_PAGES),
    "sockudo-ws io_uring": baseline("baseline-sockudo", "uring", environment=SMALL_PAGES),
    "ntex io_uring": baseline("baseline-ntex", unable=dict.fromkeys(["1×1 MiB", "1×1 MiB, reno"], "no frame beyond 64 KiB")),
    "Boost.Beast": Peer(
        lambda case, port: [BASELINES / "beast-echo", port], WEBSOCKET, program=BASELINES / "beast-echo"
    ),
    "Node ws": Peer(
        lambda case, port: ["node", BASELINES / "node-ws/echo.cjs", port],
        WEBSOCKET | {"deflate"},
        program=BASELINES / "node-ws/node_modules/ws",
    ),
    "ringwire io_uring TLS": ringwire_tls("uring"),
    "ringwire epoll TLS": ringwire_tls("epoll"),
    "uWebSockets OpenSSL": within_tls(BASELINES / "uws-echo-tls"),
    "tokio-tungstenite rustls": within_tls(BASELINES / "release/baseline-tungstenite-tls")._replace(
        command=tungstenite_tls, environment=SMALL_PAGES
    ),
    # uWebSockets with OpenSSL as well, whose callbacks are Python's.
    "socketify (Python) OpenSSL": within_tls(
        BASELINES / "socketify/bin/python", PERF / "baselines/socketify/echo.py"
    )._replace(program=BASELINES / "socketify/ready"),
}

CEILINGS = [name for name in SERVERS if name.startswith("raw")]
OURS = [name for name in SERVERS if name.startswith("ringwire")]
PEERS = [name for name in SERVERS if name not in CEILINGS + OURS]
TLS_PEERS = [name for name in PEERS if "TLS" in SERVERS[name].can]
NOT_RUST = ("uWebSockets", "Boost.Beast", "Node ws", "uWebSockets OpenSSL", "socketify (Python) OpenSSL")
RUST_PEERS = [name for name in PEERS if name not in NOT_RUST]


def has_option(command, option):
    run = subprocess.run([*command, "--help"], capture_output=True, text=True)
    return option in run.stdout


def missing(name):
    """Why a server cannot be measured, or nothing."""
    peer = SERVERS[name]
    if peer.program and not peer.program.exists():
        return "not built"
    if name == "ringwire polling" and not has_option([RINGWIRE, "serve"], BUSY_POLL):
        return f"`ringwire serve` has no {BUSY_POLL}"
    if name == "Node ws" and not shutil.which("node"):
        return "no node"
    return None
