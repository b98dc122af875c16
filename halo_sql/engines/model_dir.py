"""Model folders: what a source names, whether a folder can be served, and what fixes its weights."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

from halo_sql.errors import EngineError

MANIFEST = "manifest.json"
_MAX_HEADER_BYTES = 100 << 20  # the format's own limit
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")


def resolve_model_dir(source: str, weights: bool = True) -> Path | None:
    """The folder that ``source`` names; None when it is a hub id, which vLLM resolves.

    A folder must hold config.json, tokenizer.json and, where ``weights`` are needed, at least one *.safetensors file.
    EngineError('unavailable') names what is missing. Pickled weights (*.bin, *.pt) are refused: reading them runs code
    from the file.
    """
    folder = Path(source).expanduser()
    if not folder.is_dir():
        if not source.startswith(("/", ".", "~")) and _HUB_ID.fullmatch(source):
            return None
        raise EngineError(
            f'Model folder "{source}" does not exist',
            code="unavailable",
            remedy="Give an existing folder, a hub id (organisation/name) or bundled:smollm2.",
        )
    missing = [name for name in ("config.json", "tokenizer.json") if not (folder / name).is_file()]
    if weights and not any(folder.glob("*.safetensors")):
        pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
        if pickled:
            raise EngineError(
                f'Model folder "{source}" holds pickled weights ({pickled[0]}), which are refused',
                code="unavailable",
                remedy="Convert them to safetensors: model.save_pretrained(folder, safe_serialization=True).",
            )
        missing.append("*.safetensors")
    if missing:
        remedy = "Download the whole model repository into the folder."
        if missing == ["tokenizer.json"]:
            remedy = "Save the fast tokenizer: AutoTokenizer.from_pretrained(folder).save_pretrained(folder)."
        raise EngineError(f'Model folder "{source}" lacks {", ".join(missing)}', code="unavailable", remedy=remedy)
    for path in sorted(folder.glob("*.safetensors")):
        if not _is_safetensors(path):
            raise EngineError(
                f'"{path}" is not a safetensors file, or not a whole one',
                code="unavailable",
                remedy="Download it again; a file of a few lines is a Git LFS pointer, fetch it with: git lfs pull.",
            )
    return folder.resolve()


def _is_safetensors(path: Path) -> bool:
    """Whether the file has a safetensors header and the length it announces."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= _MAX_HEADER_BYTES:
            return False
        try:
            header = json.loads(file.read(length))
            ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        except (ValueError, TypeError, KeyError, IndexError, AttributeError):
            return False
    return path.stat().st_size == 8 + length + max(ends, default=0)


def fingerprint(folder: Path) -> str:
    """32 hex digits that change when the weights do.

    A converted folder is identified by the checksums of its manifest, wherever it lies. Any other by its
    configuration and, for each weight file, name, size, time of change and safetensors header: a copy counts as
    another model (paid again, never answered wrongly) and gigabytes need not be read.
    """
    digest = hashlib.sha256()
    manifest = read_manifest(folder)
    if manifest is not None:
        digest.update(json.dumps(manifest["files"], sort_keys=True).encode())
        return digest.hexdigest()[:32]
    digest.update((folder / "config.json").read_bytes())
    for path in sorted(folder.glob("*.safetensors")):
        status = path.stat()
        digest.update(f"\n{path.name} {status.st_size} {status.st_mtime_ns}\n".encode())
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            digest.update(file.read(min(length, _MAX_HEADER_BYTES)))
    return digest.hexdigest()[:32]


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder made by ``bundled``; None when there is none or it is damaged."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text())
    except (OSError, ValueError):
        return None
    if not isinstance(manifest, dict) or not isinstance(manifest.get("files"), dict) or not manifest["files"]:
        return None
    return manifest


def sha256_of(path: Path) -> str:
    """Checksum of a file, as hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
