"""Customers of the shop, and their own book of what the shop confirmed to them.

The book is kept outside Sendoff and outside the shop: an order counts as placed when its answer 201 was read, an
exception as raised when its answer 500 was read. Where the connection broke before an answer, nobody outside can know:
that request is *uncertain*, and Sendoff may have got zero or one event for it.
"""

from __future__ import annotations

import http.client
import json
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

ARTICLES = ["kettle", "teapot", "sencha", "assam", "mug"]
COUNTRIES = ["PL", "DE", "JP", "BR"]


@dataclass
class Book:
    """What the customers know. `orders` and `exceptions` hold references, `…_by_worker` sums by who answered."""

    orders: set[str] = field(default_factory=set)
    exceptions: set[str] = field(default_factory=set)
    uncertain: set[str] = field(default_factory=set)
    orders_by_worker: Counter[str] = field(default_factory=Counter)
    cents_by_worker: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)


@dataclass(frozen=True)
class Latency:
    """Request latencies of one phase, in milliseconds, sorted."""

    ms: list[float]

    def quantile(self, q: float) -> float:
        return self.ms[min(len(self.ms) - 1, int(q * len(self.ms)))] if self.ms else float("nan")


def run(
    port: int,
    book: Book,
    *,
    seconds: float,
    per_second: float,
    seed: int,
    progress: Callable[[float], None] | None = None,
) -> Latency:
    """Send requests at a steady rate from four customers at once, each waiting for its answer, for `seconds`.

    `progress` is called every half second with the seconds that are left, at the end with 0.
    """
    latencies: list[float] = []
    customers = 4
    threads = [
        threading.Thread(
            target=_customer, args=(port, book, latencies, seconds, per_second / customers, random.Random(seed + i))
        )
        for i in range(customers)
    ]
    for thread in threads:
        thread.start()
    end = time.monotonic() + seconds
    while progress and (left := end - time.monotonic()) > 0:
        progress(left)
        time.sleep(min(left, 0.5))
    for thread in threads:
        thread.join()
    if progress:
        progress(0)
    return Latency(sorted(latencies))


def _customer(
    port: int, book: Book, latencies: list[float], seconds: float, per_second: float, rng: random.Random
) -> None:
    end = time.monotonic() + seconds
    due = time.monotonic() + rng.random() / per_second
    while due < end:
        time.sleep(max(0.0, due - time.monotonic()))
        _one_request(port, book, latencies, rng)
        due = max(due + 1 / per_second, time.monotonic())


def _one_request(port: int, book: Book, latencies: list[float], rng: random.Random) -> None:
    ref = str(uuid.UUID(int=rng.getrandbits(128), version=4))
    kind = rng.choices(["look", "product", "unknown", "order", "slow"], [20, 20, 8, 47, 5])[0]
    method, path, body = "GET", "/", None
    if kind in ("product", "unknown"):
        path = f"/products/{rng.choice(ARTICLES) if kind == 'product' else 'samovar'}?ref={ref}"
    elif kind in ("order", "slow"):
        method, path = "POST", f"/orders?ref={ref}"
        body = json.dumps(
            {
                "ref": ref,
                "article": rng.choice(ARTICLES),
                "quantity": rng.randint(1, 4),
                "country": rng.choice(COUNTRIES),
                "customer": f"c{rng.randint(1, 400)}",
                "slow_provider": kind == "slow",
            }
        )
    began = time.perf_counter()
    try:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request(method, path, body, {"Content-Type": "application/json", "Connection": "close"})
        answer = connection.getresponse()
        payload = answer.read()
        status = answer.status
    except (OSError, http.client.HTTPException):
        with book.lock:
            book.requests += 1
            book.uncertain.add(ref)
        return
    finally:
        connection.close()
    took = (time.perf_counter() - began) * 1000
    with book.lock:
        book.requests += 1
        latencies.append(took)
        _write_down(book, kind, ref, status, payload)


def _write_down(book: Book, kind: str, ref: str, status: int, payload: bytes) -> None:
    expected = {"look": 200, "product": 200, "unknown": 500, "order": 201, "slow": 500}[kind]
    if status != expected:
        book.wrong.append(f"{kind}: the shop answered {status} instead of {expected}")
        book.uncertain.add(ref)
    elif status == 500:
        book.exceptions.add(ref)
    elif status == 201:
        placed = json.loads(payload)
        book.orders.add(ref)
        book.orders_by_worker[placed["worker"]] += 1
        book.cents_by_worker[placed["worker"]] += placed["cents"]
