"""The ratios that the project sets itself, each computed from the medians of one run: held, or not held."""

import typing

from .cases import SCALING
from .servers import PEERS, RUST_PEERS, TLS_PEERS

TLS = ["200×20 B, TLS", "200×20 B, 16 deep, TLS", "200×16 KiB, TLS", "handshakes, TLS"]
URING, EPOLL, POLLING, UWS = "ringwire io_uring", "ringwire epoll", "ringwire polling", "uWebSockets"
LARGE = ["200×16 KiB", "1×1 MiB", "1×1 MiB, reno"]
TO_MANY = ["100 B to 5,000", "4 KiB to 5,000"]
FEW_SUBSCRIBED, SUBSCRIBED = "idle 1,000, subscribed", "idle 9,000, subscribed"
OPEN = ["200×20 B at 50 %", "200×20 B at 80 %"]
# A histogram's own resolution, three digits, and what two equal servers differ by.
NO_WORSE = 1.02


class Claim(typing.NamedTuple):
    number: int
    name: str
    value: float
    limit: float
    at_least: bool
    bound: float | None = None  # what the bare loop would have in its place
    best: str | None = None  # the peer that it is against, where that is the best of several

    @property
    def text(self):
        return f"{self.name} ({self.best})" if self.best else self.name

    @property
    def shown(self):
        """With the bound, where even that would not do."""
        out_of_reach = self.bound and not self._replace(value=self.bound).holds
        return f"{self.rounded} (bare: {self.bound:.3g})" if out_of_reach else self.rounded

    @property
    def rounded(self):
        """To three digits, or as many as show on which side of its limit it is."""
        texts = [f"{self.value:.{digits}g}" for digits in range(3, 8)]
        same_side = (text for text in texts if self._replace(value=float(text)).holds == self.holds)
        return next(same_side, texts[-1])

    @property
    def holds(self):
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    @property
    def verdict(self):
        return "held" if self.holds else "not held"

    @property
    def wanted(self):
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


class Book:
    """Claims as they are made; one of which a part was not measured is left out."""

    def __init__(self, results):
        self.results = results
        self.claims = []

    def value(self, number, name, value, limit, at_least=False, bound=None, best=None):
        if value is not None:
            self.claims.append(Claim(number, name, value, limit, at_least, bound, best))

    def ratio(self, number, name, value, base, limit, at_least=False, bound=None, best=None):
        if value is not None and base:
            self.value(number, name, value / base, limit, at_least, bound, best)

    def to_peer(self, number, case, peer, limit):
        """The CPU of a message beside a peer's."""
        mine, theirs = (self.results.median(case, server, "cpu") for server in (URING, peer))
        ceiling = self.results.ceiling(case)
        bound = ceiling / theirs if ceiling and theirs else None
        self.ratio(number, f"{case}: CPU ÷ {peer}", mine, theirs, limit, bound=bound)

    def below(self, number, case, server, others, key, limit=1.0, what="CPU"):
        """The server against the best of the others that were measured."""
        found = self.results.cells(case, key, others)
        if found:
            best = min(found, key=found.get)
            mine = self.results.median(case, server, key)
            self.ratio(number, f"{case}: {what} ÷ the best peer's", mine, found[best], limit, best=best)


