"""The response store: durable, shared, and never wrong whatever happens to its file."""

from __future__ import annotations

import asyncio
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from halo_sql.engines.store import Entry, ResponseStore

WRITER = """
import sys
from pathlib import Path
from halo_sql.engines.store import Entry, ResponseStore
store = ResponseStore(Path(sys.argv[1]))
first, last = int(sys.argv[2]), int(sys.argv[3])
for number in range(first, last):
    store.put_many([(number.to_bytes(32, "big"), Entry(f"answer {number}", "stop", number, 1))])
    if number % 10 == 0:
        store.flush()
        print(number, flush=True)
store.close()
assert not store.warnings, store.warnings
"""


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def rows(count: int, start: int = 0) -> list[tuple[bytes, Entry]]:
    texts = (f"answer {number} \0 \ud800 é " + "x" * (number % 700) for number in range(start, start + count))
    return [(key(start + offset), Entry(text, "stop", offset, 3)) for offset, text in enumerate(texts)]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "responses.sqlite"


@pytest.fixture
def store(path: Path) -> Iterator[ResponseStore]:
    opened = ResponseStore(path)
    yield opened
    opened.close()


def filled(path: Path, count: int) -> dict[bytes, Entry]:
    store = ResponseStore(path)
    store.put_many(rows(count))
    store.close()
    assert not store.warnings
    return dict(rows(count))


def test_answers_come_back_and_survive(path: Path, store: ResponseStore) -> None:
    given = dict(rows(1000))
    store.put_many(list(given.items()))
    assert store.get_many(list(given)) == given  # also before they are durable
    assert store.flush()
    assert store.get_many([*given, key(5000)]) == given
    store.put_many([(key(1), Entry("later"))])
    store.close()
    assert store.get_many([key(1)]) == {}
    again = ResponseStore(path)
    assert again.get_many([key(0), key(1)]) == {key(0): given[key(0)], key(1): Entry("later")}
    stats = again.stats()
    assert (stats.entries, stats.quarantined, stats.hits, stats.misses) == (1000, 0, 2, 0)
    assert stats.size_bytes > 400_000
    assert again.clear() == 1000
    assert again.get_many(list(given)) == {}
    assert again.stats().size_bytes < 100_000
    again.close()
    again.close()
    assert not again.warnings


def test_files_are_private(path: Path, store: ResponseStore) -> None:
    store.put_many(rows(10))
    store.flush()
    assert path.parent.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}


def test_rows_are_durable_within_100_ms_without_flush(path: Path, store: ResponseStore) -> None:
    store.put_many(rows(3))
    deadline = time.monotonic() + 60  # a slow disk may take longer than promised; the row has to arrive by itself
    other = sqlite3.connect(path)
    while time.monotonic() < deadline and other.execute("SELECT count(*) FROM responses").fetchone() != (3,):
        time.sleep(0.01)
    assert other.execute("SELECT count(*) FROM responses").fetchone() == (3,)
    other.close()


def test_lookup_runs_beside_the_loop(store: ResponseStore) -> None:
    given = dict(rows(700))
    store.put_many(list(given.items()))
    store.flush()
    assert asyncio.run(store.lookup([*given, key(9999)])) == given


def test_damaged_rows_are_quarantined(path: Path) -> None:
    given = filled(path, 50)
    other = sqlite3.connect(path)
    other.execute("UPDATE responses SET text = x'00' || text WHERE key = ?", (key(3),))
    other.execute("UPDATE responses SET finish = 'length' WHERE key = ?", (key(4),))
    other.execute("UPDATE responses SET output_tok = 'a b' WHERE key = ?", (key(5),))
    other.execute("DELETE FROM responses WHERE key = ?", (key(6),))
    other.execute("UPDATE responses SET key = ? WHERE key = ?", (key(6), key(7)))  # another request's answer
    other.commit()
    other.close()
    store = ResponseStore(path)
    for number in (3, 4, 5, 6, 7):
        del given[key(number)]
    assert store.get_many([key(number) for number in range(50)]) == given
    assert store.stats().quarantined == 4
    assert len(store.warnings) == 1
    store.put_many([(key(3), Entry("new"))])
    store.flush()
    assert store.get_many([key(3)]) == {key(3): Entry("new")}
    store.close()


