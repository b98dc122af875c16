"""The time as code on a loop sees it: the loop's, which may be virtual (``virtual_time``). Imports no asyncio."""

from __future__ import annotations

import sys
import time
from typing import Any


def clock_s() -> float:
    """Seconds of the running loop's clock; without a loop those of ``time.monotonic``."""
    loop = _running_loop()
    return time.monotonic() if loop is None else float(loop.time())


def unix_s() -> float:
    """Unix time; on a virtual clock its seconds since the clock's ``epoch_s``."""
    loop = _running_loop()
    epoch_s = getattr(loop, "epoch_s", None)
    return time.time() if loop is None or epoch_s is None else float(epoch_s + loop.time())


def _running_loop() -> Any:
    asyncio = sys.modules.get("asyncio")
    return None if asyncio is None else asyncio._get_running_loop()
