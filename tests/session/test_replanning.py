"""Plans whose placement follows what is observed: estimates that are wrong, workers that are slow or lost."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import halo_sql
from halo_sql.engines.emulated import EmulatedEngine
from halo_sql.engines.pool import EnginePool
from halo_sql.engines.profiles import Profile, find
from halo_sql.engines.protocol import EngineInfo
from halo_sql.errors import EngineError
from halo_sql.queries import Queries

PROFILE = (
    "[toy]\nweight_bytes = 300_000\nblock_tok = 4\ncontext_tok = 4000\nmax_num_seqs = 8\n"
    "max_num_batched_tokens = 1000\n"
    "prefill_tok_per_s = 1000.0\ndecode_step_s = 0.01\nmemory_bytes = 1_000_000\nkv_tok_bytes = 10\n"
    "kv_capacity_tok = 10_000\nstart_s = 40.0\n"
)
OFF = "SET halo_disabled_rules = 'replan'"
BOTH = (
    "SELECT LLM_MAP('say {{ body }}', model => 'a', max_tokens => 1000) AS x, "
    "LLM_MAP('tell {{ body }}', model => 'b', max_tokens => 1000) AS y FROM t"
)

Answer = Callable[[str], str]
Connect = Callable[..., halo_sql.Connection]


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    """Connections with a model for each function, on two devices if not told others, a table of rows and a tool."""
    monkeypatch.setenv("HALO_HOME", str(tmp_path))
    (tmp_path / "p.toml").write_text(PROFILE)
    made: list[halo_sql.Connection] = []

    def opened(rows: int = 200, devices: dict[str, str] | None = None, **models: Answer) -> halo_sql.Connection:
        con = halo_sql.connect(config={"halo_virtual_time": True, "halo_store": "off", "halo_learn": False})
        made.append(con)
        for name, answer in models.items():
            places = (devices or {}).get(name, "gpu0, gpu1")
            con.create_model(
                name,
                lambda messages, answer=answer: answer(messages[-1]["content"]),
                engine="emulated",
                profile=f"{tmp_path}/p.toml#toy",
                tokenizer="words",
                workers=places.count(",") + 1,
                device=places,
                preloaded=True,
            )
        con.execute(f"CREATE TABLE t AS SELECT 'row ' || i AS body FROM range({rows}) r(i)")
        con.create_tool("cut", cut)
        return con

    yield opened
    for con in made:
        con.close()


async def cut(body: str) -> str:
    return " ".join(f"{body.split()[-1]}-{number}" for number in range(10))


def words(count: int) -> Answer:
    """Answers of so many tokens, which begin with the question."""
    return lambda text: " ".join([*text.split()[:3], *["word"] * (count - 3)])


def deciding(count: int) -> Answer:
    """Questions are answered yes or no, what is good by a number, the rest as by ``words``."""

    def answer(text: str) -> str:
        if "?" in text:
            return "no" if len(text.split()[2]) == 2 else "yes"
        return f"0.{text.split()[-1]}" if text.startswith("good") else words(count)(text)

    return answer


def ran(con: halo_sql.Connection, sql: str) -> tuple[list[Any], dict[str, Any], list[str]]:
    """Rows, totals and workers, what was changed."""
    rows = con.execute(sql).fetchall()
    profile = con.last_profile()
    assert profile is not None
    return rows, profile, list(profile.get("replans", []))


def compared(connect: Connect, sql: str, **given: Any) -> tuple[float, list[str], dict[str, Any]]:
    """Seconds with the placement as planned ÷ those with one that follows; what was said, and the latter's profile."""
    still = connect(**given)
    still.execute(OFF)
    rows, planned, none = ran(still, sql)
    assert none == []
    found, profile, said = ran(connect(**given), sql)
    assert sorted(map(str, found)) == sorted(map(str, rows)), "the same answers"
    assert profile["totals"]["llm_calls"] == planned["totals"]["llm_calls"], "and no call more"
    again = ran(connect(**given), sql)
    assert (again[1]["totals"]["elapsed_s"], again[2]) == (profile["totals"]["elapsed_s"], said), "the same each time"
    return planned["totals"]["elapsed_s"] / profile["totals"]["elapsed_s"], said, profile


