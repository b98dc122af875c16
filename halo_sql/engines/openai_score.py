"""Scores from a server's log-probabilities: what to ask and how to read the answer. Pure functions.

First one free token is asked for: the usual answers of a chat model to a yes / no question are among its alternatives.
When they are not (a model that thinks first, or begins with white space), the answer is constrained to yes or no and
the alternatives at the place where it begins are read.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from halo_sql.engines import openai_wire as wire
from halo_sql.engines.protocol import YES_NO, GenRequest
from halo_sql.engines.scores import score, side

ALTERNATIVES = 20  # the most that servers give
CONSTRAINED_TOK = 32  # for {"answer": "yes"} in any spelling
#: An unlisted side has at most the probability of the last alternative listed: a hundredth of the other does not count.
_NEGLIGIBLE = math.log(100)

_NO_SIDE_REMEDY = "Ask what yes or no answers, of a model that answers at once, without thinking first."

_Alternatives = list[tuple[str, float]]


@dataclass(frozen=True, slots=True)
class Scored:
    """What an answer says: the score, or why there is none (``reason``, ``code``, ``remedy``).

    reply  the answer, for its counts
    again  a constrained answer may have one
    """

    reply: wire.Reply
    text: str = ""
    reason: str = ""
    code: str = "invalid_output"
    remedy: str = _NO_SIDE_REMEDY
    again: bool = False

    @property
    def tok(self) -> tuple[int, int]:
        """See ``Reply``."""
        return self.reply.tok


def asks(request: GenRequest, structured: str) -> list[tuple[GenRequest, Callable[[bytes], Scored]]]:
    """What to ask, one after the other until there is a score, and what reads the answer."""
    first = (free(request), decode_free)
    return [first] if structured == "none" else [first, (constrained(request), decode_constrained)]


def added(total: wire.Reply, reply: wire.Reply) -> wire.Reply:
    """``total`` with the tokens of one more exchange."""
    return replace(
        total,
        prompt_tok=total.prompt_tok + reply.prompt_tok,
        prompt_tok_cached=total.prompt_tok_cached + reply.prompt_tok_cached,
        output_tok=total.output_tok + reply.output_tok,
    )


def free(request: GenRequest) -> GenRequest:
    """The request for one free token."""
    return replace(request, sampling=replace(request.sampling, temperature=0.0, top_p=1.0, max_tokens=1, stop=()))


def constrained(request: GenRequest) -> GenRequest:
    """The request for an answer that is yes or no."""
    sampling = replace(request.sampling, temperature=0.0, top_p=1.0, max_tokens=CONSTRAINED_TOK, stop=())
    return replace(request, sampling=sampling, answer=YES_NO)


def encode(request: GenRequest, model: str, structured: str, extra: Mapping[str, Any]) -> bytes:
    """The JSON body of ``free`` or ``constrained``."""
    return wire.encode(request, model, structured, {"logprobs": True, "top_logprobs": ALTERNATIVES, **extra})


def decode_free(body: bytes) -> Scored:
    """The score by the first token's alternatives; raises Broken or Refused."""
    found = _decode(body, lambda text: 0, side)
    return replace(found, again=not found.text and found.code == "invalid_output")


def decode_constrained(body: bytes) -> Scored:
    """The score by the alternatives where the answer begins; raises Broken or Refused."""
    return _decode(body, wire.answer_start, _beginning)


def _decode(body: bytes, start: Callable[[str], int], side_of: Callable[[str], str]) -> Scored:
    reply = wire.decode(body)
    places = _places(body)
    if not places or all(len(alternatives) < 2 for _, alternatives in places):
        reason = "gives no log-probabilities of the alternatives to a token"
        return Scored(reply, reason=reason, code="rejected", remedy=wire.NO_LOGPROBS_REMEDY)
    offset, at = start("".join(token for token, _ in places)), 0
    for token, alternatives in places:
        at += len(token)
        if at > offset:
            return _judge(reply, alternatives, side_of)
    return Scored(reply, reason="gives no answer that begins with yes or no")


def _judge(reply: wire.Reply, alternatives: _Alternatives, side_of: Callable[[str], str]) -> Scored:
    logs: dict[str, list[float]] = {"yes": [], "no": [], "": []}
    for token, log in alternatives:
        logs[side_of(token)].append(log)
    last = min(log for _, log in alternatives)
    for one, other in (("yes", "no"), ("no", "yes")):
        if not logs[one] and not (logs[other] and max(logs[other]) - last >= _NEGLIGIBLE):
            return Scored(reply, reason=f"does not tell how likely the answer {one} is")
    return Scored(reply, score(logs["yes"], logs["no"]) or "")


def _beginning(token: str) -> str:
    """The side whose word begins with this token; '' for none (or for a token that says nothing)."""
    bare = token.strip(" \t\r\n\"'{}").lower()
    return next((word for word in YES_NO.choices if bare and word.startswith(bare)), "")


def _places(body: bytes) -> list[tuple[str, _Alternatives]]:
    """The tokens of the answer with the alternatives of each (the token itself among them); [] when not told."""
    found = json.loads(body)["choices"][0].get("logprobs")
    content = found.get("content") if isinstance(found, dict) else None
    places = []
    for entry in content if isinstance(content, list) else ():
        if not isinstance(entry, dict) or not isinstance(entry.get("token"), str):
            raise wire.Broken("its log-probabilities are not readable")
        listed = entry.get("top_logprobs")
        pairs = {}
        for item in [entry, *(listed if isinstance(listed, list) else ())]:
            token, log = (item.get("token"), item.get("logprob")) if isinstance(item, dict) else (None, None)
            if not isinstance(token, str) or not isinstance(log, int | float) or math.isnan(log):
                raise wire.Broken("its log-probabilities are not readable")
            pairs[token] = float(log)
        places.append((entry["token"], list(pairs.items())))
    return places
