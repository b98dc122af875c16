"""Scores and embeddings on vLLM: with the bundled models, and what can be checked without them."""

from __future__ import annotations

import asyncio
import json
import math
from pathlib import Path
from typing import Any

import pytest

from halo_sql.engines import bundled
from halo_sql.engines.protocol import EMBEDDING, SCORE, TEXT, YES_NO, Answer, Dialogue, GenRequest, GenResult
from halo_sql.engines.text_tokenizer import TextTokenizer
from halo_sql.engines.vectors import decode_vector
from halo_sql.engines.vllm import VllmEngine
from halo_sql.engines.vllm_model import VllmModel
from halo_sql.engines.vllm_options import check_options, engine_arguments, worker_environment
from halo_sql.engines.vllm_requests import fitted, worker_params
from halo_sql.errors import EngineError
from halo_sql.ir.prompt import Sampling

from .test_text_tokenizer import tokenizer


def cosine(one: list[float], other: list[float]) -> float:
    product = sum(a * b for a, b in zip(one, other, strict=True))
    return product / math.sqrt(sum(a * a for a in one) * sum(b * b for b in other))


# --- with the real engines ---


@pytest.mark.vllm
def test_vectors_of_like_texts_are_near(real_embedder: Any) -> None:
    texts = [
        "A cat sits on the mat.",
        "A kitten lies on a rug.",
        "Stock prices fell sharply.",
        "A cat sits on the mat.",
    ]
    results = real_embedder.ask([GenRequest(n, text, answer=EMBEDDING) for n, text in enumerate(texts)])
    assert [result.error for result in results] == [None] * 4
    cat, kitten, stock, again = (list(decode_vector(result.text)) for result in results)
    assert len(cat) == 384
    assert cosine(cat, cat) == pytest.approx(1, abs=1e-5)
    assert cosine(cat, again) == pytest.approx(1, abs=1e-5)
    assert cosine(cat, kitten) > 0.5 > 0.2 > cosine(cat, stock)
    assert [result.prompt_tok for result in results] == [9, 9, 7, 9]
    assert {(result.output_tok, result.finish, result.retries) for result in results} == {(0, "stop", 0)}


@pytest.mark.vllm
def test_texts_longer_than_the_context_are_refused_one_by_one(real_embedder: Any) -> None:
    assert real_embedder.info.context_tok == 256
    texts = ["word " * 254, "word " * 255, "[SEP] [CLS]", ""]
    results = real_embedder.ask([GenRequest(n, text, answer=EMBEDDING) for n, text in enumerate(texts)])
    assert [result.error and result.error.code for result in results] == [None, "context", None, None]
    assert "257 tokens exceeds" in results[1].error.message
    assert "truncate = true" in results[1].error.remedy
    assert [result.prompt_tok for result in results] == [256, 257, 9, 2]  # control tokens in texts are spelled out


@pytest.mark.vllm
def test_harmless_texts_get_the_ids_that_the_tokenizer_gives_them(real_embedder: Any) -> None:
    from tokenizers import Tokenizer

    folder = bundled.ensure("minilm")
    usual, ours = Tokenizer.from_file(str(folder / "tokenizer.json")), TextTokenizer.load(folder)
    usual.no_truncation()
    usual.no_padding()
    texts = ["", " Hello,  WORLD!\n\t", "naïve café", "漢字かな", "🙂 emoji", "don't", "a" * 300, "http://x.y/z?q=1"]
    given = ours.render_batch([GenRequest(n, text) for n, text in enumerate(texts)])
    assert given == [usual.encode(text).ids for text in texts]


@pytest.mark.vllm
def test_an_embedding_model_writes_nothing(real_embedder: Any) -> None:
    before = real_embedder.run(real_embedder.engine.stats())["requests"]
    forms = [TEXT, YES_NO, SCORE]
    results = real_embedder.ask([GenRequest(n, "Hi", answer=answer) for n, answer in enumerate(forms)])
    assert {(result.error.code, result.error.fatal) for result in results} == {("rejected", True)}
    assert real_embedder.run(real_embedder.engine.stats())["requests"] == before


@pytest.mark.vllm
def test_a_score_is_the_probability_of_yes(real_engine: Any) -> None:
    system = "Answer yes or no."
    reviews = ["I loved this film, wonderful!", "Terrible, boring, a waste of time."]
    asked = [f"Is this review positive? {review}" for review in reviews]
    requests = [GenRequest(n, prompt, system, answer=SCORE) for n, prompt in enumerate(asked * 2)]
    requests.append(GenRequest(4, asked[0], system, Sampling(max_tokens=3)))  # another kind in the same batch
    results = real_engine.ask(requests)
    assert [result.error for result in results] == [None] * 5
    good, bad, good_again, bad_again = (float(result.text) for result in results[:4])
    assert 1 > good > bad > 0
    assert (good, bad) == (pytest.approx(good_again, rel=1e-3), pytest.approx(bad_again, rel=1e-3))
    assert {(result.finish, result.output_tok) for result in results[:4]} == {("stop", 1)}
    assert [result.prompt_tok for result in results] == [real_engine.engine.count_tok(request) for request in requests]


@pytest.mark.vllm
def test_a_score_needs_room_for_one_token(real_engine: Any) -> None:
    context = real_engine.info.context_tok
    [result] = real_engine.ask([GenRequest(0, "word " * context, answer=SCORE)])
    assert result.error.code == "context"
    [result] = real_engine.ask([GenRequest(0, "Is it?", answer=SCORE, sampling=Sampling(max_tokens=context))])
    assert result.error is None


