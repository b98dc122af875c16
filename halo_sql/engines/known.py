"""What an engine said of itself the last time it ran, kept on disk.

A query whose answers are all in the response store then needs no engine at all: the store's key asks for the
engine's identity, and starting a model to learn it takes longer than everything else.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

from halo_sql import config
from halo_sql.engines.protocol import EngineInfo

FORMAT = 3


def recall(facts: Mapping[str, object]) -> EngineInfo | None:
    """The info of an engine started with exactly these facts; None when there is none that can be read."""
    try:
        return EngineInfo(**json.loads(_path(facts).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def remember(facts: Mapping[str, object], info: EngineInfo) -> None:
    """Keep the info of a started engine. A disk that refuses costs a later start, nothing else."""
    path = _path(facts)
    with suppress(OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            json.dump(asdict(info), file)
        Path(name).replace(path)


def _path(facts: Mapping[str, object]) -> Path:
    text = json.dumps([FORMAT, sorted(facts.items())], default=str, ensure_ascii=False)
    return config.home() / "engines" / (hashlib.sha256(text.encode()).hexdigest()[:32] + ".json")
