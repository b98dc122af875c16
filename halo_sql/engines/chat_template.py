"""A model's chat template as a skeleton: static text with slots where the messages' contents go.

The template (Jinja, from the model folder) is rendered once with unguessable sentinels for the contents and cut at
them. Row data is put into the slots afterwards and never runs through Jinja, so it cannot act on the template.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from halo_sql.errors import EngineError

#: For models without a chat template: system text, empty line, user text.
PLAIN_TEMPLATE = (
    "{{ bos_token if plain_bos else '' }}"
    "{% for message in messages %}{{ message['content'] }}{{ '' if loop.last else '\n\n' }}{% endfor %}"
)
_PAD = " \n\t "


@dataclass(frozen=True, slots=True)
class Slot:
    """Where a content goes.

    role  'system', 'user' or 'assistant'
    left, right  whether the template strips whitespace at that end of the content
    turn  number of the message behind the system message
    """

    role: str
    left: bool = False
    right: bool = False
    turn: int = 0

    def fill(self, content: str) -> str:
        """The content as the template would have written it."""
        content = content.lstrip() if self.left else content
        return content.rstrip() if self.right else content


Part = str | Slot
_Messages = tuple[tuple[str, int], ...]  # role and turn of each


class _TemplateMismatchError(Exception):
    """The template does not write each content once or more, unchanged but for stripping."""


@dataclass(frozen=True, slots=True)
class ChatTemplate:
    """A Jinja chat template and the special tokens it may name (``bos_token`` and the like)."""

    source: str
    tokens: Mapping[str, str]
    plain_bos: bool = False

    def skeleton(self, with_system: bool, turns: int = 1) -> tuple[Part, ...]:
        """Text and slots of a chat of an optional system message and an odd number of turns, ready for the answer.

        A template that takes no system message gets the system text in front of the first user's, as is usual.
        Raises EngineError('unavailable') for a template that does something else with contents.
        """
        messages = tuple(("assistant" if turn % 2 else "user", turn) for turn in range(turns))
        try:
            if not with_system:
                return self._cut(messages)
            try:
                return self._cut((("system", 0), *messages))
            except _TemplateMismatchError:
                return tuple(part for slot in self._cut(messages) for part in _with_system(slot))
        except _TemplateMismatchError as error:
            what = "cannot be used" if turns == 1 else "cannot be used for conversations"
            raise EngineError(
                f"The model's chat template {what}: {error}",
                code="unavailable",
                remedy="It must write the content of each message as it is; use another model or template.",
            ) from None

    def render(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """The whole chat as one text, with the header of the answer at its end."""
        from jinja2.exceptions import TemplateError

        try:
            text: str = (
                _environment()
                .from_string(self.source)
                .render(
                    messages=messages,
                    tools=None,
                    documents=None,
                    add_generation_prompt=True,
                    plain_bos=self.plain_bos,
                    **self.tokens,
                )
            )
        except (TemplateError, TypeError, ValueError, LookupError) as error:  # what template code can raise
            raise _TemplateMismatchError(str(error)) from error
        return text

    def _cut(self, messages: _Messages) -> tuple[Part, ...]:
        try:
            return self._cut_at(messages, as_list=False)
        except _TemplateMismatchError as mismatch:
            try:  # templates of multimodal models may only read a list of content parts
                return self._cut_at(messages, as_list=True)
            except _TemplateMismatchError:
                raise mismatch from None

    def _cut_at(self, wanted: _Messages, as_list: bool) -> tuple[Part, ...]:
        sentinels = {f"Halo{secrets.token_hex(12)}x": message for message in wanted}
        pattern = re.compile("(" + "|".join(sentinels) + ")")

        def pieces(pad: str) -> list[str]:
            messages: list[dict[str, Any]] = []
            for sentinel, (role, _) in sentinels.items():
                text = f"{pad}{sentinel}{pad}"
                messages.append({"role": role, "content": [{"type": "text", "text": text}] if as_list else text})
            return pattern.split(self.render(messages))

        bare, padded = pieces(""), pieces(_PAD)
        if set(bare[1::2]) != set(sentinels):
            raise _TemplateMismatchError("it leaves out a message")
        if bare[1::2] != padded[1::2]:
            raise _TemplateMismatchError("its form depends on the contents")
        # What stands in the padded rendering between two slots tells which pads the template kept.
        kept: list[tuple[bool, bool]] = []  # per static piece: of the slot before it, of the slot after it
        for index in range(0, len(bare), 2):
            before = (False,) if index == 0 else (True, False)
            after = (False,) if index == len(bare) - 1 else (True, False)
            choices = [
                (left, right)
                for left in before
                for right in after
                if padded[index] == (_PAD if left else "") + bare[index] + (_PAD if right else "")
            ]
            if not choices:
                raise _TemplateMismatchError("it changes the contents")
            kept.append(choices[0])
        parts: list[Part] = [bare[0]]
        for number, sentinel in enumerate(bare[1::2]):
            role, turn = sentinels[sentinel]
            parts.append(Slot(role, not kept[number][1], not kept[number + 1][0], turn))
            parts.append(bare[2 * number + 2])
        return tuple(part for part in parts if part != "")


def _with_system(part: Part) -> tuple[Part, ...]:
    if isinstance(part, Slot) and part.role == "user" and part.turn == 0:
        return (Slot("system", part.left, False), "\n\n", Slot("user", False, part.right))
    return (part,)


def load_template(folder: Path) -> ChatTemplate:
    """The chat template of a model folder: chat_template.jinja, else the one in tokenizer_config.json, else plain."""
    settings = _json(folder / "tokenizer_config.json")
    tokens: dict[str, str] = {}
    for found in (_json(folder / "special_tokens_map.json"), settings):
        for key, value in found.items():
            value = value.get("content") if isinstance(value, dict) else value
            if key.endswith("_token") and isinstance(value, str):
                tokens[key] = value
    path = folder / "chat_template.jinja"
    source = path.read_text(encoding="utf-8") if path.is_file() else settings.get("chat_template")
    if source is None:
        source = _json(folder / "chat_template.json").get("chat_template")
    if isinstance(source, list):  # several named ones
        named = {entry.get("name"): entry.get("template") for entry in source if isinstance(entry, dict)}
        source = named.get("default") or next(iter(named.values()), None)
    if not isinstance(source, str):
        return ChatTemplate(PLAIN_TEMPLATE, tokens, plain_bos=settings.get("add_bos_token") is True)
    return ChatTemplate(source, tokens)


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _environment() -> Any:
    """The sandbox chat templates are written for: block trimming, loop controls, tojson, raise_exception."""
    from jinja2 import nodes
    from jinja2.exceptions import TemplateError
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class Generation(Extension):
        """``{% generation %} … {% endgeneration %}`` marks training text; here it is only its body."""

        tags = {"generation"}  # noqa: RUF012 - the attribute Jinja reads

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return parser.parse_statements(("name:endgeneration",), drop_needle=True)

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    def tojson(value: Any, ensure_ascii: bool = False, **options: Any) -> str:
        return json.dumps(value, ensure_ascii=ensure_ascii, **options)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols]
    )
    environment.filters["tojson"] = tojson
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    return environment
