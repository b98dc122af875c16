"""LLM_SCORE and LLM_EMBED through a connection: functions, servers, the store, and models of the wrong kind."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

import halo_sql

TEXTS = "(VALUES (1, 'a b'), (2, 'ccc'), (3, 'a b'), (4, NULL)) AS t(id, body)"


def connect(store: str = "off") -> halo_sql.Connection:
    return halo_sql.connect(config={"halo_store": store, "halo_default_model": "echo"})


def totals(con: halo_sql.Connection, *names: str) -> list[Any]:
    found = con.last_profile()
    assert found is not None
    return [found["totals"][name] for name in names]


def vectors(server: Any) -> str:
    return f"CREATE MODEL e FROM '{server.url}' USING openai WITH (kind = 'embedding', dimensions = 4)"


def test_a_function_gives_vectors() -> None:
    calls: list[list[str]] = []

    def embed(texts: list[str]) -> list[list[float]]:
        calls.append(texts)
        return [[len(text), text.count(" ")] for text in texts]

    with connect() as con:
        con.create_model("mine", embed, kind="embedding", dimensions=2)
        rows = con.execute(f"SELECT id, LLM_EMBED(body, model => mine) AS v FROM {TEXTS} ORDER BY id").fetchall()
        assert rows == [(1, (3.0, 1.0)), (2, (3.0, 0.0)), (3, (3.0, 1.0)), (4, None)]
        assert totals(con, "llm_calls", "output_tok", "errors") == [2, 0, 0]
        assert [sorted(texts) for texts in calls] == [["a b", "ccc"]]  # distinct texts, in one call
        con.execute("SET halo_default_embedding_model = 'mine'")
        [(near,)] = con.execute("SELECT array_distance(LLM_EMBED('abc'), LLM_EMBED('ab c'))").fetchall()
        assert near == pytest.approx(math.sqrt(2))


def test_one_text_at_fault_is_null_and_the_others_are_not() -> None:
    def embed(texts: list[str]) -> list[list[float]]:
        if "ccc" in texts:
            raise ValueError("no c")
        return [[1.0] for _ in texts]

    with connect() as con:
        con.create_model("mine", embed, kind="embedding", dimensions=1)
        sql = f"SELECT LLM_EMBED(body, model => mine, on_error => 'null') FROM {TEXTS} ORDER BY id"
        assert con.execute(sql).fetchall() == [((1.0,),), (None,), ((1.0,),), (None,)]
        with pytest.raises(halo_sql.Error, match="ValueError: no c"):
            con.execute(sql.replace("'null'", "'fail'")).fetchall()


def test_a_server_gives_vectors_once(fault_server: Any, tmp_path: Path) -> None:
    store = str(tmp_path / "responses.sqlite")
    with fault_server.FaultServer() as server:
        for calls in (2, 0):
            with connect(store) as con:
                con.execute(vectors(server))
                rows = con.execute(f"SELECT LLM_EMBED(body, model => e) AS v FROM {TEXTS} ORDER BY id").fetchall()
                counts = totals(con, "llm_calls", "llm_calls_from_store", "prompt_tok")
            assert rows == [((3.0, 1.0, 1.0, 1.0),), ((3.0, 0.0, 1.0, 1.0),), ((3.0, 1.0, 1.0, 1.0),), (None,)]
            assert counts == [calls, 2 - calls, 3 if calls else 0]
        [call] = server.calls
        assert sorted(call.body["input"]) == ["a b", "ccc"]


def test_a_server_gives_scores(fault_server: Any) -> None:
    alternatives = {
        "good? a b": {"Yes": math.log(0.6), "no": math.log(0.2)},
        "good? ccc": {" no": math.log(0.3), "yes": math.log(0.1)},
    }
    with fault_server.FaultServer(alternatives=alternatives) as server, connect() as con:
        con.execute(f"CREATE MODEL s FROM '{server.url}' USING openai")
        asked = "LLM_SCORE('good? {{ body }}', model => s)"
        rows = con.execute(f"SELECT id, {asked} FROM {TEXTS} ORDER BY id").fetchall()
        assert [row[1] for row in rows] == [pytest.approx(0.75), pytest.approx(0.25), pytest.approx(0.75), None]
        assert len(server.calls) == 2
        with pytest.raises(halo_sql.Error, match="gives no log-probabilities") as caught:
            con.execute("SELECT LLM_SCORE('something else', model => s)").fetchall()
        assert "top_logprobs" in str(caught.value)


def test_a_model_of_the_wrong_kind_is_refused_before_anything_is_sent(fault_server: Any) -> None:
    with fault_server.FaultServer() as server, connect() as con:
        con.execute(f"CREATE MODEL s FROM '{server.url}' USING openai")
        con.execute(vectors(server))
        for call in ("LLM_EMBED('x', model => s)", "LLM_MAP('x', model => e)", "LLM_SCORE('x', model => e)"):
            with pytest.raises(halo_sql.Error, match=r'model "[se]"') as caught:
                con.execute(f"SELECT {call}")
            assert "LINE 1" in str(caught.value)
        assert server.calls == []
