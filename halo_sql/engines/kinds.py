"""What a model does with a text: writes an answer, or turns it into a vector; and how long that vector is.

Both are read off the definition (options, a bundled model's name, the files of a local folder), so a statement is
bound and refused without starting anything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from halo_sql.engines.options import Option
from halo_sql.engines.protocol import Answer, Deliver, GenRequest, GenResult
from halo_sql.errors import CatalogError, EngineError

if TYPE_CHECKING:
    from halo_sql.engines.registry import Definition

GENERATE, EMBEDDING, ANY = "generate", "embedding", "any"
ECHO_DIMENSIONS = 8
MAX_DIMENSIONS = 65_536

#: Options of every engine's table.
KIND = Option("kind", "text", None, "'embedding': the model gives vectors", choices=(GENERATE, EMBEDDING))
DIMENSIONS = Option("dimensions", "integer", None, "Length of an embedding model's vectors", 1, MAX_DIMENSIONS)

#: name of a bundled embedding model -> length of its vectors
BUNDLED_DIMENSIONS: Mapping[str, int] = {"minilm": 384}
#: Ends of architecture names (config.json) whose models give vectors, and longer ends that do not.
_EMBEDDING_ENDS = ("Model", "ForTextEncoding")
_EMBEDDING_OPTIONS = ("dimensions", "truncate", "batch_size")
_OTHER_ENDS = ("LMHeadModel", "ChatModel", "ClassificationModel", "RewardModel")


def model_kind(model: Definition) -> str:
    """'generate', 'embedding', or 'any' (echo, replay: they answer both unless the option ``kind`` says otherwise)."""
    given = _option(model, "kind")
    if isinstance(given, str):
        return given.lower()
    if model.engine in ("echo", "replay"):
        return ANY
    return source_kind(model.source) if model.engine == "vllm" else GENERATE


def embedding_dimensions(model: Definition) -> int | None:
    """The length of the model's vectors where the definition fixes it; None: only the vectors will tell."""
    given = _option(model, "dimensions")
    if isinstance(given, int | float) and not isinstance(given, bool):
        return int(given)
    if model_kind(model) == GENERATE:
        return None
    if model.engine == "echo":
        return ECHO_DIMENSIONS
    return source_dimensions(model.source) if model.engine == "vllm" else None


def check_answer(model: Definition, answer: Answer) -> None:
    """EngineError with a remedy when the model's kind cannot give this form of answer."""
    problem = refusal(model_kind(model), f'model "{model.name}"', answer)
    if problem is not None:
        raise problem


def check_options_of_kind(model: Definition) -> None:
    """CatalogError for options of embedding models on another one, and for a length its vectors cannot have."""
    if model_kind(model) == GENERATE:
        for name in _EMBEDDING_OPTIONS:
            if _option(model, name) is not None:
                raise CatalogError(
                    f'option "{name}" is for embedding models, and "{model.name}" is not known as one',
                    remedy="Add kind = 'embedding' if it gives vectors, else leave the option out.",
                )
    elif model.engine == "vllm":
        check_length(model.source, embedding_dimensions(model))


def check_length(source: str, wanted: int | None) -> None:
    """CatalogError when the model that ``USING vllm FROM source`` names cannot give vectors of this length."""
    own = source_dimensions(source)
    if own is None or wanted in (None, own):
        return
    config = {} if _bundle(source) is not None else _read(Path(source).expanduser() / "config.json")
    if not (config.get("is_matryoshka") or config.get("matryoshka_dimensions")):
        raise CatalogError(
            f"the vectors of {source} have {own} numbers, not {wanted}, and it is not made for shorter ones",
            remedy="Leave out the option dimensions; part of a vector is v[1:n].",
        )


