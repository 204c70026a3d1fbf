"""Builds everything that is measured. What cannot be built is named and left out."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

from .servers import BASELINES, PERF, ROOT, TARGET

# Manifests in perf/baselines, by the name that a failure is reported with.
CRATES = ["raw", "ringwire", "tokio-uring", "tungstenite", "tokio-websockets", "fastwebsockets", "yawc", "sockudo", "ntex"]
# Without these there is nothing to compare.
NEEDED = {"raw", "ringwire"}


def build(crates=None):
    """Builds; gives what could not be, with the reason."""
    cargo(ROOT, TARGET, "-p", "ringwire-loadgen")
    cargo(ROOT, TARGET, "--features=cli", "--bin=ringwire")
    jobs = {name: lambda name=name: crate(name) for name in CRATES}
    jobs |= {"uWebSockets": uws, "Boost.Beast": beast, "Node ws": node_ws}
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
    source = PERF / "baselines/uws"
    # AVX2 is for callgrind alone, which knows no AVX-512.
    programs = {
        "uws-echo": ("echo.cpp", "native"),
        "uws-echo-avx2": ("echo.cpp", "x86-64-v3"),
        "uws-topic": ("topic.cpp", "native"),
    }
    programs = {name: how for name, how in programs.items() if not fresh(BASELINES / name, source / how[0])}
    if not programs:
        return
    need("gcc", "g++")
    fetched = subprocess.run(
        ["cargo", "metadata", "--locked", "--format-version=1"], cwd=source, check=True, capture_output=True
    )
    packages = json.loads(fetched.stdout)["packages"]
    manifest = next(p["manifest_path"] for p in packages if p["name"] == "libuwebsockets-sys")
    sources = pathlib.Path(manifest).parent / "uWebSockets"
    for name, (file, architecture) in programs.items():
        uws_program(sources, source / file, BASELINES / name, architecture)


def uws_program(sources, file, program, architecture):
    usockets = sources / "uSockets/src"
    objects = BASELINES / "uws-objects" / architecture
    objects.mkdir(parents=True, exist_ok=True)
    flags = ["-O3", f"-march={architecture}", "-flto=auto", "-DLIBUS_NO_SSL", "-DUWS_NO_ZLIB", "-w", f"-I{usockets}"]
    compiled = []
    for part in sorted([*usockets.glob("*.c"), usockets / "eventing/epoll_kqueue.c"]):
        compiled.append(objects / f"{part.stem}.o")
        subprocess.run(["gcc", *flags, "-c", part, "-o", compiled[-1]], check=True)
    subprocess.run(["g++", "-std=c++20", *flags, f"-I{sources}/src", file, *compiled, "-o", program], check=True)
