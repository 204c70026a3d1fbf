"""Python's `websockets` against a running `ringwire serve`, run with
`--max-message-bytes 16777216 --idle-ms 400 --pong-ms 3000`.

    python peer.py http://127.0.0.1:PORT PID [compressed]

The server runs with `--compress` if `compressed` is said. The last check ends the server (PID) with SIGTERM.
"""

import asyncio
import os
import signal
import sys
import traceback
import urllib.error
import urllib.request

import websockets
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

BASE, PID = sys.argv[1], int(sys.argv[2])
COMPRESSED = sys.argv[3:] == ["compressed"]
URL = BASE.replace("http", "ws", 1) + "/echo"
MAX_MESSAGE_BYTES = 16 << 20
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def client(**options):
    options.setdefault("max_size", None)
    return connect(URL, proxy=None, **options)


async def echo(ws, message):
    await ws.send(message)
    answer = await ws.recv()
    assert type(answer) is type(message) and answer == message, f"{len(answer)} bytes came back"


async def end(ws):
    """How the connection ended: the code and reason of the server's Close frame."""
    try:
        while True:
            await ws.recv()
    except ConnectionClosed as closed:
        assert closed.rcvd is not None, f"no Close frame: {closed}"
        return closed.rcvd.code, closed.rcvd.reason


@check
async def text():
    async with client() as ws:
        await echo(ws, "Hello, Wörld! 你好 👋")


@check
async def binary():
    async with client() as ws:
        for size in (1, 125, 126, 65_535, 65_536, 1 << 20):
            await echo(ws, os.urandom(size))


@check
async def empty():
    async with client() as ws:
        await echo(ws, "")
        await echo(ws, b"")


@check
async def a_message_of_16_mib():
    async with client() as ws:
        await echo(ws, os.urandom(MAX_MESSAGE_BYTES))


@check
async def fragments():
    async with client() as ws:
        await ws.send(["frag", "", "ments ", "ünd", " 👋"])
        assert await ws.recv() == "fragments ünd 👋"
        await ws.send([b"\x00", b"\xff" * 70_000, b""])
        assert await ws.recv() == b"\x00" + b"\xff" * 70_000


@check
async def our_ping_its_pong():
    async with client(ping_interval=None) as ws:
        for payload in (b"", b"tick", os.urandom(125)):
            await asyncio.wait_for(await ws.ping(payload), 5)


@check
async def its_ping_our_pong():
    async with client(ping_interval=None) as ws:
        # The second one comes only if the pong to the first was taken for a sign of life.
        before = metric("ringwire_pings_sent_total")
        async with asyncio.timeout(9):
            while metric("ringwire_pings_sent_total") < before + 2:
                await asyncio.sleep(0.2)
        await echo(ws, "still here")


@check
async def two_hundred_connections_at_once():
    async def talk(index):
        async with client() as ws:
            await barrier.wait()
            messages = [f"{index}/{n} " + "x" * (n * 37) for n in range(20)]
            for message in messages:
                await ws.send(message)
            assert [await ws.recv() for _ in messages] == messages

    barrier = asyncio.Barrier(200)
    await asyncio.gather(*(talk(index) for index in range(200)))


@check
async def close_codes_come_back():
    for code, reason in ((1000, ""), (4001, "that is all")):
        ws = await client()
        await ws.close(code, reason)
        assert ws.protocol.close_rcvd.code == code


@check
async def compression_offered():
    async with client(compression="deflate") as ws:
        assert "Sec-WebSocket-Extensions" in ws.request.headers
        assert ("Sec-WebSocket-Extensions" in ws.response.headers) == COMPRESSED
        for size in (0, 1, 10_000, 1 << 20):
            await echo(ws, "äbc" * size)
    async with client(compression=None) as ws:
        assert "Sec-WebSocket-Extensions" not in ws.response.headers
        await echo(ws, "a" * 10_000)


@check
async def bad_utf8_is_1007():
    async with client() as ws:
        await ws.send(b"ok\xff", text=True)
        assert (await end(ws))[0] == 1007


@check
async def too_big_is_1009():
    ws = await client()
    try:
        await ws.send(bytes(MAX_MESSAGE_BYTES + 1))
    except ConnectionClosed:
        # The server's Close frame overtook the rest of the message.
        pass
    assert (await end(ws))[0] == 1009


@check
async def no_subprotocol_is_chosen():
    async with client(subprotocols=["chat", "superchat"]) as ws:
        assert ws.subprotocol is None
        await echo(ws, "without")


@check
async def an_upgrade_elsewhere_is_refused():
    try:
        await connect(BASE.replace("http", "ws", 1) + "/nowhere", proxy=None)
    except InvalidStatus as refused:
        assert refused.response.status_code == 404
    else:
        raise AssertionError("the handshake succeeded")


@check
async def another_origin_is_refused():
    async with client(origin=BASE) as ws:
        await echo(ws, "same origin")
    try:
        await client(origin="https://elsewhere.example")
    except InvalidStatus as refused:
        assert refused.response.status_code == 403
    else:
        raise AssertionError("the handshake succeeded")


def get(path):
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with direct.open(BASE + path, timeout=10) as response:
        return response.read().decode()


def metric(name):
    """The sum over all shards."""
    lines = get("/metrics").splitlines()
    return sum(int(line.split()[-1]) for line in lines if line.startswith(name + "{"))


@check
async def http_on_the_same_port():
    assert get("/healthz") == "ok\n"
    assert "<" in get("/")
    try:
        get("/nowhere")
    except urllib.error.HTTPError as error:
        assert error.code == 404
    else:
        raise AssertionError("/nowhere is found")


@check
async def sigterm_is_1001_to_all():
    sockets = await asyncio.gather(*(client() for _ in range(50)))
    for ws in sockets:
        await echo(ws, "before")
    os.kill(PID, signal.SIGTERM)
    ends = await asyncio.gather(*(end(ws) for ws in sockets))
    assert {code for code, _reason in ends} == {1001}, ends


async def main():
    failed = 0
    for function in CHECKS:
        try:
            await asyncio.wait_for(function(), 30)
        except Exception:
            failed += 1
            print(f"FAILED {function.__name__}: {traceback.format_exc()}")
    python = ".".join(map(str, sys.version_info[:3]))
    passed = len(CHECKS) - failed
    who = f"Python {python}, websockets {websockets.__version__}{', compressed' if COMPRESSED else ''}"
    print(f"{who}: {passed} of {len(CHECKS)} checks passed")
    return 1 if failed else 0


sys.exit(asyncio.run(main()))
