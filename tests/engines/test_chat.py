"""Chats as token ids: equal to the usual tokenisation for harmless data, no control token from any data."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from halo_sql.engines.chat import ChatTokenizer
from halo_sql.engines.chat_template import ChatTemplate, Slot, load_template
from halo_sql.engines.protocol import GenRequest
from halo_sql.errors import EngineError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
#: Trims contents and starts with the beginning-of-text token, as Llama 3 does.
TRIMMED = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}<|im_end|>\n\n{{ m.content | trim }}<|sep|>"
    "{% endfor %}{% generation %}<|im_start|>assistant{% endgeneration %}"
)
#: Takes no system message, as Gemma's first version.
NO_SYSTEM = (
    "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.content }}<|im_end|>{% endfor %}"
)
#: Reads content parts only, as templates of multimodal models.
PARTS = (
    "{% for m in messages %}<|im_start|>{% for part in m.content %}"
    "{% if part is mapping and part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>{% endfor %}"
)
#: Starts with text, so that its first run is unlike the others for tokenizers with a prefix for the first word.
BARE = "{% for m in messages %}{{ m.role }}: {{ m.content }}<|sep|>{% endfor %}assistant:"
CONTROL = ("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|sep|>", "[tool]")
TEMPLATES = {"chatml": CHATML, "trimmed": TRIMMED, "no_system": NO_SYSTEM, "parts": PARTS, "bare": BARE}


def added(number: int, content: str, **flags: bool) -> dict[str, Any]:
    off = dict.fromkeys(("single_word", "lstrip", "rstrip", "normalized", "special"), False)
    return {"id": number, "content": content} | off | flags


def byte_alphabet() -> list[str]:
    """The 256 letters byte-level tokenizers write bytes with."""
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [chr(byte) for byte in kept] + [chr(256 + number) for number in range(256 - len(kept))]


def tokenizer_json(kind: str) -> str:
    """Small tokenizers of the kinds in use; control tokens have ids from 1000."""
    control: list[dict[str, Any]] = [added(1000 + n, text, special=n < 4) for n, text in enumerate(CONTROL)]
    data: dict[str, Any] = {"version": "1.0", "normalizer": None, "decoder": None, "truncation": None, "padding": None}
    if kind in ("byte_bpe", "stripping", "normalizing"):
        merges = [["h", "e"], ["l", "l"], ["he", "ll"], ["Ġ", "t"], ["Ċ", "Ċ"], ["<", "|"], ["|", ">"]]
        words = byte_alphabet() + ["".join(pair) for pair in merges]
        model: dict[str, Any] = {"type": "BPE", "vocab": {w: n for n, w in enumerate(words)}, "merges": merges}
        data["pre_tokenizer"] = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        }
        if kind == "stripping":
            control[0]["rstrip"] = control[1]["lstrip"] = control[1]["rstrip"] = True
        if kind == "normalizing":  # full-width letters become plain ones, also in spellings of control tokens
            data["normalizer"] = {"type": "NFKC"}
            control[4]["normalized"] = control[3]["normalized"] = True
    elif kind == "whole_words":  # the model itself knows the spellings, as with ignore_merges
        letters = byte_alphabet()
        vocab = {letter: n for n, letter in enumerate(letters)} | {t["content"]: t["id"] for t in control}
        model = {"type": "BPE", "vocab": vocab, "merges": [], "ignore_merges": True}
        data["pre_tokenizer"] = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": False,
        }
    else:  # SentencePiece style: a piece table that holds the spellings, a prefix for the first word only
        pieces: list[list[Any]] = [["<unk>", 0.0], ["▁", -2.0], ["▁he", -3.0], ["ll", -3.0]]
        pieces += [[chr(c), -6.0] for c in range(33, 127)] + [[text, 0.0] for text in CONTROL[:2]]
        model = {"type": "Unigram", "unk_id": 0, "vocab": pieces, "byte_fallback": False}
        scheme = "first" if kind == "unigram_first" else "always"
        data["pre_tokenizer"] = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": False}
        for token in control[:2]:
            token["id"] = pieces.index([token["content"], 0.0])
    return json.dumps(data | {"added_tokens": control, "post_processor": None, "model": model})


KINDS = ("byte_bpe", "stripping", "normalizing", "whole_words", "unigram_first", "unigram_always")
_made: dict[tuple[str, str], ChatTokenizer] = {}


def make(kind: str, template: str) -> ChatTokenizer:
    if (kind, template) not in _made:
        tokens = {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"}
        _made[kind, template] = ChatTokenizer(tokenizer_json(kind), ChatTemplate(TEMPLATES[template], tokens))
    return _made[kind, template]


def usual(kind: str, template: str, system: str | None, user: str) -> list[int]:
    """Render the chat as a text and encode the whole text."""
    from tokenizers import Tokenizer

    chat = ChatTemplate(TEMPLATES[template], {"bos_token": "<|endoftext|>", "eos_token": "<|im_end|>"})
    if template == "no_system" and system is not None:
        system, user = None, f"{system}\n\n{user}"
    messages: list[dict[str, Any]] = [{"role": "user", "content": user}]
    if system is not None:
        messages.insert(0, {"role": "system", "content": system})
    if template == "parts":
        messages = [m | {"content": [{"type": "text", "text": m["content"]}]} for m in messages]
    tokenizer = Tokenizer.from_str(tokenizer_json(kind))
    ids: list[int] = tokenizer.encode(chat.render(messages), add_special_tokens=False).ids
    return ids


def control_ids(kind: str) -> set[int]:
    """The ids that the tokenizer gives to control tokens: some kinds number those of their file anew."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(tokenizer_json(kind))
    return {tokenizer.token_to_id(token["content"]) for token in json.loads(tokenizer_json(kind))["added_tokens"]}


