"""A chat template's skeleton cut into control tokens and runs of plain text between them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeGuard

from halo_sql.engines.chat_template import Part, Slot

#: Unicode's White_Space, which the tokenizers library strips at tokens marked lstrip / rstrip (not Python's str.strip).
_SPACE = "[\t-\r \x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+"
#: The role of a slot without content, where the prompt of fewer turns (``Slot.turn``) ended.
END = "end"
_LEADING, _TRAILING = re.compile(rf"\A{_SPACE}"), re.compile(rf"{_SPACE}\Z")


@dataclass(frozen=True, slots=True)
class Run:
    """Plain text between two control tokens.

    parts        template text and slots, in order
    left, right  whether the control token at that end swallows whitespace next to it
    cuts         the parts (by their index) that are the end of an earlier prompt, but for one at the very beginning
    """

    parts: tuple[Part, ...]
    left: bool = False
    right: bool = False
    cuts: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        """Find the cuts once: they are asked for with every chat."""
        cuts = tuple(number for number, part in enumerate(self.parts) if number and _is_end(part))
        object.__setattr__(self, "cuts", cuts)

    def text(self, system: str, turns: Sequence[str]) -> str:
        """The run's text for these contents."""
        text = "".join([content(part, system, turns) for part in self.parts])
        text = _LEADING.sub("", text) if self.left else text
        return _TRAILING.sub("", text) if self.right else text

    def heads(self, system: str, turns: Sequence[str]) -> list[str]:
        """The run's text up to each cut, and all of it: each as it stood in the prompt that ended there."""
        pieces = [content(part, system, turns) for part in self.parts]
        found = ["".join(pieces[:end]) for end in (*self.cuts, len(pieces))]
        if self.left:
            found = [_LEADING.sub("", head) for head in found]
        if self.right:  # what stood in an earlier prompt stays
            old = len(found[-2]) if len(found) > 1 else 0
            found[-1] = found[-1][:old] + _TRAILING.sub("", found[-1][old:])
        return found

    def holds_turns(self) -> bool:
        """Whether the content of a turn, or the end of an earlier prompt, stands in the run."""
        return any(isinstance(part, Slot) and part.role != "system" for part in self.parts)


@dataclass(frozen=True, slots=True)
class Layout:
    """A chat of one shape: with or without a system message, of so many turns.

    skeleton  the template's
    parts     the same with the ends of the prompts of fewer turns
    runs      control token ids and runs, in order
    tail      what of ``runs`` is behind the prompt of two turns fewer; (): that prompt is not the beginning of this one
    whole     whole texts must be encoded (and checked), runs cannot be encoded on their own
    """

    skeleton: tuple[Part, ...]
    parts: tuple[Part, ...]
    runs: tuple[int | Run, ...]
    tail: tuple[int | Run, ...] = ()
    whole: bool = False


def content(part: Part, system: str, turns: Sequence[str]) -> str:
    """A part's text for these contents."""
    if isinstance(part, str):
        return part
    return "" if part.role == END else part.fill(system if part.role == "system" else turns[part.turn])


def with_ends(parts: tuple[Part, ...], shorter: Mapping[int, tuple[Part, ...]]) -> tuple[Part, ...]:
    """A skeleton with the ends of the prompts that it goes on from; ``shorter``: their skeletons by number of turns."""
    found: list[Part] = list(parts)
    for turns, other in sorted(shorter.items(), reverse=True):  # from the back: places before stay what they are
        same = 0
        while same < min(len(parts), len(other)) and parts[same] == other[same]:
            same += 1
        rest = other[same:]
        if not rest:
            found.insert(same, Slot(END, turn=turns))
        elif len(rest) == 1 and same < len(parts):
            text, longer = rest[0], parts[same]
            if isinstance(text, str) and isinstance(longer, str) and longer.startswith(text):
                found[same : same + 1] = [text, Slot(END, turn=turns), longer[len(text) :]]
    return tuple(found)


def cut_runs(standard: Any, parts: tuple[Part, ...]) -> list[int | Run]:
    """Cut a skeleton at the control tokens that the tokenizer sees in it; contents are letters meanwhile."""
    decoder = standard.get_added_tokens_decoder()
    text, slots = "", []
    for part in parts:
        if isinstance(part, Slot):
            slots.append((len(text), part))
            text += "" if part.role == END else "x"
        else:
            text += part
    encoding = standard.encode(text, add_special_tokens=False)
    found: list[int | Run] = []
    position, left = 0, False

    def close(end: int, right: bool) -> None:
        pieces: list[Part] = []
        start = position
        for at, slot in slots:
            if position <= at < end or (at == end and slot.role == END):
                pieces += [text[start:at], slot]
                start = at + (slot.role != END)
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


def tail_of(runs: Sequence[int | Run], turns: int) -> tuple[int | Run, ...]:
    """The runs behind the end of the prompt of so many turns; () when there is no such end."""
    for place, item in enumerate(runs):
        if isinstance(item, int):
            continue
        for number, part in enumerate(item.parts):
            if _is_end(part) and part.turn == turns:
                first = Run(item.parts[number + 1 :], item.left and not number, item.right)
                return (first, *runs[place + 1 :])
    return ()


def _is_end(part: Part) -> TypeGuard[Slot]:
    return isinstance(part, Slot) and part.role == END
