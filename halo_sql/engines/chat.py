"""Chats as prompt token ids: a model's template with control tokens, row data as text and nothing but text.

A chat is cut into runs between control tokens (``<|im_start|>`` and the like, wherever the template has them). Each
run (template text and contents together, as the tokenizer would merge them) is encoded by a copy of the model's
tokenizer that knows no control tokens, so a control token spelled in a row stays text. For harmless data the ids equal
those of the usual way (render the chat, encode the whole text), which is verified with samples when a model is loaded;
for tokenizers where runs cannot be encoded on their own, the whole text is encoded and checked against the template.

The prompt of a conversation that goes on begins with the ids of the prompt before, as far as the template lets it:
what a model has read and written once is found in its prefix cache.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path

from halo_sql.engines.chat_layout import Layout, Run, content, cut_runs, tail_of, with_ends
from halo_sql.engines.chat_template import ChatTemplate, Slot, load_template
from halo_sql.engines.plain_text import PlainText, encode_texts
from halo_sql.engines.protocol import GenRequest, estimate_prompt_tok, turns_of
from halo_sql.errors import EngineError

_CACHED_SYSTEMS = 128
_SAMPLES = ("Hello, world", " two  spaces ", "1 2\n\n3", "é 漢字 🙂 \t", "x", "", "\nline\n", "'s don't")


class ChatTokenizer:
    """The tokenizer and chat template of one model; thread-safe.

    identity  hash of tokenizer and template: equal identities render equal prompts
    plain     encodes texts; None: a ``PlainText``
    """

    def __init__(self, tokenizer_json: str, template: ChatTemplate, plain: PlainText | None = None) -> None:
        self._plain = plain or PlainText(tokenizer_json)
        self._standard = self._plain.standard
        self._template = template
        self._layouts: dict[tuple[bool, int], Layout | EngineError] = {}
        for with_system in (False, True):
            if isinstance(layout := self._layout(with_system, 1), EngineError):
                raise layout
        self._systems: OrderedDict[tuple[str | None, int], tuple[list[int] | Run, ...]] = OrderedDict()
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
        """Prompt token ids per request, in order; none for one of which ``refusal`` says why.

        CPU-bound (releases the interpreter lock while encoding)."""
        prompts: list[list[int]] = [[] for _ in requests]
        texts: list[str] = []
        plans: list[tuple[list[int], tuple[list[int] | Run, ...]]] = []
        layouts = self._layouts
        for prompt, request in zip(prompts, requests, strict=True):
            turns, system = turns_of(request.user), request.system
            layout = layouts.get((system is not None, len(turns))) or self._layout(system is not None, len(turns))
            if isinstance(layout, EngineError):
                continue
            if layout.whole:
                prompt.extend(self._render_whole(system, turns))
                continue
            elements = self._with_system(layout, system, len(turns))
            plans.append((prompt, elements))
            for element in elements:
                if isinstance(element, Run):
                    if element.cuts:
                        texts.extend(element.heads(system or "", turns))
                    else:
                        texts.append(element.text(system or "", turns))
        encoded = zip(self._plain.encode(texts), texts, strict=True)
        for prompt, elements in plans:
            for element in elements:
                if not isinstance(element, Run):
                    prompt.extend(element)
                elif element.cuts:
                    prompt.extend(_joined(element, encoded, self._plain))
                else:
                    prompt.extend(next(encoded)[0])
        return prompts

    def refusal(self, request: GenRequest) -> EngineError | None:
        """Why the template cannot render this conversation; None when it can."""
        layout = self._layout(request.system is not None, len(turns_of(request.user)))
        return layout if isinstance(layout, EngineError) else None

    @property
    def yes_no(self) -> tuple[list[int], list[int]]:
        """See ``PlainText.yes_no``."""
        return self._plain.yes_no

    def deciding(self, choices: tuple[str, ...]) -> dict[int, int]:
        """See ``PlainText.deciding``."""
        return self._plain.deciding(choices)

    def count(self, request: GenRequest) -> int:
        """Tokens of the rendered prompt, exact; estimated for one that is refused."""
        return len(self.render_batch([request])[0]) or estimate_prompt_tok(request)

    def _with_system(self, layout: Layout, system: str | None, turns: int) -> tuple[list[int] | Run, ...]:
        """The layout with everything but the turns' runs encoded; cached per system text and number of turns."""
        key = (system, turns)
        with self._lock:
            found = self._systems.get(key)
            if found is not None:
                self._systems.move_to_end(key)
                return found
        elements: list[list[int] | Run] = []
        for known, group in groupby(layout.runs, key=lambda item: not (isinstance(item, Run) and item.holds_turns())):
            if known:
                elements.append(self._encode_runs(group, system or "", ()))
            else:
                elements.extend(item for item in group if isinstance(item, Run))
        with self._lock:
            self._systems[key] = tuple(elements)
            while len(self._systems) > _CACHED_SYSTEMS:
                self._systems.popitem(last=False)
        return tuple(elements)

    def _encode_runs(self, items: Iterable[int | Run], system: str, turns: Sequence[str]) -> list[int]:
        ids: list[int] = []
        for item in items:
            ids.extend([item] if isinstance(item, int) else self._plain.encode([item.text(system, turns)])[0])
        return ids

    def _render_whole(self, system: str | None, turns: Sequence[str]) -> list[int]:
        """The whole text's ids, or those of the prompt before and of the runs behind it where they begin otherwise."""
        layout = self._layout(system is not None, len(turns))
        assert isinstance(layout, Layout)
        ids = self._encode_whole(layout, system or "", turns)
        if layout.tail:
            before = self._render_whole(system, turns[:-2])
            if ids[: len(before)] != before:
                return before + self._encode_runs(layout.tail, system or "", turns)
        return ids

    def _encode_whole(self, layout: Layout, system: str, turns: Sequence[str]) -> list[int]:
        """Encode the whole text; when control tokens are not exactly the template's, by runs after all."""
        text, data_spans = "", []
        for part in layout.parts:
            piece = content(part, system, turns)
            if isinstance(part, Slot):
                data_spans.append((len(text), len(text) + len(piece)))
            text += piece
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
        return self._encode_runs(layout.runs, system, turns)

    def _layout(self, with_system: bool, turns: int) -> Layout | EngineError:
        """The layout of chats of this shape, made when it is first asked for; why there is none."""
        found = self._layouts.get((with_system, turns))
        if found is None:
            try:
                found = self._made(with_system, turns)
            except EngineError as error:
                found = error
            self._layouts[with_system, turns] = found
        return found

    def _made(self, with_system: bool, turns: int) -> Layout:
        """Find the template's control tokens, and whether runs can be encoded on their own."""
        shorter = {number: self._layout(with_system, number) for number in range(1, turns, 2)}
        skeletons = {number: layout.skeleton for number, layout in shorter.items() if isinstance(layout, Layout)}
        skeleton = self._template.skeleton(with_system, turns)
        parts = with_ends(skeleton, skeletons)
        runs = tuple(cut_runs(self._standard, parts))
        tail = tail_of(runs, turns - 2)
        for sample in _SAMPLES:
            contents = [f'{{"answer": "{sample}"}}' if turn % 2 else sample for turn in range(turns)]
            for system in (sample, "You are terse."):
                text = "".join(content(part, system, contents) for part in parts)
                usual = encode_texts(self._standard, [text])[0].ids
                if self._encode_runs(runs, system, contents) != usual:
                    return Layout(skeleton, parts, runs, tail, whole=True)
        return Layout(skeleton, parts, runs, tail)


def _joined(run: Run, encoded: Iterator[tuple[list[int], str]], plain: PlainText) -> list[int]:
    """A run's ids from those of its heads: each begins with the ids of the one before, which were a prompt's."""
    ids, before = next(encoded)
    for _ in run.cuts:
        longer, text = next(encoded)
        goes_on = longer[: len(ids)] == ids
        ids = longer if goes_on else [*ids, *plain.encode([text[len(before) :]])[0]]
        before = text
    return ids
