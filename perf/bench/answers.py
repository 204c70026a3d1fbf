"""Whether a server compresses its answers as agreed: one connection asks, before anything is measured."""

import base64
import os
import socket
import zlib

# More than this is no compressed answer to 1 KiB of records.
MAX_ANSWER_BYTES = 700
RECORD = '{"id":%d,"symbol":"SYM%d","side":"%s","price":%d.%02d,"amount":%d,"venue":"XNAS"},'
OFFER = "permessage-deflate; client_no_context_takeover; server_no_context_takeover"


class AnswerFault(Exception):
    """No compressed answer came, or a wrong one."""


def records():
    sides = ["buy", "sell"]
    rows = [RECORD % (n, n * 37 % 97, sides[n % 2], n * 791 % 997, n * 17 % 100, n * 7001 % 7919) for n in range(20)]
    return "".join(rows).encode()[:1024]


def answer_bytes(port):
    """The size of the payload that answers 1 KiB of records, which has to come compressed, and right."""
    try:
        return ask(port, records())
    except (OSError, ValueError, zlib.error) as fault:
        raise AnswerFault(f"no compressed answer came: {fault}") from fault


def ask(port, text):
    # No takeover in either direction (RFC 7692 §7.1.1): each message is a stream of its own.
    deflate = zlib.compressobj(1, zlib.DEFLATED, -15)
    payload = (deflate.compress(text) + deflate.flush(zlib.Z_SYNC_FLUSH))[:-4]
    head = (
        f"GET / HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\nSec-WebSocket-Version: 13\r\n"
        f"Sec-WebSocket-Extensions: {OFFER}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), 10) as peer, peer.makefile("rb") as answers:
        peer.sendall(head.encode())
        response = b"".join(iter(answers.readline, b"\r\n")).lower()
        # FIN, RSV1, text; masked with zeros.
        peer.sendall(bytes([0xC1, 0xFE]) + len(payload).to_bytes(2, "big") + bytes(4) + payload)
        first, second = answers.read(2)
        size = int.from_bytes(answers.read(2), "big") if second == 126 else second
        came = answers.read(size)
    if b"permessage-deflate" not in response or b"server_no_context_takeover" not in response or first != 0xC1:
        raise AnswerFault(f"it does not compress as agreed: {response.decode()}")
    if size >= MAX_ANSWER_BYTES or zlib.decompressobj(-15).decompress(came + b"\0\0\xff\xff") != text:
        raise AnswerFault(f"it answers 1 KiB of records with {size} bytes, or with others")
    return size
