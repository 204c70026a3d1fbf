"""Carries plain connections on to a TLS port: the suite itself speaks no TLS that is still in use.

    within_tls.py HOST PORT CERT

Prints the port that it listens on, and runs until its input ends. The TLS is OpenSSL's, by Python.
"""

import asyncio
import ssl
import sys

HOST, PORT, CERT = sys.argv[1], int(sys.argv[2]), sys.argv[3]


async def carry(reader, writer):
    try:
        while data := await reader.read(1 << 16):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        pass


async def connected(reader, writer):
    context = ssl.create_default_context(cafile=CERT)
    try:
        far_reader, far_writer = await asyncio.open_connection(HOST, PORT, ssl=context)
    except OSError:
        return writer.close()
    up = asyncio.create_task(carry(reader, far_writer))
    await carry(far_reader, writer)
    # The server has ended it, with close_notify: nothing it would still hear.
    up.cancel()
    for end in (writer, far_writer):
        end.close()


async def main():
    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)


asyncio.run(main())
