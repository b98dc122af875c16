"""Models that are only a shape: a configuration and the bundled model's tokenizer, for vLLM with random weights.

Their answers mean nothing, their seconds are those of a model of that size. No token ends an answer, so that each is
as long as it is asked to be.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path

from halo_sql.engines import bundled

#: Sizes of the three classes: 3.7, 1.5 and 7 billion weights, in the proportions of a family of dense models.
SHAPES: Mapping[str, Mapping[str, object]] = {
    "small": {"hidden_size": 2560, "intermediate_size": 9728, "num_hidden_layers": 36, "num_attention_heads": 32},
    "medium": {"hidden_size": 2048, "intermediate_size": 6144, "num_hidden_layers": 28, "num_attention_heads": 16},
    "large": {"hidden_size": 4096, "intermediate_size": 12288, "num_hidden_layers": 36, "num_attention_heads": 32},
}
_COMMON = {"num_key_value_heads": 8, "head_dim": 128, "max_position_embeddings": 32_768, "dtype": "bfloat16"}
_ENDS = ("eos_token_id", "eos_token")


def write(shape: Mapping[str, object], folder: Path) -> Path:
    """The model folder of a shape (without weights: ``engine_args = {'load_format': 'dummy'}``)."""
    source = bundled.ensure("smollm2")
    folder.mkdir(parents=True)
    for name in ("tokenizer.json", "chat_template.jinja"):
        shutil.copyfile(source / name, folder / name)
    for name, changes in (("tokenizer_config.json", {}), ("config.json", {**_COMMON, **shape})):
        known = json.loads((source / name).read_text(encoding="utf-8"))
        kept = {key: value for key, value in known.items() if key not in _ENDS}
        (folder / name).write_text(json.dumps(kept | changes, indent=1), encoding="utf-8")
    return folder
