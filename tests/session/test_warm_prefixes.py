"""What an engine's cache holds from earlier statements: no cost of its own, and a reason to go there."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import halo_sql
from halo_sql import replay
from halo_sql.engines.protocol import GenRequest
from halo_sql.engines.workers import WorkerGroup
from halo_sql.ir.expr import ColumnId
from halo_sql.ir.prompt import Hole, Prompt
from halo_sql.optimizer.context import OptimizerContext, WorkerProfile
from halo_sql.warm_prefixes import with_warm
from tests.engines.fake_worker import FakeWorker
from tests.optimizer.plans import T, call, llm_map

from .test_replanning import PROFILE

RULES = " ".join(f"rule {number} of the house is to be kept" for number in range(60))
QUERY = f"SELECT LLM_MAP('sum up {{{{ body }}}}', system => '{RULES}', model => '%s', max_tokens => 8) FROM t"
OTHER = f"SELECT LLM_MAP('judge {{{{ body }}}}', system => '{RULES}', model => '%s', max_tokens => 8) FROM t"

Connect = Callable[..., halo_sql.Connection]


@pytest.fixture
def connect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connect]:
    monkeypatch.setenv("HALO_HOME", str(tmp_path))
    (tmp_path / "p.toml").write_text(PROFILE + "[toy.link_bytes_per_s]\nnvlink = 1_000_000.0\nslow = 100.0\n")
    made: list[halo_sql.Connection] = []

    def opened(rows: int = 20, devices: str = "gpu0", names: str = "m", **options: object) -> halo_sql.Connection:
        con = halo_sql.connect(config={"halo_virtual_time": True, "halo_store": "off", "halo_learn": False})
        made.append(con)
        given = "".join(f", {name} = {value!r}" for name, value in options.items())
        for name in names.split():
            con.execute(
                f"CREATE TEMP MODEL {name} FROM '{tmp_path}/p.toml#toy' USING emulated WITH (tokenizer = 'words', "
                f"preloaded = true, workers = {devices.count(',') + 1}, device = '{devices}'{given})"
            )
        con.execute(f"CREATE TABLE t AS SELECT 'row ' || i AS body FROM range({rows}) r(i)")
        return con

    yield opened
    for con in made:
        con.close()


def cached(text: str) -> int:
    """Tokens expected from the cache, of an EXPLAIN text."""
    found = re.search(r"Total:.*?\(~([\d,]+) cached\)", text)
    assert found is not None, text
    return int(found[1].replace(",", ""))


def placed(text: str) -> set[str]:
    found = re.search(r"worker=(\S+)", text)
    assert found is not None, text
    return set(found[1].split(","))


def seconds(text: str) -> float:
    found = re.search(r"~([\d.]+) s of engine time", text)
    assert found is not None
    return float(found[1])


def test_the_next_statement_expects_what_this_one_left(connect: Connect) -> None:
    con = connect()
    before = con.explain(QUERY % "m")
    assert before == con.explain(QUERY % "m")
    con.execute(QUERY % "m").fetchall()
    after, other = con.explain(QUERY % "m"), con.explain(OTHER % "m")
    assert after == con.explain(QUERY % "m"), "the same each time"
    static_tok = cached(after) - cached(before)
    assert 300 < static_tok < 1000, "the system message, once more"
    assert cached(other) - cached(before) > 0.8 * static_tok, "whoever left it there"
    assert seconds(after) < seconds(before)
    con.execute(QUERY % "m").fetchall()
    profile = con.last_profile()
    assert profile is not None
    assert profile["totals"]["prompt_tok_cached"] > cached(before)


def test_another_connection_or_model_has_nothing(connect: Connect) -> None:
    con, fresh = connect(names="m n"), connect()
    before = con.explain(QUERY % "n")
    con.execute(QUERY % "m").fetchall()
    assert con.explain(QUERY % "n") == before
    assert cached(fresh.explain(QUERY % "m")) == cached(before)
    plain = "SELECT LLM_MAP('{{ body }}', model => 'm') FROM t"
    assert cached(con.explain(plain)) == 0, "prompts that begin with nothing of it"


def test_a_model_that_has_left_has_nothing(connect: Connect) -> None:
    con = connect(names="m n", gpu_memory_utilization=0.9, kv_cache_gib=0.0005)
    con.execute(QUERY % "m").fetchall()
    there = cached(con.explain(QUERY % "m"))
    con.execute(QUERY % "n").fetchall()  # takes the device's memory
    assert 20 * cached(con.explain(QUERY % "m")) == 19 * there, "the first of 20 prompts computes it again"


def test_a_dump_repeats_the_plan_with_it(connect: Connect, tmp_path: Path) -> None:
    con = connect(devices="gpu0, gpu1")
    con.execute(QUERY % "m").fetchall()
    [(_, dump)] = con.execute("EXPLAIN (DUMP) " + QUERY % "m").fetchall()
    assert '"warm"' in dump
    assert json.loads(dump)["halo_sql_dump"] == replay.FORMAT
    (tmp_path / "d.json").write_text(dump)
    with redirect_stdout(io.StringIO()) as out:
        assert replay.main([str(tmp_path / "d.json")]) == 0
    assert "differ" not in out.getvalue()


TWO = (
    QUERY.replace("rule", "law") % "m",
    QUERY.replace("rule", "duty") % "m",
)


def test_a_node_goes_to_the_worker_that_has_its_prefix(connect: Connect) -> None:
    con = connect(rows=1, devices="gpu0, gpu1")
    alone = {query: placed(con.explain(query)) for query in TWO}
    assert alone[TWO[0]] == alone[TWO[1]] == {"m/0"}, "nothing is warm"
    con.execute(" UNION ALL ".join(TWO)).fetchall()
    after = [placed(con.explain(query)) for query in TWO]
    assert sorted(map(sorted, after)) == [["m/0"], ["m/1"]], "one of them lies on the other worker"
    for query, where in zip(TWO, after, strict=True):
        con.execute(query).fetchall()
        profile = con.last_profile()
        assert profile is not None
        [number] = where
        did = profile["workers"][number]
        assert did["requests"] == 1
        assert did["prompt_tok_cached"] > 0.9 * did["prompt_tok"]


def test_a_prefix_is_moved_where_that_is_cheaper_than_computing_it(connect: Connect) -> None:
    """Rows for two workers, and a prefix that one of them has."""
    texts, moved, again = {}, {}, {}
    for link in ("nvlink", "slow"):
        con = connect(rows=1, devices="gpu0, gpu1", kv_sharing="link", link=link)
        con.execute(QUERY % "m").fetchall()
        con.execute("INSERT INTO t SELECT 'more ' || i FROM range(200) r(i)")
        texts[link] = con.explain(QUERY % "m")
        assert placed(texts[link]) == {"m/0", "m/1"}
        analyzed = con.explain(QUERY % "m", analyze=True)
        profile = con.last_profile()
        assert profile is not None
        moved[link], again[link] = (
            sum(did[key] for did in profile["workers"].values()) for key in ("prompt_tok_moved", "prompt_tok_again")
        )
        assert ("from another worker" in analyzed.split("Note:")[0]) == (link == "nvlink")
        assert ("computed that another worker has" in analyzed) == (link == "slow")
    assert "Note: gpu1 gets a prefix of m from another worker at ~0.0 s" in texts["nvlink"]
    assert "gets a prefix" not in texts["slow"]
    assert moved["nvlink"] > 300
    assert moved["slow"] == 0
    assert again["slow"] > 300
    assert again["nvlink"] < 100


class Folder:
    """A way of KV blocks from worker to worker."""

    def bytes_per_s(self) -> float:
        return 5e8

    def close(self) -> None:
        pass


def test_the_way_of_blocks_is_as_fast_as_it_was_measured() -> None:
    group = WorkerGroup([FakeWorker(), FakeWorker()], storage=Folder())
    group.router.assign([GenRequest(1, "x" * 600, "y" * 300)], [1])
    runtime: Any = SimpleNamespace(infos={"m": None}, pool=SimpleNamespace(at_hand=lambda model: group))
    models: Any = {"m": None}
    ctx = OptimizerContext(workers={"m": (WorkerProfile(0, "gpu0"), WorkerProfile(1, "gpu1"))})
    asked = replace(call(20, "x" * 600 + "{3}", model="m"), prompt=Prompt(("x" * 600, Hole(ColumnId(3))), "y" * 300))
    found = with_warm(ctx, llm_map(T, asked), models, runtime)
    assert [one.link_bytes_per_s for one in found.workers["m"]] == [5e8, 5e8]
    text = "y" * 300 + "\n" + "x" * 600
    assert [one.prefixes for one in found.workers["m"]] == [frozenset(), frozenset([text])]
    assert found.warm == {("m", text): (300 + 4 * 128) / 900}
    runtime.pool.at_hand = lambda model: None
    assert with_warm(ctx, llm_map(T, asked), models, runtime).workers == ctx.workers
