"""Calls with side effects: noted before they are made, at most once each, whatever happens in between."""

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
from collections import Counter
from pathlib import Path

import pytest

from halo_sql.errors import EngineError
from halo_sql.tools.journal import Journal, JournalEntry
from halo_sql.tools.protocol import RetryLaterError, ToolRequest

from .desk_runners import Called, Node, a_desk, a_tool, arguments_of, echo, failing, hang, on_loop, until

ROOT = Path(__file__).parent.parent.parent
PAY = a_tool("pay", side_effects=True, volatility="stable")


async def run_once(
    journal: Journal | None, runner: Called, numbers: list[int], ends: bool = False, statement: str = "SELECT 1"
) -> Node:
    """One run of a statement; ``ends``: it ended well."""
    async with a_desk(PAY, runner, journal=journal, statement=statement) as run:
        node = await run.ask(numbers)
        if ends:
            await run.desk.finish()
        return node


@pytest.fixture
def journal(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = Journal(tmp_path / "folder" / "journal.sqlite")
    yield made
    made.close()


@on_loop
async def test_equal_calls_are_each_made_and_have_keys_of_their_own(journal: Journal) -> None:
    runner = Called(echo)
    node = await run_once(journal, runner, [1, 1, 2])
    assert node.texts() == [arguments_of(1), arguments_of(1), arguments_of(2)]
    assert node.metrics.tool_calls_coalesced == 0
    assert len({request.key for request in runner.seen}) == 3
    assert all(request.key for request in runner.seen)


@on_loop
async def test_a_rerun_gives_what_was_answered_and_makes_the_rest(journal: Journal) -> None:
    runner = Called(echo)
    await run_once(journal, runner, [1, 1])
    node = await run_once(journal, runner, [1, 1, 1, 2])
    assert node.texts() == [arguments_of(1)] * 3 + [arguments_of(2)]
    assert (node.metrics.tool_calls, node.metrics.tool_calls_from_store) == (2, 2)
    assert len(runner.seen) == 4


@on_loop
async def test_a_statement_that_ended_well_acts_anew_with_new_keys(journal: Journal) -> None:
    runner = Called(echo)
    await run_once(journal, runner, [1], ends=True)
    assert journal.entries() == []
    await run_once(journal, runner, [1])
    assert len({request.key for request in runner.seen}) == 2


@on_loop
async def test_another_statement_tool_or_version_is_another_call(journal: Journal) -> None:
    runner = Called(echo)
    await run_once(journal, runner, [1])
    await run_once(journal, runner, [1], statement="SELECT 2")
    for tool in (a_tool("refund", side_effects=True), a_tool("pay", side_effects=True, version=2)):
        async with a_desk(tool, runner, journal=journal) as run:
            await run.ask([1])
    assert len(runner.seen) == len(journal.entries()) == 4
    assert journal.finish("SELECT 2") == 1


@on_loop
async def test_what_the_tool_refused_may_be_tried_again_under_the_same_key(journal: Journal) -> None:
    runner = Called(failing(1, lambda: EngineError("no funds", code="rejected", retryable=True)))
    assert (await run_once(journal, runner, [1])).codes() == {"rejected": 1}
    assert len(runner.seen) == 1, "no attempt by itself"
    assert journal.entries()[0].error == "rejected: no funds"
    assert not journal.entries()[0].in_doubt
    assert (await run_once(journal, runner, [1])).texts() == [arguments_of(1)]
    assert runner.seen[0].key == runner.seen[1].key


@pytest.mark.parametrize(
    "error",
    [
        EngineError("reset", code="unavailable", retryable=True),
        EngineError("late", code="timeout", retryable=True),
        RetryLaterError("busy", after_s=0, code="unavailable"),
        EngineError("bug", code="engine"),
        EngineError("raised", code="tool"),
    ],
    ids=lambda error: type(error).__name__ + error.code,
)
@on_loop
async def test_what_may_have_happened_is_in_doubt_until_somebody_says(journal: Journal, error: EngineError) -> None:
    runner = Called(failing(1, lambda: error))
    assert (await run_once(journal, runner, [1])).codes() == {error.code: 1}
    node = await run_once(journal, runner, [1])
    found = node.got[0].error
    assert found is not None
    assert (found.code, len(runner.seen), node.metrics.tool_calls) == ("in_doubt", 1, 0)
    entry = journal.entries()[0]
    assert entry.in_doubt
    assert entry.key in found.remedy
    assert str(journal.path) in found.remedy
    assert journal.settle(entry.key, '"paid"')
    assert (await run_once(journal, runner, [1])).texts() == ['"paid"']
    assert not journal.settle(entry.key, '"again"'), "it is in doubt no more"
    assert journal.forget(entry.key)
    assert not journal.forget(entry.key)
    await run_once(journal, runner, [1])
    assert len(runner.seen) == 2


@on_loop
async def test_the_remedy_of_a_doubt_works_as_written(journal: Journal) -> None:
    runner = Called(failing(1, lambda: EngineError("reset", code="unavailable")))
    await run_once(journal, runner, [1])
    found = (await run_once(journal, runner, [1])).got[0].error
    assert found is not None
    with sqlite3.connect(journal.path) as other:
        other.execute(found.remedy[found.remedy.index("DELETE") :])
    other.close()
    assert (await run_once(journal, runner, [1])).texts() == [arguments_of(1)]


@on_loop
async def test_an_answer_of_no_use_is_not_fetched_by_acting_again(journal: Journal) -> None:
    async def long(request: ToolRequest) -> str:
        return '"' + "x" * (2 << 20) + '"'

    async def wrong(request: ToolRequest) -> str:
        return "no json"

    for runner, code in ((Called(long), "too_large"), (Called(wrong), "invalid_output")):
        for _ in range(2):
            assert (await run_once(journal, runner, [1], statement=code)).codes() == {code: 1}
        assert len(runner.seen) == 1


@on_loop
async def test_a_cancelled_call_is_in_doubt_and_one_not_yet_made_is_not(journal: Journal) -> None:
    runner = Called(hang)
    async with a_desk(a_tool("pay", side_effects=True, concurrency=1), runner, journal=journal) as run:
        _, channel = await run.node()
        channel.put([(0, arguments_of(1)), (1, arguments_of(2))])
        await until(lambda: runner.running == 1)
    (entry,) = journal.entries()
    assert (entry.arguments, entry.error) == (arguments_of(1), "cancelled: the call was cancelled")
    node = await run_once(journal, Called(echo), [1, 2])
    assert node.codes() == {"in_doubt": 1}
    assert node.got[1].text == arguments_of(2)


@on_loop
async def test_closing_while_the_beginning_is_being_noted_leaves_no_doubt(journal: Journal) -> None:
    for turns in range(12):
        runner = Called(hang)
        async with a_desk(PAY, runner, journal=journal, statement=f"SELECT {turns}") as run:
            _, channel = await run.node()
            channel.put([(0, arguments_of(1))])
            for _ in range(turns):
                await asyncio.sleep(0)
        entries = await asyncio.to_thread(journal.entries)
        assert len(entries) == len(runner.seen), "an entry exactly when it was called"
        for entry in entries:
            journal.forget(entry.key)


@on_loop
async def test_a_call_that_was_not_made_leaves_no_gap_for_a_rerun_to_fall_into(journal: Journal) -> None:
    early = []
    for turns in range(10):
        runner, statement = Called(echo), f"SELECT {turns}"
        async with a_desk(PAY, runner, journal=journal, statement=statement) as run:
            _, channel = await run.node()
            channel.put([(0, arguments_of(1))])
            for _ in range(turns):
                await asyncio.sleep(0)
            await channel.close()
            early.append(len(runner.seen))
            await run.ask([1])
        node = await run_once(journal, runner, [1] * len(runner.seen), statement=statement)
        assert node.metrics.tool_calls == 0, "the rerun meets what was made"
        assert len(runner.seen) == early[-1] + 1
    assert 0 in early


@on_loop
async def test_refused_credentials_let_what_runs_end(journal: Journal) -> None:
    gate = asyncio.Event()

    async def answer(request: ToolRequest) -> str:
        if request.arguments == arguments_of(0):
            raise EngineError("401", code="auth")
        await gate.wait()
        return request.arguments

    runner = Called(answer)
    async with a_desk(a_tool("pay", side_effects=True, concurrency=2), runner, journal=journal) as run:
        node, channel = await run.node()
        channel.put([(number, arguments_of(number)) for number in range(5)])
        await until(lambda: len(node.got) == 4)
        gate.set()
        await node.settled(5)
        assert node.codes() == {"auth": 4}
    assert len(runner.seen) == 2


@on_loop
async def test_a_null_for_a_failed_row_does_not_clear_the_doubt_of_an_earlier_run(journal: Journal) -> None:
    runner = Called(failing(1, lambda: EngineError("reset", code="unavailable")))
    await run_once(journal, runner, [1, 2])
    node = await run_once(journal, runner, [1, 2], ends=True)
    assert node.codes() == {"in_doubt": 2}
    assert [entry.in_doubt for entry in journal.entries()] == [True, True]
    other = Called(failing(1, lambda: EngineError("reset", code="unavailable")))
    await run_once(journal, other, [1], ends=True, statement="SELECT 2")
    assert len(journal.entries()) == 2, "what failed in the run that ended well is closed with it"


# --- the file


@on_loop
async def test_without_a_journal_nothing_is_called(tmp_path: Path) -> None:
    runner = Called(echo)
    assert (await run_once(None, runner, [1])).codes() == {"unavailable": 1}
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as other:
        other.execute("CREATE TABLE precious (a)")
    other.close()
    (tmp_path / "damaged").write_bytes(b"no database " * 1000)
    (tmp_path / "file").touch()
    reasons = {}
    for path in (foreign, tmp_path / "damaged", tmp_path / "file" / "journal", Path("/proc/none/journal")):
        journal = Journal(path)
        node = await run_once(journal, runner, [1], ends=True)
        error = node.got[0].error
        assert error is not None
        assert (error.code, str(path) in error.message) == ("unavailable", True)
        reasons[path.name] = error.message
        journal.close()
    assert "another program's" in reasons["foreign.sqlite"]
    assert runner.seen == []
    assert (tmp_path / "damaged").read_bytes() == b"no database " * 1000


@on_loop
async def test_a_closed_journal_refuses(journal: Journal) -> None:
    journal.close()
    runner = Called(echo)
    assert (await run_once(journal, runner, [1, 2])).codes() == {"unavailable": 2}
    assert runner.seen == []


def test_a_full_disk_refuses_calls_and_keeps_the_answers_of_those_made(tmp_path: Path) -> None:
    """In a process of its own: from some moment on nothing can be written there."""
    assert _child(full_disk, tmp_path / "journal.sqlite").splitlines()[-1] == "as it should be"


def full_disk(path: str) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    async def main() -> None:
        journal = Journal(Path(path))
        await run_once(journal, Called(echo), [0])

        async def fills(request: ToolRequest) -> str:
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
            return request.arguments

        runner = Called(fills)
        node = await run_once(journal, runner, [1])
        assert node.texts() == [arguments_of(1)], "it did happen"
        assert "stays in doubt" in journal.warnings[0], journal.warnings
        node = await run_once(journal, runner, [2])
        assert node.codes() == {"unavailable": 1}, node.got
        assert len(runner.seen) == 1
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert (await run_once(journal, Called(echo), [1, 2])).codes() == {"in_doubt": 1}
        journal.close()

    asyncio.run(main())
    print("as it should be")


@on_loop
async def test_the_file_is_for_its_owner_alone(journal: Journal) -> None:
    assert journal.entries() == []
    assert not journal.forget("00")
    assert journal.finish("SELECT 1") == 0
    assert not journal.path.exists(), "made when it is needed"
    await run_once(journal, Called(echo), [1])
    files = list(journal.path.parent.iterdir())
    assert journal.path in files
    assert {file.stat().st_mode & 0o077 for file in files} == {0}


@on_loop
async def test_many_calls_share_what_a_commit_costs(journal: Journal) -> None:
    runner = Called(echo)
    async with a_desk(a_tool("pay", side_effects=True, concurrency=64), runner, journal=journal) as run:
        node = await run.ask(range(1_000))
        assert node.codes() == {}
    assert len(journal.entries()) == 1_000
    assert {type(entry) for entry in journal.entries()} == {JournalEntry}


def use_journal(path: str) -> None:
    async def main() -> None:
        journal = Journal(Path(path))
        node = await run_once(journal, Called(echo), list(range(200)), ends=True, statement=f"SELECT {os.getpid()}")
        assert node.codes() == {}, node.codes()
        node = await run_once(journal, Called(echo), list(range(200)), statement="SELECT 1")
        print("in doubt", node.codes().total(), set(node.codes()), journal.warnings)
        journal.close()

    asyncio.run(main())
    print("as it should be")


def test_processes_share_the_file(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    children = [_start(use_journal, path) for _ in range(3)]
    outputs = [child.communicate(timeout=120) for child in children]
    assert all(out.splitlines()[-1] == "as it should be" for out, _ in outputs), outputs
    assert all("[]" in out and "unavailable" not in out for out, _ in outputs), outputs
    journal = Journal(path)
    assert [entry.state for entry in journal.entries()] == ["done"] * 200
    journal.close()


def test_killed_at_any_moment_nothing_happens_twice(tmp_path: Path) -> None:
    journal_path, actions = tmp_path / "journal.sqlite", tmp_path / "actions"
    calls, kills = 300, 0
    random.seed(59)
    script = [sys.executable, "-m", "tests.tools.journal_child", str(journal_path), str(actions), str(calls)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    while kills < 20:
        child = subprocess.Popen(script, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert child.stdout is not None
        assert child.stdout.readline() == "begins\n"
        time.sleep(random.uniform(0.0, 0.06))
        child.send_signal(signal.SIGKILL)
        child.communicate(timeout=60)
        kills += 1
        counted = Counter(actions.read_text().splitlines()) if actions.exists() else Counter()
        assert max(counted.values(), default=1) == 1, (kills, counted.most_common(3))
    done = subprocess.run(script, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stderr
    answered, in_doubt = map(int, done.stdout.split()[-2:])
    counted = Counter(actions.read_text().splitlines())
    assert max(counted.values()) == 1
    assert answered <= len(counted) <= answered + in_doubt == calls
    assert 0 < in_doubt <= 4 * kills, "as many as were under way when it was killed"
    journal = Journal(journal_path)
    assert sum(entry.in_doubt for entry in journal.entries()) == in_doubt
    journal.close()


def _start(work: object, path: Path) -> subprocess.Popen[str]:
    code = f"from tests.tools.test_journal import {work.__name__} as work; import sys; work(sys.argv[1])"  # type: ignore[attr-defined]
    return subprocess.Popen(
        [sys.executable, "-c", code, str(path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _child(work: object, path: Path) -> str:
    out, errors = _start(work, path).communicate(timeout=120)
    assert out, errors
    return out
