"""Chats as prompt token ids: a model's template with control tokens, row data as text and nothing but text.

A chat is cut into runs between control tokens (``<|im_start|>`` and the like, wherever the template has them). Each
run (template text and contents together, as the tokenizer would merge them) is encoded by a copy of the model's
tokenizer that knows no control tokens, so a control token spelled in a row stays text. For harmless data the ids equal
those of the usual way (render the chat, encode the whole text), which is verified with samples when a model is loaded;
for tokenizers where runs cannot be encoded on their own, the whole text is encoded and checked against the template.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from halo_sql.engines.chat_template import ChatTemplate, Part, Slot, load_template
from halo_sql.engines.plain_text import PlainText, encode_texts
from halo_sql.engines.protocol import GenRequest
from halo_sql.errors import EngineError

_CACHED_SYSTEMS = 128
#: Unicode's White_Space, which the tokenizers library strips at tokens marked lstrip / rstrip (not Python's str.strip).
_SPACE = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
_LEADING, _TRAILING = re.compile(rf"\A{_SPACE}"), re.compile(rf"{_SPACE}\Z")
_SAMPLES = ("Hello, world", " two  spaces ", "1 2\n\n3", "é 漢字 🙂 \t", "x", "", "\nline\n", "'s don't")


@dataclass(frozen=True, slots=True)
class Run:
    """Plain text between two control tokens.

    parts        template text and slots, in order
    left, right  whether the control token at that end swallows whitespace next to it
    """

    parts: tuple[Part, ...]
    left: bool = False
    right: bool = False

    def text(self, system: str, user: str) -> str:
        """The run's text for these contents."""
        text = "".join(_content(part, system, user) for part in self.parts)
        text = _LEADING.sub("", text) if self.left else text
        return _TRAILING.sub("", text) if self.right else text

    def has(self, role: str) -> bool:
        """Whether this message's content stands in the run."""
        return any(isinstance(part, Slot) and part.role == role for part in self.parts)


@dataclass(frozen=True, slots=True)
class Layout:
    """A chat of one shape (with or without a system message).

    parts  the template's skeleton
    runs   control token ids and runs, in order
    whole  whole texts must be encoded (and checked), runs cannot be encoded on their own
    """

    parts: tuple[Part, ...]
    runs: tuple[int | Run, ...]
    whole: bool = False