def claims(results):
    """All that can be judged of what was measured."""
    book = Book(results)
    cell = results.median
    for cases, limit, number in ((["200×20 B", "200×512 B"], 1.03, 1), (LARGE, 1.05, 2)):
        for case in cases:
            book.ratio(number, f"{case}: CPU ÷ the ceiling", cell(case, URING, "cpu"), results.ceiling(case), limit)
            book.below(number, case, URING, PEERS, "cpu")
            if number == 2:
                book.to_peer(2, case, UWS, 0.95)
    for case, to_ceiling, to_uws in (("200×20 B, 16 deep", 1.05, 1.0), ("50×20 B, 128 deep", 1.3, 0.75)):
        mine = cell(case, URING, "cpu")
        book.ratio(3, f"{case}: CPU ÷ the ceiling", mine, results.ceiling(case), to_ceiling)
        book.to_peer(3, case, UWS, to_uws)
        for name, value in results.cells(case, "cpu", RUST_PEERS).items():
            ceiling = results.ceiling(case)
            bound = value / ceiling if ceiling else None
            book.ratio(3, f"{case}: messages per CPU second ÷ {name}", value, mine, 3, at_least=True, bound=bound)
    book.value(4, "200×20 B: user time per message, ns", results.user_ns("200×20 B", URING), 250)
    book.value(4, "50×20 B, 128 deep: user time per message, ns", results.user_ns("50×20 B, 128 deep", URING), 15)
    text, binary = cell("200×125 B text, CJK", URING, "cpu"), cell("200×125 B", URING, "cpu")
    book.ratio(4, "200×125 B: CPU of text ÷ binary", text, binary, 1.03)
    polling(book)
    for case in OPEN:
        for key in ("p50", "p99", "p999"):
            book.below(6, case, URING, PEERS, key, NO_WORSE, key)
        book.ratio(6, f"{case}: p999 ÷ uWebSockets", cell(case, URING, "p999"), cell(case, UWS, "p999"), 1.0)
    mine = cell("handshakes", URING, "cpu")
    book.ratio(7, "handshakes: CPU ÷ the bare exchange", mine, results.ceiling("handshakes"), 1.1)
    book.below(7, "handshakes", URING, PEERS, "cpu")
    book.value(8, "idle 9,000: resident bytes per connection", cell("idle 9,000", URING, "idle"), 128)
    kernel = [cell("idle 9,000", server, "idle_kernel") for server in (URING, EPOLL)]
    if None not in kernel:
        book.value(8, "idle 9,000: kernel bytes per connection beyond epoll's", kernel[0] - kernel[1], 144)
    between_equals(book)
    for one, two in SCALING:
        for server in (URING, EPOLL):
            before, after = cell(one, server, "cpu"), cell(two, server, "cpu")
            text = f"{two}, {server}: messages per CPU second of all cores ÷ one"
            book.ratio(10, text, before and 2 * before, after, 1.9, at_least=True)
    raw = [cell("200×20 B", server, "cpu") for server in ("raw io_uring", "raw epoll")]
    book.ratio(11, "200×20 B: the bare echo on io_uring ÷ on epoll", *raw, 0.9)
    to_many(book)
    for case in TLS:
        for server in (URING, EPOLL):
            mine = cell(case, f"{server} TLS", "cpu")
            for peer in TLS_PEERS:
                book.ratio(12, f"{case}: CPU of {server} ÷ {peer}", mine, cell(case, peer, "cpu"), 1)
    return sorted(book.claims, key=lambda claim: claim.number)


def polling(book):
    cell = book.results.median
    for case in ("1×20 B", "1×20 B, generator polls"):
        text = f"{case}, ringwire polling:"
        book.ratio(5, f"{text} messages/s ÷ uWebSockets", cell(case, POLLING, "per_s"), cell(case, UWS, "per_s"), 2.5, True)
        book.ratio(5, f"{text} p50 ÷ uWebSockets", cell(case, POLLING, "p50"), cell(case, UWS, "p50"), 0.4)
    case = "1×20 B, 100/s"
    text = f"{case}, ringwire polling: p99 ÷ uWebSockets"
    book.ratio(5, text, cell(case, POLLING, "p99"), cell(case, UWS, "p99"), 0.4)
    book.value(5, "idle 9,000, ringwire polling: CPUs used in silence", cell("idle 9,000", POLLING, "idle_cpus"), 0.01)


def to_many(book):
    cell = book.results.median
    for case in TO_MANY:
        book.ratio(12, f"{case}: CPU of {URING} ÷ the ceiling", cell(case, URING, "cpu"), book.results.ceiling(case), 1.1)
        # The loop on io_uring hands over many sends in one call, which nothing on epoll can.
        text = f"{case}: CPU of {EPOLL} ÷ the bare loop on epoll"
        book.ratio(12, text, cell(case, EPOLL, "cpu"), cell(case, "raw fan-out epoll", "cpu"), 1.1)
        book.below(12, case, URING, PEERS, "cpu")
        book.below(12, case, URING, PEERS, "last", what="time to the last delivery")
    for server in (URING, EPOLL):
        few, many = cell(FEW_SUBSCRIBED, server, "idle_held"), cell(SUBSCRIBED, server, "idle_held")
        if None not in (few, many):
            # What a process has anyway, pools and code, is in both.
            text = f"{server}: resident bytes per subscribed connection, from 1,000 to 9,000"
            book.value(13, text, (many - few) * 1024 / 8_000, 128)
        book.value(13, f"{SUBSCRIBED}, {server}: CPUs used", cell(SUBSCRIBED, server, "idle_cpus"), 0.005)


def between_equals(book):
    results = book.results
    for case in results.samples:
        ours, theirs = (results.median(case, server, "cpu") for server in (EPOLL, UWS))
        book.ratio(9, f"{case}: CPU of ringwire on epoll ÷ uWebSockets", ours, theirs, 1.0)
        uring = results.median(case, URING, "cpu")
        book.ratio(9, f"{case}: CPU of ringwire on io_uring ÷ on epoll", uring, ours, 1.0)