def check_damaged(path: Path, damaged: bytes, given: dict[bytes, Entry]) -> None:
    """A store over these bytes gives right answers or none, keeps new ones, and says what it did."""
    path.write_bytes(damaged)
    for _ in range(2):
        store = ResponseStore(path)
        found = store.get_many(list(given))
        assert all(given[name] == entry for name, entry in found.items())
        store.put_many([(key(10**9), Entry("new"))])
        store.flush()
        assert store.get_many([key(10**9)]) == {key(10**9): Entry("new")} or store.warnings
        store.stats()
        store.close()
        assert len(store.warnings) <= 3
    for file in path.parent.iterdir():
        file.unlink()


def test_100_truncations(path: Path) -> None:
    given = filled(path, 60)
    whole = path.read_bytes()
    chance = random.Random(1)
    for end in [0, 1, 15, 16, 99, 100, 4096, *(chance.randrange(len(whole)) for _ in range(93))]:
        check_damaged(path, whole[:end], given)
    assert path.parent.is_dir()


def test_100_byte_flips(path: Path) -> None:
    given = filled(path, 60)
    whole = path.read_bytes()
    chance = random.Random(2)
    for place in [*range(0, 100, 4), *(chance.randrange(len(whole)) for _ in range(75))]:
        damaged = bytearray(whole)
        damaged[place] ^= 1 << chance.randrange(8)
        check_damaged(path, bytes(damaged), given)
    assert path.parent.is_dir()


