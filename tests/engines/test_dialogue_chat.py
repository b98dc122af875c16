"""Conversations as token ids: the usual ids, each prompt the beginning of the next, no control token from any data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.engines.chat import ChatTokenizer
from halo_sql.engines.chat_template import ChatTemplate
from halo_sql.engines.protocol import Dialogue, GenRequest

from .test_chat import CHILD, KINDS, TEMPLATES, control_ids, harmless, hostile, make, tokenizer_json

TOKENS = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
#: Writes an earlier answer without what was thought before it, as templates of thinking models.
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ m.content.split('</think>')[-1] if m.role == 'assistant' else m.content }}<|im_end|>\n{% endfor %}"
    "<|im_start|>assistant\n{{ thought }}"
)
#: Leaves earlier answers out.
FORGETFUL = (
    "{% for m in messages if m.role != 'assistant' %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}<|im_start|>"
)
#: No control tokens at all, nothing between header and answer.
PLAIN = "{% for m in messages %}{{ m.content }}{{ '' if loop.last else '\n\n' }}{% endfor %}"

answers = harmless.map(lambda text: json.dumps({"answer": text}, ensure_ascii=False))
harmless_turns = st.tuples(harmless, answers, harmless, answers, harmless)
hostile_turns = st.lists(hostile, min_size=5, max_size=5)


def chat(template: str, kind: str = "byte_bpe", **tokens: str) -> ChatTokenizer:
    return ChatTokenizer(tokenizer_json(kind), ChatTemplate(template, TOKENS | tokens))


def prompts(tokenizer: ChatTokenizer, system: str | None, turns: Any) -> list[list[int]]:
    """The prompts of a conversation, from its first turn to all of it."""
    requests = [GenRequest(n, Dialogue(turns[: n + 1]), system) for n in range(0, len(turns), 2)]
    return tokenizer.render_batch(requests)


def usual(kind: str, template: str, system: str | None, turns: Any) -> list[int]:
    """Render the chat as a text and encode the whole text."""
    from tokenizers import Tokenizer

    if template == "no_system" and system is not None:
        system, turns = None, [f"{system}\n\n{turns[0]}", *turns[1:]]
    messages: list[dict[str, Any]] = [] if system is None else [{"role": "system", "content": system}]
    messages += [{"role": "assistant" if n % 2 else "user", "content": turn} for n, turn in enumerate(turns)]
    if template == "parts":
        messages = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in messages]
    text = ChatTemplate(TEMPLATES[template], TOKENS).render(messages)
    ids: list[int] = Tokenizer.from_str(tokenizer_json(kind)).encode(text, add_special_tokens=False).ids
    return ids


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=20, deadline=None)
@given(system=st.none() | harmless, turns=harmless_turns)
def test_harmless_conversations_get_the_usual_ids(kind: str, template: str, system: str | None, turns: Any) -> None:
    tokenizer = make(kind, template)
    found = prompts(tokenizer, system, turns)
    assert found == [usual(kind, template, system, turns[:n]) for n in (1, 3, 5)]
    assert found[0] == tokenizer.render_batch([GenRequest(0, turns[0], system)])[0]
    assert tokenizer.count(GenRequest(0, Dialogue(turns), system)) == len(found[2])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=30, deadline=None)
@given(system=st.none() | hostile, turns=hostile_turns)
def test_any_prompt_is_the_beginning_of_the_next_and_data_stays_data(
    kind: str, template: str, system: str | None, turns: Any
) -> None:
    found = prompts(make(kind, template), system, turns)
    for before, after in pairwise(found):
        assert after[: len(before)] == before
    control = control_ids(kind)
    innocent = usual(kind, template, None if system is None else "x", ["x"] * 5)
    assert [token for token in found[2] if token in control] == [token for token in innocent if token in control]


@pytest.mark.parametrize("kind", ["byte_bpe", "unigram_first", "unigram_always"])
def test_prompts_go_on_where_no_control_token_parts_them(kind: str) -> None:
    turns = ["he ll", '{"answer": "\n\nhe"}', "\n\n he", "\n\nll", "he"]
    for found in (prompts(chat(PLAIN, kind), system, turns) for system in (None, "hell")):
        assert [len(prompt) for prompt in found] == sorted(len(prompt) for prompt in found)
        assert found[1][: len(found[0])] == found[0]
        assert found[2][: len(found[1])] == found[1]


def test_text_is_kept_in_every_turn() -> None:
    from tokenizers import Tokenizer, decoders

    tokenizer = Tokenizer.from_str(tokenizer_json("byte_bpe"))
    tokenizer.decoder = decoders.ByteLevel()
    turns = ("<|im_end|>", "\n<|im_start|>", "<|sep|>")
    ids = make("byte_bpe", "chatml").render_batch([GenRequest(1, Dialogue(turns))])[0]
    text = "".join(
        f"<|im_start|>{role}\n{turn}<|im_end|>\n"
        for role, turn in zip(("user", "assistant", "user"), turns, strict=True)
    )
    assert tokenizer.decode(ids, skip_special_tokens=False) == text + "<|im_start|>assistant\n"


def test_a_batch_mixes_chats_of_all_lengths() -> None:
    tokenizer = make("byte_bpe", "trimmed")
    users = ["a", Dialogue(["a"]), Dialogue(["a", "b", "c"]), "b", Dialogue(["a", "b", "c", "d", "e"])]
    requests = [GenRequest(n, user, system) for n, user in enumerate(users) for system in (None, "s")]
    assert tokenizer.render_batch(requests) == [tokenizer.render_batch([request])[0] for request in requests]
    assert tokenizer.render_batch(requests[:2]) == tokenizer.render_batch(requests[2:4])


def test_a_template_that_forgets_is_refused_for_conversations_only() -> None:
    tokenizer = chat(FORGETFUL)
    single, long = GenRequest(1, "a"), GenRequest(2, Dialogue(["a", "b", "c"]))
    assert tokenizer.render_batch([long, single])[1] == tokenizer.render_batch([single])[0] != []
    assert tokenizer.render_batch([long]) == [[]]
    assert tokenizer.refusal(single) is None
    problem = tokenizer.refusal(long)
    assert problem is not None
    assert problem.code == "unavailable"
    assert "cannot be used for conversations: it leaves out a message" in problem.message
    assert tokenizer.count(long) > 0


def test_a_thinking_template_keeps_the_answers() -> None:
    turns = ["a", '{"answer": "</think>b"}', "c"]
    head = "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\n"
    first, second = prompts(chat(THINKING, thought=""), None, turns)
    assert second[: len(first)] == first
    found = prompts(chat(THINKING, thought="<think>\n"), None, turns)
    assert found[1] == second[: len(second)] + found[0][len(first) :]  # only the last header invites to think
    assert ChatTemplate(THINKING, {}).render([{"role": "user", "content": "a"}]) == head


@pytest.mark.vllm
def test_the_bundled_model_gets_the_ids_transformers_gives(bundled_model: Path) -> None:
    call = '{"calls": [{"tool": "orders", "arguments": {"customer": 3, "note": "é\\n<b> 漢字"}}]}'
    result = '{"results": [{"tool": "orders", "result": [{"id": 1, "price": 12.50}]}]}'
    turns = ('{"task": "Sum it up."}', call, result, call, result, '{"answer": " 12.5 "}', "No: try again.\n")
    dialogues = [(system, turns[:n]) for system in (None, "Be brief.") for n in (1, 3, 5, 7)]
    chats = [
        ([] if system is None else [{"role": "system", "content": system}])
        + [{"role": "assistant" if n % 2 else "user", "content": turn} for n, turn in enumerate(part)]
        for system, part in dialogues
    ]
    done = subprocess.run(
        [sys.executable, "-c", CHILD, str(bundled_model)],
        input=json.dumps(chats),
        capture_output=True,
        text=True,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    tokenizer = ChatTokenizer.load(bundled_model)
    found = [
        tokenizer.render_batch([GenRequest(n, Dialogue(part), system)])[0] for n, (system, part) in enumerate(dialogues)
    ]
    assert found == json.loads(done.stdout.partition("IDS")[2])
    for before, after in pairwise(found[:4]):
        assert after[: len(before)] == before
    assert tokenizer.count(GenRequest(1, Dialogue(turns))) == len(found[3])
