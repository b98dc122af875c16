"""The replay engine and its recordings."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.engines.protocol import EMBEDDING, SCORE, TEXT, YES_NO, Engine, GenRequest, GenResult, failure
from halo_sql.engines.replay import ReplayEngine, write_recording
from halo_sql.engines.vectors import decode_vector, encode_vector
from halo_sql.errors import EngineError
from halo_sql.ir.prompt import Sampling

Run = Callable[[Engine, Sequence[GenRequest]], list[GenResult]]


@settings(max_examples=30, deadline=None)
@given(st.dictionaries(st.text(), st.text(), min_size=1, max_size=5), st.none() | st.text())
def test_what_was_recorded_is_answered(
    tmp_path_factory: pytest.TempPathFactory, run_engine: Run, texts: dict[str, str], system: str | None
) -> None:
    path = tmp_path_factory.mktemp("replay") / "answers.jsonl"
    requests = [GenRequest(number, user, system) for number, user in enumerate(texts)]
    pairs = [(request, GenResult(request.id, texts[request.user], "stop", 9, 4, 3)) for request in requests]
    assert write_recording(path, pairs) == len(texts)
    assert path.stat().st_mode & 0o777 == 0o600
    assert run_engine(ReplayEngine(str(path)), requests) == [result for _, result in pairs]


def test_options_and_answer_form_tell_requests_apart(tmp_path: Path, run_engine: Run) -> None:
    path = tmp_path / "answers.jsonl"
    requests = [
        GenRequest(0, "q"),
        GenRequest(1, "q", sampling=Sampling(max_tokens=9, stop=("x",))),
        GenRequest(2, "q", answer=YES_NO),
    ]
    pairs = [(request, GenResult(request.id, f"answer {request.id}", finish="length")) for request in requests]
    failed = (GenRequest(3, "bad"), failure(3, "no", "engine"))
    assert write_recording(path, [*pairs, failed]) == 3
    results = run_engine(ReplayEngine(str(path)), requests)
    assert [(result.text, result.finish) for result in results] == [(f"answer {n}", "length") for n in range(3)]


def test_a_line_without_options_answers_any(tmp_path: Path, run_engine: Run) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text('{"user": "q", "text": "any"}\n\n{"user": "q", "text": "cold", "sampling": {"seed": 1}}\n')
    requests = [GenRequest(0, "q", answer=YES_NO), GenRequest(1, "q", sampling=Sampling(seed=1))]
    assert [result.text for result in run_engine(ReplayEngine(str(path)), requests)] == ["any", "cold"]


def test_an_unknown_prompt_is_an_error_with_a_remedy(tmp_path: Path, run_engine: Run) -> None:
    path = tmp_path / "answers.jsonl"
    write_recording(path, [(GenRequest(0, "known"), GenResult(0, "a"))])
    [result] = run_engine(ReplayEngine(str(path)), [GenRequest(5, "unknown")])
    assert result.error is not None
    assert (result.id, result.error.code) == (5, "rejected")
    assert "'unknown'" in str(result.error)
    assert "Record it" in result.error.remedy


@pytest.mark.parametrize(
    ("content", "place"),
    [
        ("{", "line 1"),
        ('{"user": "q", "text": "a"}\n{"user": "q"}', "line 2"),
        ('{"user": "q", "text": 5}', "line 1"),
        ('{"user": "q", "text": "a", "prompt_tok": -1}', "line 1"),
        ('{"user": "q", "text": "a", "sampling": {"heat": 1}}', "line 1"),
        ('{"user": "q", "text": "a", "sampling": {"temperature": []}}', "line 1"),
        (json.dumps({"user": "q", "text": "a"}) + "\n" + json.dumps({"user": "q", "text": "b"}), "another answer"),
        ("[1]", "line 1"),
    ],
)
def test_a_damaged_recording_names_the_line(tmp_path: Path, run_engine: Run, content: str, place: str) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(content)
    with pytest.raises(EngineError, match=place) as caught:
        run_engine(ReplayEngine(str(path)), [])
    assert caught.value.code == "unavailable"
    assert caught.value.remedy


def test_a_missing_file_names_the_path(tmp_path: Path, run_engine: Run) -> None:
    with pytest.raises(EngineError, match=r"missing\.jsonl"):
        run_engine(ReplayEngine(str(tmp_path / "missing.jsonl")), [])


def test_a_failed_recording_keeps_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text("old")

    def broken() -> object:
        yield GenRequest(0, "q"), GenResult(0, "a")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_recording(path, broken())  # type: ignore[arg-type]
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("answers.jsonl", "old")]


def test_scores_and_vectors_are_recorded_like_texts(tmp_path: Path, run_engine: Run) -> None:
    path = tmp_path / "answers.jsonl"
    forms = [(TEXT, "yes"), (SCORE, "0.75"), (EMBEDDING, encode_vector([1.0, 0.5]))]
    pairs = [(GenRequest(n, "q", answer=answer), GenResult(n, text)) for n, (answer, text) in enumerate(forms)]
    assert write_recording(path, pairs) == 3
    requests = [request for request, _ in pairs]
    assert run_engine(ReplayEngine(str(path)), requests) == [result for _, result in pairs]
    results = run_engine(ReplayEngine(str(path), {"kind": "embedding"}), requests)
    assert [result.error is None for result in results] == [False, False, True]
    assert list(decode_vector(results[2].text)) == [1.0, 0.5]