class ChatTokenizer:
    """The tokenizer and chat template of one model; thread-safe.

    identity  hash of tokenizer and template: equal identities render equal prompts
    """

    def __init__(self, tokenizer_json: str, template: ChatTemplate) -> None:
        self._plain = PlainText(tokenizer_json)
        self._standard = self._plain.standard
        self._layouts = {flag: self._layout(template.skeleton(flag)) for flag in (False, True)}
        self._systems: OrderedDict[str | None, tuple[list[int] | Run, ...]] = OrderedDict()
        self._lock = threading.Lock()
        source = json.dumps([tokenizer_json, template.source, sorted(template.tokens.items()), template.plain_bos])
        self.identity = hashlib.sha256(source.encode()).hexdigest()[:32]

    @classmethod
    def load(cls, folder: Path) -> ChatTokenizer:
        """From tokenizer.json, tokenizer_config.json and chat_template.jinja of a model folder.

        Raises EngineError('unavailable') when they cannot be used."""
        try:
            text = (folder / "tokenizer.json").read_text(encoding="utf-8")
            return cls(text, load_template(folder))
        except EngineError:
            raise
        except Exception as error:  # the tokenizers library raises bare Exception
            raise EngineError(
                f'The tokenizer in "{folder}" cannot be read: {error}',
                code="unavailable",
                remedy="The folder needs a valid tokenizer.json (a fast tokenizer).",
            ) from error

    def render_batch(self, requests: Sequence[GenRequest]) -> list[list[int]]:
        """Prompt token ids per request, in order. CPU-bound (releases the interpreter lock while encoding)."""
        prompts: list[list[int]] = [[] for _ in requests]
        texts: list[str] = []
        plans: list[tuple[list[int], tuple[list[int] | Run, ...]]] = []
        for prompt, request in zip(prompts, requests, strict=True):
            if self._layouts[request.system is not None].whole:
                prompt.extend(self._render_whole(request.system, request.user))
                continue
            elements = self._with_system(request.system)
            plans.append((prompt, elements))
            system = request.system or ""
            texts.extend(element.text(system, request.user) for element in elements if isinstance(element, Run))
        encoded = iter(self._plain.encode(texts))
        for prompt, elements in plans:
            for element in elements:
                prompt.extend(next(encoded) if isinstance(element, Run) else element)
        return prompts

    @property
    def yes_no(self) -> tuple[list[int], list[int]]:
        """See ``PlainText.yes_no``."""
        return self._plain.yes_no

    def count(self, request: GenRequest) -> int:
        """Tokens of the rendered prompt, exact."""
        return len(self.render_batch([request])[0])

    def _with_system(self, system: str | None) -> tuple[list[int] | Run, ...]:
        """The layout with everything but the user's runs encoded; cached per system text."""
        with self._lock:
            found = self._systems.get(system)
            if found is not None:
                self._systems.move_to_end(system)
                return found
        elements: list[list[int] | Run] = []
        for known, group in groupby(
            self._layouts[system is not None].runs, key=lambda item: not (isinstance(item, Run) and item.has("user"))
        ):
            if known:
                elements.append(self._encode_runs(group, system or "", ""))
            else:
                elements.extend(item for item in group if isinstance(item, Run))
        with self._lock:
            self._systems[system] = tuple(elements)
            while len(self._systems) > _CACHED_SYSTEMS:
                self._systems.popitem(last=False)
        return tuple(elements)

    def _encode_runs(self, items: Iterable[int | Run], system: str, user: str) -> list[int]:
        ids: list[int] = []
        for item in items:
            ids.extend([item] if isinstance(item, int) else self._plain.encode([item.text(system, user)])[0])
        return ids

    def _render_whole(self, system: str | None, user: str) -> list[int]:
        """Encode the whole text; when control tokens are not exactly the template's, by runs after all."""
        layout = self._layouts[system is not None]
        text, data_spans = "", []
        for part in layout.parts:
            content = _content(part, system or "", user)
            if isinstance(part, Slot):
                data_spans.append((len(text), len(text) + len(content)))
            text += content
        encoding = encode_texts(self._standard, [text], offsets=True)[0]
        control = [
            (token, span)
            for token, span in zip(encoding.ids, encoding.offsets, strict=True)
            if token in self._plain.added
        ]
        expected = [item for item in layout.runs if isinstance(item, int)]
        if [token for token, _ in control] == expected and not any(
            text[max(start, low) : min(end, high)].strip()  # swallowed whitespace is no spelling
            for _, (start, end) in control
            for low, high in data_spans
        ):
            ids: list[int] = encoding.ids
            return ids
        return self._encode_runs(layout.runs, system or "", user)

    def _layout(self, parts: tuple[Part, ...]) -> Layout:
        """Find the template's control tokens, and whether runs can be encoded on their own."""
        runs = tuple(_runs(self._standard, parts))
        for sample in _SAMPLES:
            for system in (sample, "You are terse."):
                text = "".join(_content(part, system, sample) for part in parts)
                usual = encode_texts(self._standard, [text])[0].ids
                if self._encode_runs(runs, system, sample) != usual:
                    return Layout(parts, runs, whole=True)
        return Layout(parts, runs)


def _content(part: Part, system: str, user: str) -> str:
    return part if isinstance(part, str) else part.fill(system if part.role == "system" else user)


def _runs(standard: Any, parts: tuple[Part, ...]) -> list[int | Run]:
    """Cut a skeleton at the control tokens that the tokenizer sees in it; contents are letters meanwhile."""
    decoder = standard.get_added_tokens_decoder()
    text, slots = "", []
    for part in parts:
        if isinstance(part, Slot):
            slots.append((len(text), part))
            text += "x"
        else:
            text += part
    encoding = standard.encode(text, add_special_tokens=False)
    found: list[int | Run] = []
    position, left = 0, False

    def close(end: int, right: bool) -> None:
        pieces: list[Part] = []
        start = position
        for at, slot in slots:
            if position <= at < end:
                pieces += [text[start:at], slot]
                start = at + 1
        pieces.append(text[start:end])
        kept = tuple(piece for piece in pieces if piece != "")
        if kept:
            found.append(Run(kept, left, right))

    for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
        if token in decoder:
            close(start, decoder[token].lstrip)
            found.append(token)
            position, left = end, decoder[token].rstrip
    close(len(text), False)
    return found
