"""Models with several workers: options, their parts of the machine, the folder they share."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from halo_sql.catalog.objects import ModelDef
from halo_sql.engines import shares, vllm_options
from halo_sql.engines.echo import EchoEngine
from halo_sql.engines.protocol import EngineInfo
from halo_sql.engines.registry import check_model, create, workers_at_once
from halo_sql.engines.shares import Share, Storage, check_devices, memory_nodes, visible_gpus
from halo_sql.engines.vllm_options import check_options, engine_arguments, worker_environment
from halo_sql.engines.workers import WorkerGroup
from halo_sql.errors import CatalogError

from .fake_worker import FakeWorker
from .helpers import on_loop
from .test_workers import Inbox, asking, until

SHARED: dict[str, object] = {"kv_sharing": "storage", "workers": 2}
URL = "http://127.0.0.1:1/v1"


def test_models_with_workers_are_groups() -> None:
    for model, count in (
        (ModelDef("e", "echo", "echo", {"workers": 3}), 3),
        (ModelDef("p", "module:function", "python", {"workers": 2}), 2),
        (ModelDef("v", "bundled:smollm2", "vllm", {"workers": 2}), 2),
        (ModelDef("o", URL, "openai", {"base_urls": "http://127.0.0.1:2/v1, http://127.0.0.1:3/v1"}), 3),
    ):
        check_model(model)
        made = create(model)
        assert isinstance(made, WorkerGroup)
        assert len(made.workers) == count
    assert isinstance(create(ModelDef("e", "echo", "echo", {"workers": 1})), EchoEngine)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (ModelDef("e", "echo", "echo", {"workers": 0}), '"workers"'),
        (ModelDef("o", URL, "openai", {"base_urls": "127.0.0.1"}), "base URL"),
        (ModelDef("v", "m", "vllm", {"devices": "0,x"}), "'x'"),
        (ModelDef("v", "m", "vllm", {"devices": "1,0-1"}), "twice"),
        (
            ModelDef("v", "m", "vllm", {"kv_sharing": "storage", "workers": 2, "enable_prefix_caching": False}),
            "enable_prefix",
        ),
        (ModelDef("v", "m", "vllm", {"kv_sharing": "storage"}), "between workers"),
        (ModelDef("v", "m", "vllm", {"kv_sharing": "storage", "kv_transfer_config": {"a": 1}}), "exclude each other"),
        (ModelDef("v", "m", "vllm", {"engine_args": {"dtype": "auto"}}), "engine_args.* sets dtype"),
        (ModelDef("v", "m", "vllm", {"engine_args": {"trust_remote_code": True}}), "sets trust_remote_code"),
        (ModelDef("v", "m", "vllm", {"engine_args": {"load_format": "pt"}}), "wrong load_format"),
        (ModelDef("v", "m", "vllm", {"engine_args": {"hf_token": "secret"}}), "sets hf_token.*\\n.*environment"),
        (ModelDef("v", "m", "vllm", {"engine_args": {"tokenizer": "other"}}), "sets tokenizer"),
    ],
)
def test_wrong_options_of_workers(model: ModelDef, message: str) -> None:
    with pytest.raises(CatalogError, match=message):
        check_model(model)


def test_too_few_gpus_are_said_before_anything_starts() -> None:
    values = {"devices": "0,1,2", "workers": 2, "tensor_parallel_size": 2}
    with pytest.raises(CatalogError, match="4 GPUs are needed"):
        check_devices(values, cpu=False)
    check_devices(values, cpu=True)
    check_devices(values | {"devices": "4-7"}, cpu=False)


def test_workers_have_disjoint_cores_and_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [Share(n, 2).of([0, 1, 2, 3, 4]) for n in range(2)] == [[0, 1], [2, 3]]
    assert [Share(n, 3).of([0, 1]) for n in range(3)] == [[0], [1], [0]]
    assert [Share(n, 2).of([5, 6, 7, 8], 1) for n in range(2)] == [[5], [6]]
    assert Share(0, 1).of([1, 2], 4) == [1, 2]
    assert Share(1, 2).of([]) == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    options = check_options({"workers": 2, "tensor_parallel_size": 2})
    environments = [worker_environment(options, cpu=False, local=True, share=Share(n, 2)) for n in range(2)]
    assert [found["CUDA_VISIBLE_DEVICES"] for found in environments] == ["0,1", "2,3"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert visible_gpus([1, 3], 2) == ["5", "7"]
    options = check_options({"workers": 2, "devices": ",".join(map(str, sorted(os.sched_getaffinity(0))))})
    environments = [worker_environment(options, cpu=True, local=True, share=Share(n, 2)) for n in range(2)]
    cores = [set(found["VLLM_CPU_OMP_THREADS_BIND"].split(",")) for found in environments]
    assert not cores[0] & cores[1] or len(os.sched_getaffinity(0)) == 1


@pytest.mark.parametrize("nodes", [1, 2])
def test_workers_on_one_memory_share_its_cores(nodes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3})
    known = [[0, 1, 2, 3]] if nodes == 1 else [[0, 1], [2, 3]]
    for module in (shares, vllm_options):
        monkeypatch.setattr(module, "memory_nodes", lambda cores, folder=None: known)
    monkeypatch.setattr(vllm_options, "cpu_build", lambda: True)
    options = check_options({"workers": 2})
    bound = [
        worker_environment(options, cpu=True, local=True, share=Share(n, 2))["VLLM_CPU_OMP_THREADS_BIND"]
        for n in range(2)
    ]
    assert (bound[0] == bound[1]) == (nodes == 1)
    model = ModelDef("v", "bundled:smollm2", "vllm", {"workers": 2})
    group = create(model)
    assert isinstance(group, WorkerGroup)
    assert group.router.one_place == (nodes == 1)
    assert workers_at_once(model) == nodes
    sharing = create(replace(model, options=dict(SHARED)))
    assert isinstance(sharing, WorkerGroup)
    assert (sharing.storage is None) == (nodes == 1)
    if sharing.storage is not None:
        sharing.storage.close()
    divided = replace(model, options={"workers": 2, "devices": "0,1"})
    assert workers_at_once(divided) == 2


def test_memory_nodes_are_read(tmp_path: Path) -> None:
    assert memory_nodes([0, 1, 2, 3], tmp_path) == [[0, 1, 2, 3]]
    for number, cores in enumerate(("0-1,4-5", "2-3,6-7", "")):
        (tmp_path / f"node{number}").mkdir()
        (tmp_path / f"node{number}" / "cpulist").write_text(f"{cores}\n")
    assert memory_nodes([0, 1, 2, 3, 4], tmp_path) == [[0, 1, 4], [2, 3]]
    assert memory_nodes([4, 5], tmp_path) == [[4, 5]]
    assert memory_nodes([0, 8], tmp_path) == [[0, 8]]  # one that no memory names


def test_shared_storage_is_a_folder_that_goes() -> None:
    storage = Storage()
    assert storage.folder.is_dir()
    assert storage.bytes_per_s() > 1e6
    assert list(storage.folder.iterdir()) == []
    arguments = engine_arguments("m", check_options(SHARED), cpu=True, share=Share(0, 2, storage))
    extra = arguments["kv_transfer_config"]["kv_connector_extra_config"]
    assert extra["folder"] == str(storage.folder)
    assert 0 < extra["limit_bytes"] == storage.limit_bytes // 2
    storage.close()
    storage.close()
    assert not storage.folder.exists()


def test_a_connector_of_vllms_own_is_passed_on() -> None:
    config = {"kv_connector": "LMCacheConnectorV1", "kv_role": "kv_both"}
    arguments = engine_arguments("m", check_options({"kv_transfer_config": config}), cpu=False)
    assert arguments["kv_transfer_config"] == config
    assert "kv_transfer_config" not in engine_arguments("m", check_options({}), cpu=True)


@on_loop
async def test_in_one_place_one_works_and_another_takes_over() -> None:
    info = EngineInfo("fake", window_requests=8, device="cpu", weight_bytes=100, kv_capacity_tok=10, kv_tok_bytes=2)
    made = [FakeWorker(0.01, info=info), FakeWorker(0.01, info=info)]
    group, inbox = WorkerGroup(made, one_place=True), Inbox()
    said = await group.start()
    assert (said.window_requests, said.kv_capacity_tok, said.weight_bytes) == (8, 10, 220)
    await group.all_ready()
    group.submit(asking(30), inbox)
    await until(lambda: len(inbox.results) >= 8)
    assert not made[1].seen
    made[0].die()
    await inbox.holds(30)
    assert not inbox.errors()
    assert made[1].seen
    await group.close()