def refusal(kind: str, who: str, answer: Answer) -> EngineError | None:
    """Why a model of this kind does not give this answer; None when it does. ``who``: the model, for the message."""
    if kind == ANY or (answer.kind == "embedding") == (kind == EMBEDDING):
        return None
    if kind == EMBEDDING:
        message = f"{who} is an embedding model: it gives vectors and writes no answers"
        remedy = "Name a model that writes text, with model => …; an embedding model is for LLM_EMBED."
    else:
        message = f"{who} writes text and gives no vectors"
        remedy = (
            "Name an embedding model, like minilm; one that is not recognised as such is made with "
            "CREATE MODEL … WITH (kind = 'embedding', dimensions = …)."
        )
    return EngineError(message, code="rejected", fatal=True, remedy=remedy)


def admitted(kind: str, who: str, requests: Sequence[GenRequest], deliver: Deliver) -> Sequence[GenRequest]:
    """The requests that a model of this kind answers; the others are delivered at once, as failed."""
    if kind == ANY or not requests:
        return requests
    refused = [
        GenResult(request.id, finish="error", error=problem)
        for request in requests
        if (problem := refusal(kind, who, request.answer)) is not None
    ]
    if not refused:
        return requests
    gone = {result.id for result in refused}
    deliver(refused)
    return [request for request in requests if request.id not in gone]


def source_kind(source: str) -> str:
    """The kind of what ``USING vllm FROM source`` names, as far as this machine's files tell; else 'generate'."""
    bundle = _bundle(source)
    if bundle is not None:
        return EMBEDDING if bundle in BUNDLED_DIMENSIONS else GENERATE
    folder = Path(source).expanduser()
    if _pooling(folder) is not None:
        return EMBEDDING
    named = _read(folder / "config.json").get("architectures")
    for name in named if isinstance(named, list) else ():
        if isinstance(name, str) and name.endswith(_EMBEDDING_ENDS) and not name.endswith(_OTHER_ENDS):
            return EMBEDDING
    return GENERATE


def source_dimensions(source: str) -> int | None:
    """The length of the vectors of what ``USING vllm FROM source`` names; None when its files do not tell."""
    bundle = _bundle(source)
    if bundle is not None:
        return BUNDLED_DIMENSIONS.get(bundle)
    folder = Path(source).expanduser()
    found: object = None
    for path, kind in _modules(folder):  # the last module that changes the length decides
        if kind.endswith(".Pooling"):
            found = _read(path / "config.json").get("word_embedding_dimension", found)
        elif kind.endswith(".Dense"):
            found = _read(path / "config.json").get("out_features", found)
    if found is None:
        config = _read(folder / "config.json")
        inner = config.get("text_config")
        found = config.get("hidden_size", inner.get("hidden_size") if isinstance(inner, dict) else None)
    return found if type(found) is int and 0 < found <= MAX_DIMENSIONS else None


def _option(model: Definition, name: str) -> object:
    return next((value for key, value in model.options.items() if key.lower() == name), None)


def _bundle(source: str) -> str | None:
    scheme, colon, name = source.partition(":")
    return name.lower() if colon and scheme.lower() == "bundled" else None


def _pooling(folder: Path) -> Path | None:
    """The folder of the pooling module of a sentence-transformers model."""
    for path, kind in _modules(folder):
        if kind.endswith(".Pooling"):
            return path
    return None


def _modules(folder: Path) -> list[tuple[Path, str]]:
    """(folder, type) of a sentence-transformers model's modules, in order."""
    if not (folder / "modules.json").is_file():
        pooling = folder / "1_Pooling"
        return [(pooling, "sentence_transformers.models.Pooling")] if (pooling / "config.json").is_file() else []
    entries = _load(folder / "modules.json")
    found = []
    for entry in entries if isinstance(entries, list) else ():
        if isinstance(entry, dict) and isinstance(entry.get("path"), str) and isinstance(entry.get("type"), str):
            found.append((folder / entry["path"], entry["type"]))
    return found


def _read(path: Path) -> dict[str, Any]:
    """A JSON object; {} when there is none that can be read (the engine's start says what is wrong)."""
    found = _load(path)
    return found if isinstance(found, dict) else {}


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
