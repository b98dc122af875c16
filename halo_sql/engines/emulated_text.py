"""Prompts and answers of an emulated engine as token ids: the bundled model's tokenizer, or words.

Texts of many prompts are the same line by line (a question, a value, a heading), so lines are encoded once.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Sequence
from functools import cache
from itertools import count
from typing import Protocol

from halo_sql.engines import bundled
from halo_sql.engines.chat import ChatTokenizer
from halo_sql.engines.chat_template import load_template
from halo_sql.engines.plain_text import PlainText
from halo_sql.engines.protocol import GenRequest, turns_of
from halo_sql.errors import EngineError

AUTO, BUNDLED, WORDS = "auto", "bundled", "words"
KEPT_TOK = 20_000_000  # of lines, in all
#: Before a line break that begins a line with text, nothing a byte-level tokenizer splits at depends on what follows.
_CUT = re.compile(r"(?=\n\S)")
_SAMPLES = ("## a b\nsome text\n\n## c\n1, 2\n 3\n\n\nx", '\n\na \n b\t\nc\'s\n{"k": 1}\n漢字\n🙂', "a\n\n\n", "")
_PIECE = re.compile(r" ?\w{1,6}| ?[^\w\s]|\s")


class Texts(Protocol):
    """Texts as token ids."""

    def prompts(self, requests: Sequence[GenRequest]) -> list[list[int]]:
        """Ids of each whole prompt; none for one of which ``refusal`` says why."""
        ...

    def refusal(self, request: GenRequest) -> EngineError | None:
        """Why a prompt cannot be rendered; None when it can."""
        ...

    def answers(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of answers, without their ends."""
        ...

    def decides(self, choices: tuple[str, ...]) -> bool:
        """Whether the first token tells these choices apart, so that an answer takes one step."""
        ...


class Lines(PlainText):
    """A tokenizer that remembers lines."""

    def __init__(self, tokenizer_json: str) -> None:
        super().__init__(tokenizer_json)
        self._lines: dict[str, list[int]] = {}
        self._kept_tok = 0
        self._by_line = True
        for sample in _SAMPLES:
            if self.encode([sample]) != super().encode([sample]):
                self._by_line = False

    def encode(self, texts: list[str]) -> list[list[int]]:
        """As ``PlainText.encode``."""
        lines = self._lines
        pieces = [_CUT.split(text) if self._by_line else [text] for text in texts]
        missing = list({piece: None for found in pieces for piece in found if piece not in lines})
        if missing:
            for piece, ids in zip(missing, super().encode(missing), strict=True):
                lines[piece] = ids
                self._kept_tok += len(ids)
        results = []
        for found in pieces:
            ids = []
            for piece in found:
                ids += lines[piece]
            results.append(ids)
        if self._kept_tok > KEPT_TOK:
            self._lines, self._kept_tok = {}, 0  # another thread may be reading the old ones
        return results


class BundledTexts:
    """The tokenizer and chat template of ``bundled:smollm2``: what a vLLM worker of that model would compute."""

    def __init__(self, tokenizer_json: str, chat: ChatTokenizer, plain: PlainText) -> None:
        self._chat = chat
        self._plain = plain

    def prompts(self, requests: Sequence[GenRequest]) -> list[list[int]]:
        """See ``Texts``."""
        return self._chat.render_batch(requests)

    def refusal(self, request: GenRequest) -> EngineError | None:
        """See ``Texts``."""
        return self._chat.refusal(request)

    def answers(self, texts: Sequence[str]) -> list[list[int]]:
        """See ``Texts``."""
        return self._plain.encode(list(texts))

    def decides(self, choices: tuple[str, ...]) -> bool:
        """See ``Texts``."""
        return bool(self._chat.deciding(choices))


class WordTexts:
    """Pieces of up to six letters with the blank before them, and single signs: nothing is installed or fetched.

    A message has a token before and one behind it, and the answer's begin is one. Thread-safe."""

    def __init__(self) -> None:
        self._ids: dict[str, int] = {}
        self._numbers = count(5)
        self._lines: dict[str, list[int]] = {}
        self._kept_tok = 0

    def prompts(self, requests: Sequence[GenRequest]) -> list[list[int]]:
        """See ``Texts``."""
        results = []
        for request in requests:
            ids = []
            if request.system is not None:
                ids += [1, *self._ids_of(request.system), 2]
            for turn in turns_of(request.user):
                ids += [3, *self._ids_of(turn), 2]
            ids.append(4)
            results.append(ids)
        return results

    def refusal(self, request: GenRequest) -> EngineError | None:
        """See ``Texts``."""
        return None

    def answers(self, texts: Sequence[str]) -> list[list[int]]:
        """See ``Texts``."""
        return [self._ids_of(text) for text in texts]

    def _ids_of(self, text: str) -> list[int]:
        known = self._ids
        ids: list[int] = []
        for line in _CUT.split(text):
            found = self._lines.get(line)
            if found is None:
                pieces = _PIECE.findall(line)
                found = [known.get(piece) or known.setdefault(piece, next(self._numbers)) for piece in pieces]
                self._lines[line] = found
                self._kept_tok += len(found)
                if self._kept_tok > KEPT_TOK:
                    self._lines.clear()
                    self._kept_tok = 0
            ids += found
        return ids

    def decides(self, choices: tuple[str, ...]) -> bool:
        """See ``Texts``."""
        firsts = {tuple(ids[:1]) for ids in self.answers(choices)}
        return len(firsts) == len(choices)


def texts_of(name: str) -> Texts:
    """The tokenizer: 'bundled', 'words', or 'auto': the bundled model's where that has been fetched, else words.

    Blocking. EngineError('unavailable') when it cannot be loaded."""
    if name == WORDS or (name == AUTO and bundled.made("smollm2") is None):
        return _words()
    return _bundled(str(bundled.ensure("smollm2")))


@cache
def _words() -> WordTexts:
    return WordTexts()


@cache
def _bundled(folder: str) -> BundledTexts:
    from pathlib import Path

    try:
        text = (Path(folder) / "tokenizer.json").read_text(encoding="utf-8")
        plain = Lines(text)
        return BundledTexts(text, ChatTokenizer(text, load_template(Path(folder)), plain), plain)
    except EngineError:
        raise
    except Exception as problem:  # the tokenizers library raises bare Exception
        raise EngineError(
            f"the tokenizer of bundled:smollm2 cannot be used: {problem}",
            code="unavailable",
            remedy="Install tokenizers and jinja2, or make the model WITH (tokenizer = 'words').",
        ) from problem


def packed(ids: Sequence[int]) -> bytes:
    """Token ids as bytes, four each."""
    return array("I", ids).tobytes()
