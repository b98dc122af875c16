"""Texts as token ids in which nothing is a control token, whatever the text spells."""

from __future__ import annotations

import json
from functools import cached_property
from typing import Any

from halo_sql.engines.scores import side

_MAX_SPELLINGS = 60  # of each side; vLLM takes 128 in all


class PlainText:
    """A model's tokenizer for data; thread-safe.

    standard  the tokenizer as it is, but for its own beginning, end, truncation and padding
    added     ids of its added (control) tokens
    """

    def __init__(self, tokenizer_json: str) -> None:
        from tokenizers import Tokenizer

        data = json.loads(tokenizer_json)
        data["truncation"] = data["padding"] = data["post_processor"] = None
        self.standard = Tokenizer.from_str(json.dumps(data))
        self.added = frozenset(self.standard.get_added_tokens_decoder())
        # "unknown" is what the model makes of letters it does not have, not a token that a text may spell
        self._control = self.added - {_unknown(data["model"], self.standard)}
        self._plain = Tokenizer.from_str(json.dumps(_without_control_tokens(data)))
        self._letters = _letters_of_bytes() if _is_byte_level(data) else {}
        self._deciding: dict[tuple[str, ...], dict[int, int]] = {}

    def encode(self, texts: list[str]) -> list[list[int]]:
        """Ids of texts in which nothing is a control token."""
        results: list[list[int]] = []
        for encoding, text in zip(encode_texts(self._plain, texts), texts, strict=True):
            ids: list[int] = encoding.ids
            results.append(ids if self._control.isdisjoint(ids) else self._broken_up(text))
        return results

    def _broken_up(self, text: str) -> list[int]:
        """Ids of a text whose usual encoding holds a control token's id: cut inside the spellings until none is left.

        Needed for tokenizers whose model itself knows the spelling (a Unigram piece, a whole-word vocabulary).
        """
        encoding = self._plain.encode(text, add_special_tokens=False)
        for token, (start, end) in zip(encoding.ids, encoding.offsets, strict=True):
            if token in self._control:
                if len(text) < 2:
                    return []  # one character that is itself a control token: nothing else can stand for it
                cut = min(max((start + end) // 2, 1), len(text) - 1)
                return self._broken_up(text[:cut]) + self._broken_up(text[cut:])
        ids: list[int] = encoding.ids
        return ids

    @cached_property
    def yes_no(self) -> tuple[list[int], list[int]]:
        """Ids of the tokens that spell yes, and of those that spell no (any case, with or without a space before).

        A vocabulary that has no such token for one of them gives the first tokens of the plain words instead: what
        a choice between the two begins with. ([], []) when these are the same.
        """
        found: dict[str, list[int]] = {"yes": [], "no": []}
        for token, number in self.standard.get_vocab(with_added_tokens=False).items():
            if len(token) <= 8 and (word := side(token)):
                found[word].append(number)
        if not found["yes"] or not found["no"]:
            heads = [ids[:1] for ids in self.encode(["yes", "no"])]
            found = dict(zip(found, heads if heads[0] != heads[1] else [[], []], strict=True))
        return sorted(found["yes"])[:_MAX_SPELLINGS], sorted(found["no"])[:_MAX_SPELLINGS]

    def deciding(self, choices: tuple[str, ...]) -> dict[int, int]:
        """Id of each token that an answer out of ``choices`` may begin with -> which of them it then is, by position.

        Empty when a first token does not always decide (``ne`` of negative and neutral), or when the vocabulary does
        not spell bytes as byte-level BPE does.
        """
        known = self._deciding.get(choices)
        if known is None:
            known = self._deciding[choices] = self._first_tokens(choices)
        return known

    def _first_tokens(self, choices: tuple[str, ...]) -> dict[int, int]:
        found: dict[int, int] = {}
        for place, choice in enumerate(choices):
            spelled = "".join(self._letters.get(byte, "") for byte in choice.encode("utf-8", "surrogatepass"))
            for end in range(1, len(spelled) + 1):
                token = self.standard.token_to_id(spelled[:end])
                if token is None or token in self.added:
                    continue
                if found.setdefault(token, place) != place:
                    return {}
        return found if len(set(found.values())) == len(choices) else {}


def _is_byte_level(data: dict[str, Any]) -> bool:
    """Whether the vocabulary spells bytes as letters (GPT-2)."""
    decoder = data.get("decoder") or {}
    steps = [decoder, *decoder.get("decoders", ())]
    return data["model"].get("type") == "BPE" and any(step.get("type") == "ByteLevel" for step in steps)


def _letters_of_bytes() -> dict[int, str]:
    """Byte -> its letter in byte-level BPE (Radford et al., 2019): itself if that is visible, else one above 255."""
    seen = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in seen]
    return {byte: chr(byte) for byte in seen} | {byte: chr(256 + place) for place, byte in enumerate(rest)}


def _unknown(model: dict[str, Any], tokenizer: Any) -> int | None:
    """The id of the token for what is not in the vocabulary."""
    token = model.get("unk_token")
    found: int | None = tokenizer.token_to_id(token) if isinstance(token, str) else model.get("unk_id")
    return found


def _without_control_tokens(data: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer without added tokens, and without a prefix that only the very start of a text gets."""
    plain = data | {"added_tokens": []}
    pre = plain.get("pre_tokenizer")
    if isinstance(pre, dict):
        steps = [_not_first(step) for step in pre.get("pretokenizers", ())]
        plain["pre_tokenizer"] = _not_first(pre) | ({"pretokenizers": steps} if steps else {})
    return plain


def _not_first(step: dict[str, Any]) -> dict[str, Any]:
    return step | {"prepend_scheme": "never"} if step.get("prepend_scheme") == "first" else step


def encode_texts(tokenizer: Any, texts: list[str], offsets: bool = False) -> list[Any]:
    """The encodings of texts as they stand, without a tokenizer's own beginning and end."""
    encode = tokenizer.encode_batch if offsets else tokenizer.encode_batch_fast
    try:
        found: list[Any] = encode(texts, add_special_tokens=False)
    except (TypeError, UnicodeEncodeError):  # lone surrogates are no text in UTF-8
        found = encode([text.encode("utf-8", "replace").decode() for text in texts], add_special_tokens=False)
    return found
