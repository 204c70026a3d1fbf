#!/usr/bin/env python3
"""OpenSSL and curl against a running `ringwire serve --cert CERT`: which versions and suites it accepts, and
whether what OpenSSL may do within a connection goes well; and what bytes are told that OpenSSL would not send.

    scan.py https://127.0.0.1:PORT PID CERT

Ends the server (PID) with SIGTERM.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

BASE, PID, CERT = sys.argv[1], int(sys.argv[2]), sys.argv[3]
ADDRESS = BASE.removeprefix("https://")
GOOD_TLS12 = {
    f"ECDHE-{key}-{cipher}"
    for key in ("ECDSA", "RSA")
    for cipher in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
}
GOOD_TLS13 = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"}
REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
LAST_REQUEST = REQUEST.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
CHECKS = []


def check(function):
    CHECKS.append(function)
    return function


def client(*options, lines=()):
    """What `openssl s_client` says; `lines` are typed one by one."""
    command = ["openssl", "s_client", "-connect", ADDRESS, "-servername", "localhost", "-CAfile", CERT, *options]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    for line in lines:
        time.sleep(0.3)
        process.stdin.write(line)
        process.stdin.flush()
    # Its input ends after the server's answer, or it would not wait for that.
    time.sleep(0.5 if lines else 0)
    said, _ = process.communicate(timeout=20)
    return said.decode(errors="replace"), process.returncode


def connects(*options):
    said, _ = client(*options)
    return "Cipher is (NONE)" not in said and "New, TLSv" in said


def hello(version=0x0303, compressions=b"\0", groups=(29, 23), schemes=(0x0403, 0x0804, 0x0401)):
    """A ClientHello of TLS 1.2 (RFC 5246 §7.4.1.2)."""
    number = lambda value, size=2: value.to_bytes(size, "big")  # noqa: E731
    listed = lambda content, size=2: number(len(content), size) + content  # noqa: E731
    numbers = lambda values: listed(b"".join(map(number, values)))  # noqa: E731
    extensions = b"".join(number(kind) + listed(numbers(values)) for kind, values in ((10, groups), (13, schemes)))
    suites = numbers([0xC02B, 0xC02C, 0xCCA9, 0xC02F])
    body = number(version) + bytes(32) + listed(b"", 1) + suites + listed(compressions, 1) + listed(extensions)
    return b"\x16\x03\x01" + listed(b"\x01" + listed(body, 3))


def answer(sent, hang_up=False, at_least=1 << 20):
    """What the server says to these bytes, up to its end or so many bytes."""
    host, port = ADDRESS.split(":")
    with socket.create_connection((host, int(port)), 10) as peer:
        peer.sendall(sent)
        if hang_up:
            peer.shutdown(socket.SHUT_WR)
        said = b""
        try:
            while len(said) < at_least and (got := peer.recv(1 << 16)):
                said += got
        except ConnectionResetError:
            pass
        return said


def is_alert(said, *descriptions):
    return said[:1] == b"\x15" and said[3:6] == b"\0\x02\x02" and (not descriptions or said[6] in descriptions)


def curl(*options):
    run = subprocess.run(["curl", "-sS", "--noproxy", "*", "--max-time", "10", *options], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    return run.stdout


@check
def only_tls_1_2_and_1_3():
    weak = ("-cipher", "ALL:@SECLEVEL=0")
    assert not connects("-tls1", *weak) and not connects("-tls1_1", *weak)
    assert connects("-tls1_2") and connects("-tls1_3")


@check
def no_weak_suite():
    every = subprocess.run(
        ["openssl", "ciphers", "-tls1_2", "ALL:COMPLEMENTOFALL:@SECLEVEL=0"], capture_output=True, text=True, check=True
    )
    offered = [name for name in every.stdout.strip().split(":") if not name.startswith("TLS_")]
    assert len(offered) > 30, offered
    taken = {name for name in offered if connects("-tls1_2", "-cipher", f"{name}:@SECLEVEL=0")}
    assert taken and taken <= GOOD_TLS12, taken
    taken = {name for name in GOOD_TLS13 | {"TLS_AES_128_CCM_SHA256"} if connects("-tls1_3", "-ciphersuites", name)}
    assert taken == GOOD_TLS13, taken


@check
def no_old_version_by_any_hello():
    for version in (0x0200, 0x0300, 0x0301, 0x0302):
        assert is_alert(answer(hello(version)), 70), hex(version)


@check
def no_compression():
    # Behind record and message headers: version, random, an empty session id or one of 32 bytes, suite, compression.
    said = answer(hello(compressions=b"\x01\0"), at_least=100)
    assert said[0] == 22 and said[5] == 2, said
    assert said[44 + said[43] + 2] == 0, said
    assert is_alert(answer(hello(compressions=b"\x01")))
    said, _ = client("-tls1_2")
    assert "Compression: NONE" in said, said


@check
def no_weak_curve_or_signature():
    assert answer(hello(), at_least=100)[:1] == b"\x16"
    # secp192r1, sect163k1; SHA-1 and MD5.
    assert is_alert(answer(hello(groups=(19, 1))))
    assert is_alert(answer(hello(schemes=(0x0203, 0x0201, 0x0101))))


@check
def what_makes_no_sense_is_told_by_an_alert():
    for sent in (
        b"\0\xff no TLS at all",
        b"\x18\x03\x02\0\x03\x01\x40\0",  # a heartbeat
        b"\x17\x03\x03\0\x10" + bytes(16),  # data before a handshake
        b"\x16\x03\x01\0\x05\x63\0\0\x01\0",  # no such message
        b"\x16\x03\x01\xff\xff\x01",  # longer than records may be
    ):
        assert is_alert(answer(sent)), sent


@check
def a_hello_cut_anywhere_ends_without_harm():
    whole = hello()
    for bytes_sent in (0, 1, 4, 5, 6, 20, len(whole) // 2, len(whole) - 1):
        said = answer(whole[:bytes_sent], hang_up=True)
        assert not said or is_alert(said), (bytes_sent, said)
    assert curl("--cacert", CERT, f"{BASE}/healthz") == "ok\n"


@check
def the_certificate_verifies():
    said, code = client("-verify_return_error", "-verify_hostname", "localhost")
    assert code == 0 and "Verification: OK" in said, said


@check
def sessions_are_resumed():
    with tempfile.TemporaryDirectory() as folder:
        session = os.path.join(folder, "session")
        for version in ("-tls1_2", "-tls1_3"):
            said, _ = client(version, "-sess_out", session, lines=[LAST_REQUEST])
            assert "New, TLSv" in said, said
            said, _ = client(version, "-sess_in", session, lines=[LAST_REQUEST])
            assert "Reused, TLSv" in said, said


@check
def http_1_1_is_agreed_on_and_nothing_else():
    said, _ = client("-alpn", "h2,http/1.1")
    assert "ALPN protocol: http/1.1" in said, said
    said, _ = client("-alpn", "h2")
    assert "no application protocol" in said, said


@check
def ends_with_close_notify():
    for version in ("-tls1_2", "-tls1_3"):
        said, code = client(version, lines=[LAST_REQUEST])
        assert "200 OK" in said and "unexpected eof" not in said and code == 0, said


@check
def new_keys_are_taken():
    # K asks for new keys in both directions, k gives new ones.
    said, _ = client("-tls1_3", lines=[REQUEST, b"K\n", REQUEST, b"k\n", LAST_REQUEST])
    assert said.count("200 OK") == 3, said


@check
def renegotiation_is_refused():
    # R asks for one; this client leaves when it hears the warning.
    said, _ = client("-tls1_2", lines=[b"R\n"])
    assert "no renegotiation" in said, said
    said, _ = client("-tls1_2", lines=[LAST_REQUEST])
    assert "200 OK" in said, said


@check
def curl_gets_what_it_asks_for():
    for options in ([], ["--tlsv1.3"], ["--tlsv1.2", "--tls-max", "1.2"]):
        assert curl("--cacert", CERT, *options, f"{BASE}/healthz", f"{BASE}/healthz") == "ok\nok\n"
    assert "https://" in curl(f"http://{ADDRESS}/healthz")


@check
def a_signal_ends_it():
    os.kill(PID, signal.SIGTERM)


failed = 0
for function in CHECKS:
    try:
        function()
        print(f"ok    {function.__name__}")
    except Exception:
        failed += 1
        print(f"FAIL  {function.__name__}")
        traceback.print_exc()
sys.exit(failed > 0)
