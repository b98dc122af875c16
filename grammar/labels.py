"""The labels of LLM_CLASSIFY, and what the model is told about them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_LABELS = 1000
LONGEST_LABEL = 200  # characters
LONGEST_TEXT = 64 << 10  # characters of all labels and descriptions


class LabelError(ValueError):
    """What is wrong with the labels, in words."""


@dataclass(frozen=True, slots=True)
class Label:
    """One label, spelled as the result spells it, and what it means ('': the label says it)."""

    text: str
    description: str = ""


def read_labels(value: Any) -> tuple[Label, ...]:
    """The labels of a constant: a list of texts or of ``{'label': …, 'description': …}``.

    LabelError with the reason when a label is empty, given twice, too long, or there are none or too many;
    ValueError when it is something else.
    """
    if not isinstance(value, list):
        raise ValueError
    if not value:
        raise LabelError("there are no labels")
    if len(value) > MAX_LABELS:
        raise LabelError(f"there are {len(value)} labels, more than {MAX_LABELS}")
    labels: dict[str, Label] = {}
    for item in value:
        label = _label(item)
        if not label.text.strip():
            raise LabelError("a label is empty")
        if len(label.text) > LONGEST_LABEL:
            raise LabelError(f"the label {label.text[:20]!r}… is longer than {LONGEST_LABEL} characters")
        if label.text in labels:
            raise LabelError(f"the label {label.text!r} is given twice")
        labels[label.text] = label
    if sum(len(label.text) + len(label.description) for label in labels.values()) > LONGEST_TEXT:
        raise LabelError(f"labels and descriptions are longer than {LONGEST_TEXT} characters")
    return tuple(labels.values())


def _label(item: Any) -> Label:
    if item is None:
        raise LabelError("a label is NULL")
    if isinstance(item, str):
        return Label(item)
    if not isinstance(item, dict):
        raise ValueError
    for name in item.keys() - {"label", "description"}:
        raise LabelError(f"a struct has the unknown field {name!r}")
    text, description = item.get("label"), item.get("description")
    if text is None:
        raise LabelError("a label is NULL" if "label" in item else "a struct has no field 'label'")
    if not isinstance(text, str) or not isinstance(description, str | None):
        raise ValueError
    return Label(text, description or "")


def classify_instructions(labels: Sequence[Label], multi: bool) -> str:
    """What the system message says: the labels in their order, and the form of the answer."""
    lines = ["Classify the text that the user gives."]
    if multi:
        lines.append("Answer with a JSON array of every label below that applies, and nothing else.")
    else:
        lines.append("Answer with the one label below that fits best, and nothing else.")
    lines.append("Labels:")
    for label in labels:
        about = " ".join(label.description.split())
        lines.append(f"- {label.text}: {about}" if about else f"- {label.text}")
    return "\n".join(lines)
