"""What each operator takes: its arguments by position, its options, and why it takes no others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

_EVERY_CALL = ("model", "on_error", "cache", "priority")
_CHAT = ("system", "examples")
_SAMPLED = ("temperature", "top_p", "max_tokens", "seed")


@dataclass(frozen=True, slots=True)
class Signature:
    """What calls of one operator take.

    kind        of ``LlmCall``
    parameters  names of the arguments by position; the first is the prompt, the others are options
    needs       options that must be given, with what they are in words
    takes       the arguments in words, for errors
    example     a call, for errors
    options     options by name (parameters beyond the first included)
    refused     options of other operators that mean nothing here -> (why, what to do instead)
    """

    kind: str
    parameters: tuple[str, ...]
    takes: str
    example: str
    options: tuple[str, ...]
    needs: Mapping[str, str] = field(default_factory=dict)
    refused: Mapping[str, tuple[str, str]] = field(default_factory=dict)


def _refused(names: tuple[str, ...], why: str, remedy: str) -> dict[str, tuple[str, str]]:
    return dict.fromkeys(names, (why, remedy))


_ONE_PROMPT = "one prompt"
_NO_STOP = _refused(("stop",), "the answer is held to a form that a stop text would break", "Leave it out.")

SIGNATURES: Mapping[str, Signature] = {
    "LLM_MAP": Signature(
        "map",
        ("prompt",),
        _ONE_PROMPT,
        "LLM_MAP('Summarise: {{ body }}')",
        (*_EVERY_CALL, *_CHAT, *_SAMPLED, "stop", "returns", "fuse"),
    ),
    "LLM_FILTER": Signature(
        "filter",
        ("prompt",),
        _ONE_PROMPT,
        "LLM_FILTER('Is this a complaint? {{ body }}')",
        (*_EVERY_CALL, *_CHAT, *_SAMPLED, "stop", "quality", "proxy"),
        refused=_refused(("returns",), "LLM_FILTER always returns BOOLEAN", "Use LLM_MAP for another type."),
    ),
    "LLM_CLASSIFY": Signature(
        "classify",
        ("input", "labels"),
        "an input and its labels",
        "LLM_CLASSIFY(body, ['bug', 'question'])",
        (*_EVERY_CALL, *_CHAT, *_SAMPLED, "labels", "multi", "fuse"),
        needs={"labels": "labels"},
        refused={
            **_refused(
                ("returns",),
                "LLM_CLASSIFY returns VARCHAR, or VARCHAR[] with multi => true",
                "Cast its result, or use LLM_MAP with returns => 'ENUM(…)'.",
            ),
            **_NO_STOP,
        },
    ),
    "LLM_EXTRACT": Signature(
        "extract",
        ("input", "returns"),
        "an input and the STRUCT type to extract",
        "LLM_EXTRACT(body, 'STRUCT(name VARCHAR, amount DOUBLE)')",
        (*_EVERY_CALL, *_CHAT, *_SAMPLED, "returns", "fuse"),
        needs={"returns": "the type to extract"},
        refused=_NO_STOP,
    ),
    "LLM_SCORE": Signature(
        "score",
        ("prompt",),
        _ONE_PROMPT,
        "LLM_SCORE('Is this urgent? {{ body }}')",
        (*_EVERY_CALL, *_CHAT),
        refused={
            **_refused(("returns",), "LLM_SCORE always returns DOUBLE", "Cast it, or use LLM_MAP for another type."),
            **_refused(
                (*_SAMPLED, "stop"),
                "a score is read from the probabilities of yes and no, nothing is sampled",
                "Leave it out.",
            ),
        },
    ),
    "LLM_REDUCE": Signature(
        "reduce",
        ("prompt",),
        "a prompt and the inputs of the group",
        "LLM_REDUCE('Summarise', body)",
        (*_EVERY_CALL, *_CHAT, *_SAMPLED, "stop", "returns", "separator", "fan_in"),
    ),
    "LLM_RANK": Signature(
        "rank",
        ("criterion",),
        "one criterion",
        "ORDER BY LLM_RANK('How urgent is this? {{ body }}') DESC LIMIT 10",
        (*_EVERY_CALL, *_CHAT, "temperature", "top_p", "seed", "method", "fan_in"),
        refused={
            **_refused(("returns",), "LLM_RANK is a DOUBLE", "Cast it, or use LLM_MAP for another type."),
            **_refused(("max_tokens", "stop"), "the answer is a number or a letter", "Leave it out."),
        },
    ),
    "LLM_EMBED": Signature(
        "embed",
        ("text",),
        "one text",
        "LLM_EMBED(body)",
        _EVERY_CALL,
        refused={
            **_refused(("returns",), "LLM_EMBED returns FLOAT[n], n being the model's", "Cast it."),
            **_refused((*_SAMPLED, "stop"), "an embedding is computed, nothing is sampled", "Leave it out."),
            **_refused(
                _CHAT,
                "an embedding model has no chat",
                "Put words that the model wants into the text: LLM_EMBED('query: {{ body }}').",
            ),
        },
    ),
}
