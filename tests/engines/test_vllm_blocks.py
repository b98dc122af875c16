"""The KV connector on vLLM's own base class, with a stand-in for the engine around it."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import sys
from types import SimpleNamespace as Made

import torch
from halo_sql.engines.vllm_blocks import BlockStorageConnector

TOK, folder = 4, sys.argv[1]


def connector():
    transfer = Made(kv_connector_extra_config={"folder": folder, "limit_bytes": 1 << 20}, is_kv_producer=True)
    config = Made(kv_transfer_config=transfer, cache_config=Made(block_size=TOK), parallel_config=Made(rank=0))
    made = BlockStorageConnector(config, None, Made(kv_cache_groups=[None]))
    layers = {name: Made(kv_cache=torch.zeros(8, 2, TOK, 6, dtype=torch.bfloat16)) for name in ("b", "a")}
    return made, layers | {"norm": Made()}


def asked(name, tokens, **params):
    return Made(request_id=name, prompt_token_ids=tokens, kv_transfer_params=params, num_computed_tokens=0)


def step(made, layers, scheduled, places):
    state = Made(get_block_ids=lambda name: (places[name],))
    meta = made.build_connector_meta(Made(num_scheduled_tokens=scheduled, kv_connector_block_state=state))
    made.bind_connector_metadata(meta)
    made.start_load_kv(Made(no_compile_layers=layers))
    return meta


tokens = list(range(14))
writer, mine = connector()
first = asked("w", tokens, keep_tok=9, fetch=True)
writer.on_new_request(first)
assert writer.get_num_new_matched_tokens(first, 0) == (0, False)
for layer in ("a", "b"):
    mine[layer].kv_cache[:] = torch.randn(8, 2, TOK, 6)
step(writer, mine, {"w": 6}, {"w": [5, 1, 3, 0]})  # a part of the prompt: nothing is complete yet
writer.wait_for_save()
first.num_computed_tokens = 6
meta = step(writer, mine, {"w": 8}, {"w": [5, 1, 3, 0]})
assert [place for _, place in meta.keep] == [5, 1], meta
writer.wait_for_save()
assert writer.request_finished(first, []) == (False, None)
assert not writer.requires_kv_delivery

reader, theirs = connector()
other = asked("r", [*tokens[:9], 99, 98, 97], fetch=True)
assert reader.get_num_new_matched_tokens(asked("x", tokens), 0) == (0, False)  # not told to look
assert reader.get_num_new_matched_tokens(other, 4) == (4, False)  # one block it has itself
assert reader.get_num_new_matched_tokens(other, 0) == (8, False)
reader.update_state_after_alloc(other, Made(get_block_ids=lambda: ([7, 2, 4],)), 8)
step(reader, theirs, {"r": 4}, {})
for layer in ("a", "b"):
    assert torch.equal(theirs[layer].kv_cache[7], mine[layer].kv_cache[5])
    assert torch.equal(theirs[layer].kv_cache[2], mine[layer].kv_cache[1])
    assert not theirs[layer].kv_cache[4].any()
assert reader.get_block_ids_with_load_errors() == set()
assert reader.request_finished(other, []) == (False, {"moved_tok": 8})
exact = asked("e", tokens[:8], fetch=True)
assert reader.get_num_new_matched_tokens(exact, 0) == (4, False)  # the last token is always computed

gone = asked("g", tokens, fetch=True)
assert reader.get_num_new_matched_tokens(gone, 0) == (8, False)
reader.update_state_after_alloc(gone, Made(get_block_ids=lambda: ([0, 6, 5],)), 8)
reader._folder._path(meta.keep[1][0]).unlink()
step(reader, theirs, {"g": 6}, {})
assert reader.get_block_ids_with_load_errors() == {6}
assert reader.get_block_ids_with_load_errors() == set()
print("whole")
"""


@pytest.mark.vllm
def test_blocks_go_from_one_worker_to_another_bit_by_bit(tmp_path: Path) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed (pip install 'halo-sql[cpu]')")
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    root = Path(__file__).resolve().parent.parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.stdout.strip().endswith("whole"), done.stderr[-2000:]
