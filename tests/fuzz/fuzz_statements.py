"""Coverage-guided fuzzing of everything between a text and its plan (needs the ``fuzz`` extra).

    .venv/bin/python tests/fuzz/fuzz_statements.py [folder of inputs] [-max_total_time=900 and other flags]

The inputs it begins with are the statements of ``edits.py`` and, where they are given, ``.sql`` files in the folder. It
ends at the first exception that is no error of ours, and libFuzzer keeps the input.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

with atheris.instrument_imports(include=["halo_sql"]):
    import halo_sql.grammar.bind
    import halo_sql.optimizer.optimize
    import halo_sql.planning  # noqa: F401 - imported here to be instrumented
    from tests.fuzz.edits import KINDS, WORDS, check, edited, session, statements

STATEMENTS = statements()
PLANNER = session()


def one(data: bytes) -> None:
    """Half of the inputs are texts, half are lists of edits of a statement."""
    if data[:1] < b"\x80":
        check(PLANNER, data[1:].decode("utf-8", "surrogateescape"))
        return
    source = atheris.FuzzedDataProvider(data[1:])
    sql = source.PickValueInList(STATEMENTS)
    edits = [
        (source.PickValueInList(list(KINDS)), source.ConsumeIntInRange(0, 300), source.PickValueInList(WORDS))
        for _ in range(source.ConsumeIntInRange(1, 6))
    ]
    check(PLANNER, edited(sql, edits))


def main() -> None:
    with tempfile.TemporaryDirectory() as seeds:
        for number, sql in enumerate(STATEMENTS):
            (Path(seeds) / f"{number}.sql").write_bytes(b"\x01" + sql.encode())
        folders = [argument for argument in sys.argv[1:] if not argument.startswith("-")] or [tempfile.mkdtemp()]
        flags = [argument for argument in sys.argv[1:] if argument.startswith("-")]
        atheris.Setup([sys.argv[0], "-timeout=60", "-max_len=20000", *flags, *folders, seeds], one)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
