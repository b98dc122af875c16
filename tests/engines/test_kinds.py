"""What a model does with a text, and how long its vectors are, read off its definition."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from halo_sql.catalog.objects import BUILT_IN_MODELS, ModelDef
from halo_sql.engines.protocol import EMBEDDING, SCORE, TEXT, YES_NO
from halo_sql.engines.registry import check_answer, check_model, embedding_dimensions, model_kind
from halo_sql.errors import CatalogError, EngineError

URL = "http://127.0.0.1:8000/v1"


def folder(path: Path, **files: object) -> str:
    """A model folder of JSON files; ``1_Pooling/config`` is spelled ``pooling``, ``2_Dense/config`` ``dense``."""
    names = {"pooling": "1_Pooling/config.json", "dense": "2_Dense/config.json"}
    for name, content in files.items():
        target = path / names.get(name, f"{name}.json")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(content))
    return str(path)


def both(model: ModelDef) -> tuple[str, int | None]:
    return model_kind(model), embedding_dimensions(model)


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (BUILT_IN_MODELS["minilm"], ("embedding", 384)),
        (BUILT_IN_MODELS["smollm2"], ("generate", None)),
        (BUILT_IN_MODELS["echo"], ("any", 8)),
        (ModelDef("m", "Bundled:MiniLM", "vllm", {"dimensions": 384}), ("embedding", 384)),
        (ModelDef("m", "BAAI/some-hub-id", "vllm"), ("generate", None)),
        (ModelDef("m", "BAAI/some-hub-id", "vllm", {"KIND": "Embedding", "Dimensions": 64}), ("embedding", 64)),
        (ModelDef("m", "e", "echo", {"dimensions": 3}), ("any", 3)),
        (ModelDef("m", "e", "echo", {"kind": "embedding"}), ("embedding", 8)),
        (ModelDef("m", "e", "echo", {"kind": "generate"}), ("generate", None)),
        (ModelDef("m", "f.jsonl", "replay"), ("any", None)),
        (ModelDef("m", URL, "openai"), ("generate", None)),
        (ModelDef("m", URL, "openai", {"kind": "embedding"}), ("embedding", None)),
        (ModelDef("m", "a:b", "python"), ("generate", None)),
        (ModelDef("m", "a:b", "python", {"kind": "embedding", "dimensions": 5.0}), ("embedding", 5)),
    ],
)
def test_by_definition(model: ModelDef, expected: tuple[str, int | None]) -> None:
    assert both(model) == expected


POOLING = {"word_embedding_dimension": 384}
MODULES = [
    {"idx": 0, "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
MORE = [*MODULES, {"idx": 2, "path": "2_Dense", "type": "sentence_transformers.models.Dense"}]


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"config": {"architectures": ["LlamaForCausalLM"], "hidden_size": 64}}, ("generate", None)),
        ({"config": {"architectures": ["BertModel"], "hidden_size": 64}}, ("embedding", 64)),
        ({"config": {"architectures": ["GPT2LMHeadModel"], "hidden_size": 64}}, ("generate", None)),
        ({"config": {"architectures": ["Qwen3ForCausalLM"]}, "pooling": POOLING}, ("embedding", 384)),
        ({"config": {}, "modules": MODULES, "pooling": POOLING}, ("embedding", 384)),
        (
            {"config": {}, "modules": MORE, "pooling": POOLING, "dense": {"out_features": 7}},
            ("embedding", 7),
        ),
        ({"config": {"hidden_size": 9}, "modules": MODULES}, ("embedding", 9)),
        ({"config": {"text_config": {"hidden_size": 9}}, "modules": MODULES}, ("embedding", 9)),
        ({"config": {}, "modules": MODULES, "pooling": {"word_embedding_dimension": "many"}}, ("embedding", None)),
        ({"config": [1], "modules": {"a": 1}}, ("generate", None)),
    ],
)
def test_by_the_files_of_a_folder(tmp_path: Path, files: dict[str, object], expected: tuple[str, int | None]) -> None:
    assert both(ModelDef("m", folder(tmp_path, **files), "vllm")) == expected


def test_files_that_cannot_be_read_decide_nothing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(b"\xff{")
    (tmp_path / "modules.json").write_text("[" * 100_000)
    assert both(ModelDef("m", str(tmp_path), "vllm")) == ("generate", None)


def test_a_model_gives_what_its_kind_gives() -> None:
    for answer in (TEXT, YES_NO, SCORE):
        check_answer(BUILT_IN_MODELS["smollm2"], answer)
        check_answer(BUILT_IN_MODELS["echo"], answer)
        with pytest.raises(EngineError, match='model "minilm" is an embedding model') as caught:
            check_answer(BUILT_IN_MODELS["minilm"], answer)
        assert (caught.value.code, caught.value.fatal) == ("rejected", True)
        assert "LLM_EMBED" in caught.value.remedy
    check_answer(BUILT_IN_MODELS["minilm"], EMBEDDING)
    check_answer(BUILT_IN_MODELS["echo"], EMBEDDING)
    with pytest.raises(EngineError, match='model "smollm2" writes text') as caught:
        check_answer(BUILT_IN_MODELS["smollm2"], EMBEDDING)
    assert "minilm" in caught.value.remedy
    assert "kind = 'embedding'" in caught.value.remedy


def test_options_are_checked_when_a_model_is_made() -> None:
    for engine, source in (("echo", "e"), ("replay", "f.jsonl"), ("vllm", "a/b"), ("openai", URL), ("python", "a:b")):
        check_model(ModelDef("m", source, engine, {"kind": "embedding", "dimensions": 3}))
        with pytest.raises(CatalogError, match="kind") as caught:
            check_model(ModelDef("m", source, engine, {"kind": "embeddings"}))
        assert caught.value.remedy == "It takes 'generate' or 'embedding'."
        for wrong in (0, 1.5, "3", 10**9):
            with pytest.raises(CatalogError, match="dimensions"):
                check_model(ModelDef("m", source, engine, {"dimensions": wrong}))


def test_options_of_embedding_models_are_for_these(tmp_path: Path) -> None:
    for engine, source, options in (
        ("vllm", "a/b", {"dimensions": 3}),
        ("vllm", "bundled:smollm2", {"truncate": True}),
        ("openai", URL, {"batch_size": 3}),
        ("python", "a:b", {"Dimensions": 3}),
        ("echo", "e", {"kind": "generate", "dimensions": 3}),
    ):
        with pytest.raises(CatalogError, match='for embedding models, and "m" is not') as caught:
            check_model(ModelDef("m", source, engine, options))
        assert "kind = 'embedding'" in caught.value.remedy


def test_a_length_that_a_model_cannot_give_is_refused(tmp_path: Path) -> None:
    plain = folder(tmp_path / "plain", config={"hidden_size": 64}, pooling={"word_embedding_dimension": 64})
    nested = folder(tmp_path / "nested", config={"is_matryoshka": True}, pooling={"word_embedding_dimension": 64})
    for source, dimensions in (("bundled:minilm", 384), (plain, 64), (nested, 64), (nested, 32), ("a/hub-id", 5)):
        check_model(ModelDef("m", source, "vllm", {"kind": "embedding", "dimensions": dimensions}))
    for source, dimensions in (("bundled:minilm", 100), (plain, 32)):
        with pytest.raises(CatalogError, match=f"not {dimensions}") as caught:
            check_model(ModelDef("m", source, "vllm", {"kind": "embedding", "dimensions": dimensions}))
        assert "Leave out" in caught.value.remedy
