"""loadgen beside an independent open-loop client, both against one server whose delays are known.

    check.py LOADGEN

The server (websockets, asyncio) echoes after 5, 50 or 200 ms, in turn of a hundred messages 80, 17
and 3 times, so that p50, p90 and p99 each lie well inside one of them. Both clients offer the same
rate on as many connections and count latency from the time a message was due. Their percentiles
must agree, and each must have seen as many messages as the server.
"""

import asyncio
import json
import subprocess
import sys
import tempfile
import time

import websockets.asyncio.client
import websockets.asyncio.server

CONNECTIONS, RATE, SECONDS = 40, 200, 6
SHARES = [0.005] * 80 + [0.050] * 17 + [0.200] * 3
PERCENTILES = {"p50_ns": 0.5, "p90_ns": 0.9, "p99_ns": 0.99}
# Of two clients in two processes on a busy host.
TOLERANCE, SLACK_S = 0.25, 0.030


class Server:
    def __init__(self):
        self.messages = 0

    async def echo(self, socket):
        async for message in socket:
            # 37 has no divisor in common with 100: every hundred messages have the shares, well mixed.
            delay = SHARES[self.messages * 37 % 100]
            self.messages += 1
            await asyncio.sleep(delay)
            await socket.send(message)


async def client(url):
    """Latencies in seconds, from the time each message was due."""
    sockets = [await websockets.asyncio.client.connect(url) for _ in range(CONNECTIONS)]
    due, latencies = [asyncio.Queue() for _ in sockets], []

    async def receive(number):
        for _ in range(RATE * SECONDS // CONNECTIONS):
            sent, text = await due[number].get()
            assert await sockets[number].recv() == text
            latencies.append(time.monotonic() - sent)

    receivers = [asyncio.create_task(receive(number)) for number in range(CONNECTIONS)]
    begin = time.monotonic()
    for number in range(RATE * SECONDS):
        at = begin + number / RATE
        await asyncio.sleep(max(0, at - time.monotonic()))
        text = f"message {number}"
        due[number % CONNECTIONS].put_nowait((at, text))
        await sockets[number % CONNECTIONS].send(text)
    await asyncio.gather(*receivers)
    await asyncio.gather(*(socket.close() for socket in sockets))
    return sorted(latencies)


def loadgen(program, url):
    with tempfile.NamedTemporaryFile() as file:
        command = [program, "rate", url, f"--connections={CONNECTIONS}", f"--rate={RATE}", "--arrivals=even"]
        command += [f"--duration={SECONDS}", "--warmup=0", "--max-send-lag=1s", "--quiet", f"--json={file.name}"]
        subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
        return json.load(file)["loads"][0]["rate"]


async def main():
    server = Server()
    async with websockets.asyncio.server.serve(server.echo, "127.0.0.1", 0) as listening:
        url = f"ws://127.0.0.1:{listening.sockets[0].getsockname()[1]}/"
        reference = await client(url)
        assert len(reference) == server.messages == RATE * SECONDS, (len(reference), server.messages)
        server.messages = 0
        rate = await asyncio.to_thread(loadgen, sys.argv[1], url)
    seen = rate["latency"]["count"]
    assert seen == server.messages, f"loadgen saw {seen} messages, the server {server.messages}"
    assert abs(seen - RATE * SECONDS) <= 0.05 * RATE * SECONDS, seen
    for name, share in PERCENTILES.items():
        own, other = rate["latency"][name] / 1e9, reference[int(share * len(reference))]
        print(f"{name[:-3]}: loadgen {own * 1e3:.1f} ms, reference {other * 1e3:.1f} ms")
        assert abs(own - other) <= TOLERANCE * other + SLACK_S, name


asyncio.run(main())