def test_longer_answers_than_expected_get_the_other_worker_too(connect: Connect) -> None:
    ratio, said, profile = compared(connect, BOTH, a=words(30), b=words(400))
    assert ratio > 1.5
    assert "LlmMap LLM_MAP(b): output tok per call ~32, now 401" in said[0]
    assert "LlmMap LLM_MAP(b) to b/0,b/1" in said[0]
    asked = {name: did["requests"] for name, did in profile["workers"].items()}
    assert asked["b/0"] + asked["b/1"] == 200
    assert min(asked["b/0"], asked["b/1"]) > 50


def test_explain_analyze_says_why_and_where(connect: Connect) -> None:
    con = connect(a=words(30), b=words(400))
    text = con.explain(BOTH, analyze=True)
    [line] = [line for line in text.splitlines() if line.startswith("Note: re-planned at ")]
    assert "what was left ~" in line
    assert "re-planned" not in con.explain(BOTH)


def test_more_rows_than_expected(connect: Connect) -> None:
    sql = (
        "SELECT LLM_MAP('say {{ body }}', model => 'a') AS y FROM (SELECT body FROM t UNION ALL SELECT 'two ' || body "
        "FROM t UNION ALL SELECT 'three ' || body FROM t) UNION ALL "
        "SELECT LLM_MAP('tell {{ piece }}', model => 'b') AS y "
        "FROM (SELECT unnest(string_split(cut(body), ' ')) AS piece FROM t)"
    )
    devices = {"a": "gpu0, gpu1", "b": "gpu1, gpu2"}
    ratio, said, profile = compared(connect, sql, rows=100, devices=devices, a=words(30), b=words(30))
    assert ratio > 1.3
    assert "LlmMap LLM_MAP(b): calls ~100, now ~1,000" in said[0]
    asked = {name: did["requests"] for name, did in profile["workers"].items()}
    assert asked["b/0"] + asked["b/1"] == 1000
    assert asked["b/0"] > 200


