"""Builds everything that is measured. What cannot be built is named and left out."""

import ctypes.util
import json
import os
import pathlib
import shutil
import subprocess
import sys

from .servers import BASELINES, CERT, KEY, PERF, ROOT, TARGET

# Manifests in perf/baselines, by the name that a failure is reported with.
CRATES = ["raw", "ringwire", "tokio-uring", "tungstenite", "tungstenite-tls", "tokio-websockets", "fastwebsockets", "yawc", "sockudo", "ntex"]
# Without these there is nothing to compare.
NEEDED = {"raw", "ringwire"}


def build(crates=None):
    """Builds; gives what could not be, with the reason."""
    cargo(ROOT, TARGET, "-p", "ringwire-loadgen")
    cargo(ROOT, TARGET, "--features=cli", "--bin=ringwire")
    jobs = {name: lambda name=name: crate(name) for name in CRATES}
    jobs |= {"certificate": certificate, "uWebSockets": uws, "uWebSockets OpenSSL": uws_tls, "socketify": socketify}
    jobs |= {"Boost.Beast": beast, "Node ws": node_ws}
    failed = {}
    for name, job in jobs.items():
        if crates is not None and name not in crates:
            continue
        try:
            job()
        except (OSError, subprocess.CalledProcessError, Unavailable) as why:
            if name in NEEDED:
                raise
            failed[name] = str(why)
            print(f"perf/run: {name} is left out: {why}", file=sys.stderr, flush=True)
    return failed


class Unavailable(Exception):
    """A tool that a baseline needs is not here."""


def need(*tools):
    for tool in tools:
        if not shutil.which(tool):
            raise Unavailable(f"no {tool}")


def cargo(directory, target, *arguments):
    subprocess.run(
        ["cargo", "build", "-q", "--release", f"-j{os.environ.get('JOBS', '2')}", *arguments],
        cwd=directory,
        env={**os.environ, "CARGO_TARGET_DIR": str(target)},
        check=True,
    )


def crate(name):
    # ringwire's own version stands in the lock file of its baseline, and may have moved on.
    own = (PERF / "baselines" / name / "Cargo.toml").read_text().count("../../..")
    cargo(PERF / "baselines" / name, BASELINES, *([] if own else ["--locked"]))


def certificate():
    """Makes what all who speak TLS show."""
    if KEY.exists():
        return
    need("openssl")
    BASELINES.mkdir(parents=True, exist_ok=True)
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3650"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    made = ["-keyout", KEY, "-out", CERT]
    subprocess.run(["openssl", "req", "-x509", *kind, *names, *made], check=True, stderr=subprocess.DEVNULL)


def socketify():
    """Installs Python's wrapper of uWebSockets, which comes compiled, into an environment of its own."""
    if not ctypes.util.find_library("uv"):
        raise Unavailable("no libuv (Debian: libuv1)")
    pins, place = PERF / "baselines/socketify/requirements.txt", BASELINES / "socketify"
    if fresh(place / "ready", pins):
        return
    subprocess.run([sys.executable, "-m", "venv", place], check=True)
    pip = [place / "bin/python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "-r", pins], check=True)
    (place / "ready").touch()


def node_ws():
    """Installs Node's ws beside a copy of its program. bufferutil comes compiled, no script has to run."""
    need("node", "npm")
    shutil.copytree(PERF / "baselines/node-ws", BASELINES / "node-ws", dirs_exist_ok=True)
    quiet = ["--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(["npm", "ci", *quiet], cwd=BASELINES / "node-ws", check=True, stdout=subprocess.DEVNULL)


def beast():
    program, source = BASELINES / "beast-echo", PERF / "baselines/beast/echo.cpp"
    if fresh(program, source):
        return
    need("g++")
    if not pathlib.Path("/usr/include/boost/beast.hpp").exists():
        raise Unavailable("no headers of Boost (Debian: libboost-dev)")
    flags = ["-std=c++17", "-O3", "-march=native", "-w", "-DBOOST_ASIO_DISABLE_THREADS"]
    subprocess.run(["g++", *flags, source, "-o", program, "-lpthread"], check=True)


def fresh(program, source):
    return program.exists() and program.stat().st_mtime > source.stat().st_mtime


def uws():
    """Compiles uWebSockets' sources, which cargo has fetched inside of a crate."""
    # The second is for callgrind alone, which knows no AVX-512.
    programs = {
        "uws-echo": ("echo.cpp", "native"),
        "uws-echo-avx2": ("echo.cpp", "x86-64-v3"),
        "uws-topic": ("topic.cpp", "native"),
    }
    for name, (file, architecture) in programs.items():
        uws_program(name, file, architecture, ["-DLIBUS_NO_SSL"], [], [])


def uws_tls():
    """The same with the system's OpenSSL."""
    if not pathlib.Path("/usr/include/openssl/ssl.h").exists():
        raise Unavailable("no headers of OpenSSL (Debian: libssl-dev)")
    crypto = ["crypto/openssl.c", "crypto/sni_tree.cpp"]
    uws_program("uws-echo-tls", "echo.cpp", "native", ["-DLIBUS_USE_OPENSSL"], crypto, ["-lssl", "-lcrypto"])


def uws_sources():
    fetched = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version=1"],
        cwd=PERF / "baselines/uws",
        check=True,
        capture_output=True,
    )
    packages = json.loads(fetched.stdout)["packages"]
    manifest = next(p["manifest_path"] for p in packages if p["name"] == "libuwebsockets-sys")
    return pathlib.Path(manifest).parent / "uWebSockets"


def uws_program(name, file, architecture, defines, more, libraries):
    program, source = BASELINES / name, PERF / "baselines/uws" / file
    if fresh(program, source):
        return
    need("gcc", "g++")
    sources = uws_sources()
    usockets = sources / "uSockets/src"
    objects = BASELINES / "uws-objects" / name
    objects.mkdir(parents=True, exist_ok=True)
    flags = ["-O3", f"-march={architecture}", "-flto=auto", "-DUWS_NO_ZLIB", *defines, "-w", f"-I{usockets}"]
    compiled = []
    files = [*usockets.glob("*.c"), usockets / "eventing/epoll_kqueue.c", *(usockets / file for file in more)]
    for part in sorted(files):
        compiled.append(objects / f"{part.stem}.o")
        compiler = ["g++", "-std=c++20"] if part.suffix == ".cpp" else ["gcc"]
        subprocess.run([*compiler, *flags, "-c", part, "-o", compiled[-1]], check=True)
    link = [source, *compiled, "-o", program, *libraries]
    subprocess.run(["g++", "-std=c++20", *flags, f"-I{sources}/src", *link], check=True)
