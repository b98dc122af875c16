"""What an engine's prefix cache holds, as far as it can be told from outside.

Engines keep the KV blocks of earlier prompts and drop those that were unused longest (vLLM: whole blocks, each known
by its tokens and all before them; those of a request that ends are freed last block first). The model here does the
same with pieces of text instead of blocks of tokens, so that it costs no tokenizer.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import ceil
from weakref import WeakKeyDictionary

from halo_sql.engines.protocol import Engine, EngineInfo

CHARS_PER_TOK = 4  # of a piece: a block's tokens times this; also what a token is taken for at first
FRONTS = 256  # system messages whose pieces are kept
LEAST_SHARE = 0.25  # of the capacity, when others use the cache, too
MISSED, FOUND = 0.95, 1.01  # what a wrong and a right guess do to that share

Pieces = tuple[int, ...]


class PrefixCache:
    """Pieces of prompts that an engine holds, those unused longest first.

    capacity_tok  tokens that its KV cache holds
    block_tok     tokens of a block
    share         of the capacity that is ours, as results have shown: 1 unless others use the engine, too
    piece_tok     tokens of a piece, as prompts have shown; a block's at first

    A piece is known by the hash of its text and of the pieces before it: two prompts have as many equal leading
    pieces as whole blocks of text in common.
    """

    __slots__ = ("__weakref__", "_capacity", "_fronts", "_held", "_uses", "block_tok", "chars", "piece_tok", "share")

    def __init__(self, capacity_tok: int, block_tok: int) -> None:
        self.block_tok = block_tok
        self.chars = block_tok * CHARS_PER_TOK
        self.share = 1.0
        self.piece_tok = float(block_tok)
        self._capacity = capacity_tok
        self._held: OrderedDict[object, int] = OrderedDict()  # -> number of the use
        self._uses = 0
        self._fronts: OrderedDict[str, tuple[Pieces, str]] = OrderedDict()

    def __len__(self) -> int:
        """Pieces held."""
        return len(self._held)

    @property
    def capacity_tok(self) -> float:
        """Tokens that are ours."""
        return self._capacity * self.share

    def pieces(self, system: str | None, user: str) -> Pieces:
        """The whole pieces of a prompt."""
        found, text = self._front(system)
        text += user
        chars, last = self.chars, found[-1] if found else 0
        own = []
        for end in range(chars, len(text) + 1, chars):
            last = hash((last, text[end - chars : end]))
            own.append(last)
        return found + tuple(own)

    def _front(self, system: str | None) -> tuple[Pieces, str]:
        """The pieces of a system message, and its end that fills none."""
        if not system:
            return (), ""
        known = self._fronts.get(system)
        if known is None:
            text, chars, last = f"{system}\0", self.chars, 0
            pieces = []
            for end in range(chars, len(text) + 1, chars):
                last = hash((last, text[end - chars : end]))
                pieces.append(last)
            self._fronts[system] = known = (tuple(pieces), text[len(pieces) * chars :])
            if len(self._fronts) > FRONTS:
                self._fronts.popitem(last=False)
        return known

    def warm(self, pieces: Pieces) -> int:
        """How many leading pieces are held."""
        held = self._held
        if not held or not pieces or pieces[0] not in held:
            return 0
        low, high = 1, len(pieces)
        while low < high:  # what is before a held piece was used with it and is dropped after it
            middle = (low + high + 1) // 2
            if pieces[middle - 1] in held:
                low = middle
            else:
                high = middle - 1
        return low

    def held_chars(self, system: str | None, user: str) -> int:
        """Characters of a prompt's beginning that are held; from any thread."""
        text, chars, last = f"{system}\0{user}" if system else user, self.chars, 0
        for end in range(chars, len(text) + 1, chars):
            last = hash((last, text[end - chars : end]))
            if last not in self._held:
                return end - chars
        return len(text) // chars * chars

    def use(self, pieces: Pieces, more_tok: float = 0.0) -> None:
        """A prompt was sent, or answered: ``more_tok`` tokens, its end and the answer, take room until they are the
        oldest."""
        held = self._held
        self._uses += 1
        for _ in range(ceil(more_tok / self.piece_tok)):
            held[object()] = self._uses
        for piece in reversed(pieces):
            held[piece] = self._uses
            held.move_to_end(piece)
        most = int(self._capacity * self.share / self.piece_tok)
        while len(held) > most:
            held.popitem(last=False)

    def code(self, piece: int) -> str:
        """The place of a held piece among its siblings: what was used last goes first, it is dropped last."""
        return f"\0{(1 << 48) - self._held.get(piece, 0):012x}"

    def correct(self, pieces: Pieces, guessed: int, cached_tok: int) -> None:
        """The engine took ``cached_tok`` tokens of a prompt from its cache; ``guessed`` pieces were held to be there.

        None at all where many were sure: it has forgotten everything (a restart). Fewer: others use it, too.
        """
        if guessed < 2:
            return
        if cached_tok == 0 and guessed > 2:
            self._held.clear()
        elif cached_tok < (guessed - 1) * self.piece_tok / 2:
            self.share = max(LEAST_SHARE, self.share * MISSED)
        elif self.share < 1.0:
            self.share = min(1.0, self.share * FOUND)


_known: WeakKeyDictionary[Engine, PrefixCache] = WeakKeyDictionary()


def known_cache(engine: Engine) -> PrefixCache | None:
    """The model of an engine's cache; None as long as there is none."""
    try:
        return _known.get(engine)
    except TypeError:
        return None


def cache_of(engine: Engine, info: EngineInfo) -> PrefixCache | None:
    """The model of an engine's cache, kept as long as the engine; None for an engine that tells no capacity."""
    if not info.kv_capacity_tok or not info.block_tok:
        return None
    held: Engine = getattr(engine, "engine", engine)  # a pool's engine is handed out anew to every run
    fresh = PrefixCache(info.kv_capacity_tok, info.block_tok)
    try:
        known = _known.setdefault(held, fresh)
    except TypeError:  # an engine that nothing can be kept with
        return fresh
    if known.block_tok != info.block_tok:
        known = _known[held] = fresh
    return known


def shared(left: Pieces, right: Pieces) -> int:
    """Equal leading pieces of two prompts."""
    low, high = 0, min(len(left), len(right))
    while low < high:  # equal pieces have equal pieces before them
        middle = (low + high + 1) // 2
        if left[middle - 1] == right[middle - 1]:
            low = middle
        else:
            high = middle - 1
    return low


def flagged(text: str, codes: Sequence[str], chars: int) -> str:
    """A key by which prompts sort depth first, at every piece those that are held before the others.

    ``text`` is the whole prompt, its leading pieces are held and have these ``codes``.
    """
    return f"{''.join(codes)}\1{text[len(codes) * chars :]}"