def test_a_slow_worker_gives_its_rows_away(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    slowed(monkeypatch, 1, 3.0)
    ratio, said, profile = compared(connect, BOTH, a=words(30), b=words(30))
    assert ratio > 1.4
    assert re.search(r"gpu1 takes (2.\d|3) × as long", said[0]), said
    asked = {name: did["requests"] for name, did in profile["workers"].items()}
    assert asked["a/0"] + asked["b/0"] > asked["a/1"] + asked["b/1"]


def test_models_are_expected_in_the_new_order(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    expect, orders = EnginePool.expect, list[list[str]]()

    def noted(self: EnginePool, models: Sequence[str]) -> Callable[[], None]:
        orders.append(list(models))
        return expect(self, models)

    monkeypatch.setattr(EnginePool, "expect", noted)
    con = connect(a=words(30), b=words(400))
    _, _, said = ran(con, BOTH)
    assert len(said) == 1
    assert orders == [["a", "b"], ["a", "b"]]
    assert not con._link.open().queries._runtime.pool.residency._orders, "nothing is expected behind the run"


NESTED = (
    "SELECT LLM_MAP('judge {{ x }} and {{ y }}', model => 'a', max_tokens => 600) AS z FROM (SELECT body, "
    "LLM_MAP('say {{ body }}', model => 'a', max_tokens => 600) AS x, "
    "LLM_MAP('tell {{ body }}', model => 'b', max_tokens => 600) AS y FROM t)"
)
KEPT = (
    "SELECT body, LLM_MAP('say {{ body }}', model => 'a', max_tokens => 600) AS x FROM t "
    "WHERE LLM_FILTER('keep {{ body }}?', model => 'b') AND LLM_FILTER('odd {{ body }}?', model => 'a')"
)
BEST = "SELECT body FROM t ORDER BY LLM_SCORE('good {{ body }}', model => 'b') DESC, body LIMIT 5"


@pytest.mark.parametrize("sql", [NESTED, KEPT, BEST, NESTED + " LIMIT 7", KEPT + " LIMIT 7"])
def test_answers_and_calls_are_those_of_the_plan(connect: Connect, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    slowed(monkeypatch, 1, 4.0)
    ratio, _, _ = compared(connect, sql, rows=60, a=deciding(20), b=deciding(300))
    assert ratio > 0.8, "a plan that follows may be wrong about the future, not by much"


def planned_late(monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    """Planning begins late enough for engines to start before; which had started, for each planning."""
    started: list[set[str]] = []
    optimize = Queries.optimize

    def later(self: Queries, *args: Any, **rest: Any) -> Any:
        time.sleep(0.2)
        started.append(self._runtime.pool.started())
        return optimize(self, *args, **rest)

    monkeypatch.setattr(Queries, "optimize", later)
    return started


def test_a_plan_does_not_depend_on_how_far_starts_are(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    con = connect(a=words(30), b=words(30))
    started = planned_late(monkeypatch)
    assert len(con.execute(BOTH).fetchall()) == 200
    assert started == [set()]


def test_a_batch_is_planned_before_anything_starts(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    con = connect(a=words(30), b=words(30))
    started = planned_late(monkeypatch)
    statements = [BOTH, BOTH.replace("say", "sing")]
    assert "worker=a/0,b/1" in con.explain_batch(statements)
    assert started == [set(), set()], "EXPLAIN starts no engine"
    assert [len(result.fetchall()) for result in con.execute_batch(statements)] == [200, 200]
    assert started == [set()] * 4
    con.explain_batch(statements)
    assert started[4:] == [{"a", "b"}] * 2


def test_right_estimates_are_left_alone(connect: Connect) -> None:
    ratio, said, _ = compared(connect, BOTH, a=words(30), b=words(30))
    assert (ratio, said) == (1.0, [])


def test_drifts_that_no_other_placement_helps_change_nothing(connect: Connect) -> None:
    sql = "SELECT LLM_MAP('say {{ body }}', model => 'a', max_tokens => 1000) FROM t"
    ratio, said, _ = compared(connect, sql, a=words(300))  # both workers run it already
    assert (ratio, said) == (1.0, [])


def test_statements_of_a_batch_are_placed_anew_together(connect: Connect) -> None:
    statements = [BOTH, BOTH.replace("say", "sing").replace("tell", "hum")]
    seconds: list[float] = []
    answers: list[Any] = []
    for off in (True, False):
        con = connect(a=words(30), b=words(400))
        if off:
            con.execute(OFF)
        assert "worker=a/0,b/1" in con.explain_batch(statements), "by the estimates both models have as much to do"
        answers.append([sorted(result.fetchall()) for result in con.execute_batch(statements)])
        profile = con._link.open().last_profile()
        assert profile is not None
        assert bool(profile.replans) is not off
        seconds.append(max(node.wait_s for node in profile.nodes.values()))
    assert answers[0] == answers[1]
    assert [len(one) for one in answers[0]] == [200, 200]
    assert seconds[0] > 1.4 * seconds[1]


def test_a_worker_that_is_lost_leaves_its_rows_to_the_others(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    start = EmulatedEngine.start

    async def failing(self: EmulatedEngine) -> EngineInfo:
        if self._device_name == "gpu1" and self.name == "b":
            raise EngineError("no such device", code="unavailable", fatal=True)
        return await start(self)

    monkeypatch.setattr(EmulatedEngine, "start", failing)
    ratio, said, profile = compared(connect, BOTH, a=words(30), b=words(30))
    assert ratio > 1.3
    assert "worker b/1 is lost" in said[0]
    assert "LlmMap LLM_MAP(a) to a/1" in said[0], "which leaves the other device to b"
    assert profile["workers"]["b/0"]["requests"] == 200


def slowed(monkeypatch: pytest.MonkeyPatch, worker: int, pace: float) -> None:
    """One worker of each model takes so many times longer than its profile says."""
    made = EmulatedEngine.__init__

    def slow(self: EmulatedEngine, name: str, source: str, *args: Any, **rest: Any) -> None:
        if rest.get("worker") == worker:
            known = find(source)
            figures = {"prefill_tok_per_s": known.prefill_tok_per_s / pace, "decode_step_s": known.decode_step_s * pace}
            fields = {field: getattr(known, field) for field in Profile.__slots__} | figures  # type: ignore[attr-defined]
            rest["profile"] = Profile(**fields)
        made(self, name, source, *args, **rest)

    monkeypatch.setattr(EmulatedEngine, "__init__", slow)
