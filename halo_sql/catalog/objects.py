"""Catalog objects and the snapshot a statement is bound against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ModelDef:
    """A MODEL.

    name     as created (lookups ignore case)
    source   hub id, directory, URL or ``bundled:name``
    engine   'vllm' | 'openai' | 'python' | 'echo' | 'replay' | 'ray'
    options  WITH (…) options, lower-case key -> value
    version  1, 2, …: CREATE OR REPLACE makes the next one
    temp     lives with the connection
    """

    name: str
    source: str
    engine: str
    options: Mapping[str, object] = field(default_factory=dict)
    version: int = 1
    temp: bool = False


@dataclass(frozen=True, slots=True)
class PromptDef:
    """A PROMPT: a template with holes, and an optional system message."""

    name: str
    text: str
    system: str | None = None
    version: int = 1
    temp: bool = False


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All objects as one statement sees them; keys are lower-case names."""

    models: Mapping[str, ModelDef] = field(default_factory=dict)
    prompts: Mapping[str, PromptDef] = field(default_factory=dict)


#: Models that exist without a CREATE MODEL.
BUILT_IN_MODELS: Mapping[str, ModelDef] = {
    "echo": ModelDef("echo", "echo", "echo"),
    "minilm": ModelDef("minilm", "bundled:minilm", "vllm"),
    "smollm2": ModelDef("smollm2", "bundled:smollm2", "vllm"),
}