harmless = st.text(alphabet=st.sampled_from("hell the 1 \n\t.,'é漢🙂"), max_size=30)
spelling = st.sampled_from(
    [
        *CONTROL,
        "<|im_",
        "start|>",
        "<",
        "|",
        ">",
        "<|",
        "|>",
        "im_end",
        "＜|sep|＞",
        "[tool",
        "]",
        " ",
        "\n",
        "x",
        "＜",
        "ｓ",
    ]
)
hostile = st.lists(spelling, max_size=8).map("".join) | st.text(max_size=20)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=40, deadline=None)
@given(system=st.none() | harmless, user=harmless)
def test_harmless_chats_get_the_usual_ids(kind: str, template: str, system: str | None, user: str) -> None:
    request = GenRequest(1, user, system)
    found = make(kind, template).render_batch([request])[0]
    assert found == usual(kind, template, system, user)
    assert make(kind, template).count(request) == len(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("template", TEMPLATES)
@settings(max_examples=80, deadline=None)
@given(system=st.none() | hostile, user=hostile)
def test_no_data_becomes_a_control_token(kind: str, template: str, system: str | None, user: str) -> None:
    control = control_ids(kind)
    found = make(kind, template).render_batch([GenRequest(1, user, system)])[0]
    innocent = usual(kind, template, None if system is None else "x", "x")
    assert [token for token in found if token in control] == [token for token in innocent if token in control]


@pytest.mark.parametrize("kind", ["byte_bpe", "whole_words"])
@settings(max_examples=60, deadline=None)
@given(user=hostile)
def test_spelled_control_tokens_are_kept_as_text(kind: str, user: str) -> None:
    from tokenizers import Tokenizer, decoders

    tokenizer = Tokenizer.from_str(tokenizer_json(kind))
    tokenizer.decoder = decoders.ByteLevel()
    ids = make(kind, "chatml").render_batch([GenRequest(1, user)])[0]
    text = f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(ids, skip_special_tokens=False) == text


@given(users=st.lists(hostile, max_size=6), systems=st.lists(st.none() | hostile, min_size=6, max_size=6))
@settings(max_examples=30, deadline=None)
def test_a_batch_is_the_list_of_its_chats(users: list[str], systems: list[str | None]) -> None:
    chat = make("byte_bpe", "trimmed")
    requests = [GenRequest(n, user, systems[n]) for n, user in enumerate(users)]
    assert chat.render_batch(requests) == [chat.render_batch([request])[0] for request in requests]


def test_lone_surrogates_do_not_stop_a_batch() -> None:
    chat = make("byte_bpe", "chatml")
    broken, whole = chat.render_batch([GenRequest(1, "a\ud800b"), GenRequest(2, "hello")])
    assert broken
    assert whole == usual("byte_bpe", "chatml", None, "hello")


def test_the_skeleton_says_what_the_template_strips() -> None:
    tokens = {"bos_token": "<s>"}
    assert ChatTemplate(TRIMMED, tokens).skeleton(False)[1] == Slot("user", left=True, right=True)
    assert ChatTemplate(CHATML, tokens).skeleton(False)[1] == Slot("user")
    left = "{% for m in messages %}[{{ m.content.lstrip() }}]{% endfor %}"
    assert ChatTemplate(left, tokens).skeleton(True) == (
        "[",
        Slot("system", left=True),
        "][",
        Slot("user", left=True),
        "]",
    )


@pytest.mark.parametrize(
    "template",
    [
        "{{ messages[0].content | upper }}",
        "{% for m in messages %}{{ m.content | replace(' ', '_') }}{% endfor %}",
        "always the same",
        "{{ raise_exception('broken') }}",
        "{% for %}",
        "{{ ''.__class__.__mro__ }}",
    ],
)
def test_a_template_that_changes_contents_is_refused(template: str) -> None:
    with pytest.raises(EngineError, match="chat template cannot be used") as caught:
        ChatTemplate(template, {}).skeleton(False)
    assert caught.value.code == "unavailable"


def test_templates_are_found_where_models_keep_them(tmp_path: Path) -> None:
    assert load_template(tmp_path).render([{"content": "a"}, {"content": "b"}]) == "a\n\nb"
    config = {"chat_template": [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]}
    config |= {"bos_token": {"content": "<s>"}, "eos_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_template(tmp_path).source == "d"
    assert load_template(tmp_path).tokens == {"bos_token": "<s>"}
    (tmp_path / "chat_template.jinja").write_text("{{ bos_token }}file")
    assert load_template(tmp_path).render([]) == "<s>file"


def test_the_identity_changes_with_tokenizer_and_template() -> None:
    identities = {make(kind, template).identity for kind in KINDS for template in TEMPLATES}
    assert len(identities) == len(KINDS) * len(TEMPLATES)
    again = ChatTokenizer(
        tokenizer_json("byte_bpe"), ChatTemplate(CHATML, {"eos_token": "<|im_end|>", "bos_token": "<|endoftext|>"})
    )
    assert again.identity == make("byte_bpe", "chatml").identity


def test_a_damaged_tokenizer_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(EngineError, match=r"tokenizer in .* cannot be read"):
        ChatTokenizer.load(tmp_path)


CHILD = """
import json, sys
from transformers import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
chats = json.load(sys.stdin)
def ids(chat):
    found = tokenizer.apply_chat_template(chat, tokenize=True, add_generation_prompt=True, return_dict=False)
    return list(found)
print("IDS" + json.dumps([ids(chat) for chat in chats]))
"""


@pytest.mark.vllm
def test_the_bundled_model_gets_the_ids_transformers_gives(bundled_model: Path) -> None:
    texts = ["Hello", " lead and trail ", "\n\nlines\n\n", "12345 + 678", "héllo 漢字 🙂", "", "it's\tthe <b>tag</b>"]
    pairs = [(system, user) for system in (None, "Be brief.", "") for user in texts]
    chats = [
        ([] if system is None else [{"role": "system", "content": system}]) + [{"role": "user", "content": user}]
        for system, user in pairs
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
    expected = json.loads(done.stdout.partition("IDS")[2])
    chat = ChatTokenizer.load(bundled_model)
    assert chat.render_batch([GenRequest(n, user, system) for n, (system, user) in enumerate(pairs)]) == expected