# --- without them ---


def model_folder(path: Path, embedding: bool = True) -> str:
    path.mkdir()
    (path / "config.json").write_text(json.dumps({"hidden_size": 8, "is_matryoshka": True}))
    (path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    (path / "tokenizer.json").write_text(tokenizer())
    if embedding:
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling" / "config.json").write_text('{"word_embedding_dimension": 8}')
    return str(path)


def model(source: str, **options: object) -> VllmModel:
    made = VllmModel(source, check_options(options), print)
    made.load_tokenizer(Path(source))
    return made


def test_arguments_follow_the_kind() -> None:
    options = check_options({})
    pooling = engine_arguments("m", options, True, "embedding")
    assert (pooling["runner"], pooling["convert"]) == ("pooling", "embed")
    assert "enable_prefix_caching" not in pooling  # vLLM turns it off for encoders
    off = engine_arguments("m", check_options({"enable_prefix_caching": False}), True, "embedding")
    assert off["enable_prefix_caching"] is False
    usual = engine_arguments("m", options, True)
    assert (usual["runner"], usual["enable_prefix_caching"], usual["logprobs_mode"]) == (
        "generate",
        True,
        "raw_logprobs",
    )
    assert worker_environment(options, cpu=True, local=True)["TORCH_COMPILE_DISABLE"] == "1"
    assert "TORCH_COMPILE_DISABLE" not in worker_environment(options, cpu=False, local=True)


def test_what_the_worker_is_asked(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "m")
    assert worker_params(Sampling(), EMBEDDING, model(source)) == {"embed": 0}
    assert worker_params(Sampling(), EMBEDDING, model(source, dimensions=8)) == {"embed": 0}  # its own length
    assert worker_params(Sampling(), EMBEDDING, model(source, dimensions=4)) == {"embed": 4}
    assert worker_params(Sampling(max_tokens=5), YES_NO, model(source))["choice"] == ["yes", "no"]


def test_steps_are_constrained_and_conversations_may_be_refused(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "m", embedding=False)
    forgets = "{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}"
    (Path(source) / "chat_template.jinja").write_text(forgets)
    writer = model(source)
    tokenizer = writer.tokenizer
    assert tokenizer is not None
    assert worker_params(Sampling(), Answer("step", '{"type":"object"}'), writer)["json"] == '{"type":"object"}'
    requests = [GenRequest(7, user) for user in ("hello", Dialogue(["hello", "world", "hello"]))]
    fine, none = tokenizer.render_batch(requests)
    assert fitted(requests[0], fine, 1000, writer) == fine
    refused = fitted(requests[1], none, 1000, writer)
    assert isinstance(refused, GenResult)
    assert refused.error is not None
    assert (refused.id, refused.error.code) == (7, "unavailable")
    assert "cannot be used for conversations" in refused.error.message


def test_long_texts_are_refused_or_cut(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "m")
    request, prompt = GenRequest(7, "hello world hello", answer=EMBEDDING), [1, 3, 4, 3, 2]
    assert fitted(request, prompt, 5, model(source)) == prompt
    refused = fitted(request, prompt, 4, model(source))
    assert isinstance(refused, GenResult)
    assert (refused.id, refused.prompt_tok) == (7, 5)
    assert refused.error is not None
    assert refused.error.code == "context"
    assert fitted(request, prompt, 4, model(source, truncate=True)) == [1, 3, 4, 2]


READY = {
    "revision": "",
    "dtype": "float32",
    "context_tok": 256,
    "kv_capacity_tok": 32,
    "max_num_seqs": 4,
    "step_tok": 2048,
    "block_tok": 16,
    "weight_bytes": 1000,
    "kv_tok_bytes": 64,
    "memory_bytes": 10_000,
    "device": "cpu",
}


def test_what_is_said_of_an_embedding_model(tmp_path: Path) -> None:
    source = model_folder(tmp_path / "m")
    info = model(source).describe(READY, "weights")
    assert info.kv_capacity_tok == 0  # an encoder has no cache: nothing is to be kept small for it
    assert info.window_tok >= 65_536
    identities = {model(source, **options).describe(READY, "weights").identity for options in (
        {}, {"dimensions": 4}, {"truncate": True}, {"engine_args": {"seed": 1}}, {"engine_args": {"seed": 2}},
    )}  # fmt: skip
    assert len(identities) == 5
    assert model(source, dimensions=8).describe(READY, "weights").identity == info.identity
    cut = model(source, truncate=True)
    cut.describe(READY, "weights")
    with pytest.raises(EngineError, match="changed"):
        cut.describe({**READY, "context_tok": 128}, "weights")


def test_the_wrong_kind_is_refused_without_starting_anything(tmp_path: Path) -> None:
    async def scenario(engine: VllmEngine, answer: Any) -> GenResult:
        delivered: list[GenResult] = []
        engine.submit([GenRequest(1, "x", answer=answer)], delivered.extend)
        await engine.close()
        assert engine.worker_pid is None
        [result] = delivered
        return result

    for name, embedding, answer in (("e", True, SCORE), ("g", False, EMBEDDING)):
        source = model_folder(tmp_path / name, embedding)
        result = asyncio.run(scenario(VllmEngine(source), answer))
        assert result.error is not None
        assert (result.error.code, result.error.fatal) == ("rejected", True)
        assert source in result.error.message