def test_a_damaged_file_is_kept_aside(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    for number in (1, 2):
        path.write_bytes(b"not a database at all " * 500)
        store = ResponseStore(path)
        (warning,) = store.warnings
        assert f"damaged-{number}" in warning
        assert path.with_name(f"{path.name}.damaged-{number}").read_bytes().startswith(b"not a database")
        store.put_many(rows(5))
        store.close()
        again = ResponseStore(path)
        assert again.get_many([key(0)]) == dict(rows(1))
        again.close()


def test_damage_found_while_running(path: Path) -> None:
    given = filled(path, 2000)
    store = ResponseStore(path)
    size = path.stat().st_size
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(os.urandom(size - 4096))
    found = store.get_many(list(given))
    assert all(given[name] == entry for name, entry in found.items())
    store.put_many(rows(20))
    store.flush()
    assert store.get_many([key(number) for number in range(20)]) == dict(rows(20))
    assert any("damaged-1" in warning for warning in store.warnings)
    store.close()


def test_a_damaged_file_in_use_elsewhere_is_left_alone(path: Path) -> None:
    filled(path, 200)
    first = ResponseStore(path)
    with path.open("r+b") as file:
        file.write(b"garbage" * 100)
    second = ResponseStore(path)
    assert second.get_many([key(0)]) == {}
    assert any("another process has it open" in warning for warning in second.warnings)
    assert not list(path.parent.glob("*.damaged-*"))
    second.close()
    first.close()
    third = ResponseStore(path)
    third.put_many(rows(1))
    assert third.get_many([key(0)]) == dict(rows(1))
    assert list(path.parent.glob("*.damaged-1"))
    third.close()


def test_another_programs_database_is_not_touched(path: Path) -> None:
    path.parent.mkdir()
    other = sqlite3.connect(path)
    other.execute("CREATE TABLE mine (x)")
    other.commit()
    store = ResponseStore(path)
    store.put_many(rows(3))
    assert store.flush()
    assert store.get_many([key(0)]) == {}
    assert "another program's database" in store.warnings[0]
    assert other.execute("SELECT name FROM sqlite_schema").fetchall() == [("mine",)]
    assert not store.stats().usable
    store.close()
    other.close()


@pytest.mark.parametrize("name", ["file/store.sqlite", "folder", "file"])
def test_unusable_places(tmp_path: Path, name: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    if name == "file":
        (tmp_path / "file.lock").mkdir()
    store = ResponseStore(tmp_path / name)
    store.put_many(rows(100))
    assert store.flush()
    assert store.get_many([key(0)]) == {}
    assert store.clear() == 0
    store.close()
    assert len(store.warnings) == 1
    assert "is not used" in store.warnings[0]


def test_full_disk(path: Path) -> None:
    code = (
        "import sys, resource\nfrom pathlib import Path\nfrom halo_sql.engines.store import Entry, ResponseStore\n"
        "store = ResponseStore(Path(sys.argv[1]))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "for number in range(3000):\n"
        "    store.put_many([(number.to_bytes(32, 'big'), Entry(f'answer {number} ' + 'x' * 2000))])\n"
        "    if number % 50 == 0: store.flush()\n"
        "assert store.flush()\n"
        "found = store.get_many([number.to_bytes(32, 'big') for number in range(3000)])\n"
        "store.close()\n"
        "assert len(store.warnings) == 1, store.warnings\nprint(len(found), store.warnings[0])\n"
    )
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 1_000_000
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert "keeps nothing any more" in done.stdout
    kept = int(done.stdout.split()[0])
    assert 50 <= kept < 3000
    store = ResponseStore(path)
    found = store.get_many([key(number) for number in range(3000)])
    assert set(found.values()) == {Entry(f"answer {number} " + "x" * 2000) for number in range(kept)}
    assert store.stats().quarantined == 0
    store.close()
    assert not store.warnings


def test_two_processes_share_it(path: Path) -> None:
    ranges = ((0, 1500), (1000, 2500))
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, str(path), *map(str, span)], stdout=subprocess.DEVNULL)
        for span in ranges
    ]
    store = ResponseStore(path)
    while any(writer.poll() is None for writer in writers):
        found = store.get_many([key(number) for number in range(0, 2500, 7)])
        assert all(entry.text == f"answer {int.from_bytes(name, 'big')}" for name, entry in found.items())
    assert [writer.wait() for writer in writers] == [0, 0]
    assert len(store.get_many([key(number) for number in range(2500)])) == 2500
    assert not store.warnings
    store.close()


def test_a_process_that_ends_does_not_take_the_log_of_another_away(path: Path) -> None:
    store = ResponseStore(path)
    store.put_many([(key(1), Entry("answer 1"))])
    assert store.flush()
    subprocess.run([sys.executable, "-c", WRITER, str(path), "100", "120"], stdout=subprocess.DEVNULL, check=True)
    rows = [(key(number), Entry(f"answer {number}")) for number in range(200, 250)]
    store.put_many(rows)
    assert store.flush()
    code = (
        "import sys\nfrom pathlib import Path\nfrom halo_sql.engines.store import ResponseStore\n"
        "store = ResponseStore(Path(sys.argv[1]))\n"
        "print(len(store.get_many([number.to_bytes(32, 'big') for number in range(250)])))\nstore.close()\n"
    )
    seen = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert int(seen.stdout) == 1 + 20 + 50
    store.close()


def test_kill_loses_no_durable_row(path: Path) -> None:
    for start in (0, 100_000):
        command = [sys.executable, "-c", WRITER, str(path), str(start), str(start + 100_000)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as writer:
            assert writer.stdout is not None
            for _ in range(20):
                durable = int(writer.stdout.readline())
            os.kill(writer.pid, signal.SIGKILL)
        store = ResponseStore(path)
        numbers = range(start, durable + 1)
        found = store.get_many([key(number) for number in numbers])
        assert found == {key(number): Entry(f"answer {number}", "stop", number, 1) for number in numbers}
        assert not store.warnings
        store.close()
