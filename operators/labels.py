"""LLM_CLASSIFY's answers: the form asked of the model, and texts to labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from halo_sql.engines.protocol import Answer
from halo_sql.ir.prompt import LlmCall
from halo_sql.operators.read_answer import load_json


def label_form(call: LlmCall) -> Answer:
    """One label verbatim; for VARCHAR[] a JSON array of labels (``choices`` says which, to engines that decode none).

    Decoders have no 'uniqueItems': a label given twice counts once (``label_reader``).
    """
    if call.returns.kind == "varchar":
        return Answer("choice", choices=call.labels)
    item = {"type": "string", "enum": list(call.labels)}
    schema = {"type": "array", "items": item, "maxItems": len(call.labels)}
    return Answer("json", schema=json.dumps(schema, ensure_ascii=False, separators=(",", ":")), choices=call.labels)


def label_reader(call: LlmCall) -> Callable[[str], Any]:
    """The function from an answer's text to its label, or to its labels in the order of ``call.labels``.

    White space, quotes and letter case do not count where that leaves one label: a model that is not held to its
    form writes " Bug". ValueError when the answer is no label.
    """
    places = {label: place for place, label in enumerate(call.labels)}
    alike: dict[str, list[str]] = {}
    for label in call.labels:
        alike.setdefault(label.strip().lower(), []).append(label)

    def label_of(text: Any) -> str:
        if isinstance(text, str):
            if text in places:
                return text
            near = alike.get(text.strip().strip("\"'").strip().lower(), [])
            if len(near) == 1:
                return near[0]
        raise ValueError("it is none of " + ", ".join(repr(label) for label in call.labels[:20]))

    def labels_of(text: str) -> list[str]:
        found = load_json(text)
        if not isinstance(found, list):
            raise ValueError("it is not a list of labels")
        return sorted({label_of(item) for item in found}, key=places.__getitem__)

    return label_of if call.returns.kind == "varchar" else labels_of
