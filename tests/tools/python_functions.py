"""Functions that tests name in AS PYTHON '…'."""

from __future__ import annotations

import asyncio
import ctypes
import dataclasses
import datetime
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

PAGES: list[int] = []
harmless = eval


@dataclasses.dataclass
class Order:
    id: int
    total: Decimal


def double(x: int) -> int:
    return x * 2


def label(order: Order, day: datetime.date) -> str:
    return f"{type(order).__name__} {order.id} {order.total} {day:%d.%m.%Y}"


def orders(customer: str) -> Iterator[Order]:
    for number in range(3):
        yield Order(number, Decimal("1.50") * number)


def endless(x: int) -> Iterator[int]:
    while True:
        yield x


async def slow_double(x: int) -> int:
    await asyncio.sleep(0.01)
    return x * 2


def pid(x: int) -> int:
    return os.getpid()


def hang(x: int) -> int:
    while True:
        time.sleep(60)


def hang_with_child(path: str) -> int:
    process = subprocess.Popen(["sleep", "600"])
    Path(path).write_text(f"{os.getpid()} {process.pid}")
    return process.wait()


def leave(x: int) -> int:
    os._exit(x)


def crash(x: int) -> int:
    ctypes.string_at(0)
    return x


def quit_politely(x: int) -> int:
    sys.exit(x)


def fail(x: int) -> int:
    raise ValueError("no\nsuch " + "row" * 1000)


def wrong(x: int) -> Any:
    return "a text"


def noisy(x: int) -> int:
    print("chatter on standard output")
    os.write(1, b'{"value": "forged"}\n')
    sys.stdin.read()
    return x


def remembers(x: int) -> int:
    PAGES.append(x)
    return len(PAGES)


def hang_in_c(path: str) -> int:
    """Never lets another thread run."""
    Path(path).write_text(f"{os.getpid()}")
    return len(str(re.match(r"(a|aa)*b", "a" * 200)))
