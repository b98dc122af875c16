"""KV blocks as files: equal beginnings have equal names, files are whole, old ones leave."""

from __future__ import annotations

from pathlib import Path

from halo_sql.engines.kv_blocks import BlockFolder, block_names
from halo_sql.engines.protocol import GenRequest
from halo_sql.engines.vllm_requests import kept_tok
from halo_sql.engines.vllm_worker import missing_connector


def test_blocks_are_named_by_all_before_them() -> None:
    one = block_names([1, 2, 3, 4, 5, 6, 7], 2)
    other = block_names([1, 2, 3, 4, 9, 6], 2)
    assert len(one) == len(set(one)) == 3
    assert one[:2] == other[:2]
    assert one[2] != other[2]
    assert block_names([3, 4], 2) != one[1:2]
    assert block_names([1, 2, 3, 4, 5], 2, limit_tok=3) == one[:1]
    assert block_names([1], 2) == []


def test_what_one_leaves_another_finds_up_to_the_first_gap(tmp_path: Path) -> None:
    mine, theirs = BlockFolder(tmp_path), BlockFolder(tmp_path)
    for name in ("a", "b", "d"):
        assert mine.write(name, [b"12", b"3"])
    assert theirs.held(["a", "b", "c", "d"]) == 2
    assert theirs.held(["a", "b"]) == 2
    assert theirs.held([]) == 0
    assert theirs.read("a", 3) == b"123"
    assert theirs.read("a", 4) is None  # of another layout
    assert theirs.read("c", 3) is None
    assert not BlockFolder(tmp_path, rank=1).has("a")


def test_the_oldest_leave_when_the_folder_is_full(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path, limit_bytes=10)
    for name in "abc":
        folder.write(name, [b"4444"])
    assert [folder.has(name) for name in "abc"] == [False, True, True]
    assert len(list(tmp_path.iterdir())) == 2


def test_a_folder_that_is_gone_costs_nothing(tmp_path: Path) -> None:
    folder = BlockFolder(tmp_path / "gone")
    assert not folder.write("a", [b"1"])
    assert folder.held(["a"]) == 0


def test_tokens_to_keep_follow_the_characters() -> None:
    request = GenRequest(1, "x" * 100, "y" * 300, keep_chars=300)
    assert kept_tok(request, 100) == 75
    assert kept_tok(GenRequest(1, "x" * 100), 40) == 0
    assert kept_tok(GenRequest(1, "x", keep_chars=500), 40) == 40


def test_a_connector_whose_package_is_missing_is_said_so() -> None:
    assert "needs the package lmcache" in missing_connector({"kv_connector": "LMCacheConnectorV1"})
    assert missing_connector({"kv_connector": "OffloadingConnector"}) == ""
    assert missing_connector(None) == ""
