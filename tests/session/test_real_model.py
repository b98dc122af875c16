"""The main job with the real model: a plain script, SQL in, typed answers out, and again from the response store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

# No __main__ guard on purpose: a user's script has none.
SCRIPT = """
import json, sys, time
import halo_sql

system = "You sort words. " + "Answer with the kind of thing the word names, and nothing else. " * 6
query = f'''
    SELECT word,
           LLM_MAP('{{{{ word }}}}', system => '{system}', returns => 'ENUM(''fruit'', ''animal'')') AS kind,
           LLM_MAP('{{{{ word }}}}', system => '{system}',
                   returns => 'STRUCT(plural BOOLEAN)', max_tokens => 20) AS facts
    FROM (VALUES ('apple'), ('dog'), ('pear'), ('apple')) v(word)
    WHERE LLM_FILTER('Is {{{{ word }}}} a word?') IS NOT NULL
'''
runs = []
for _ in range(2):
    began = time.perf_counter()
    con = halo_sql.connect(config={"halo_store": sys.argv[1]})
    rows = con.execute(query).fetchall()
    profile = con.last_profile()
    runs.append({"rows": rows, "totals": profile["totals"], "seconds": time.perf_counter() - began})
    con.close()
loaded = [name for name in ("vllm", "torch", "transformers") if name in sys.modules]
print(json.dumps({"runs": runs, "loaded": loaded}))
"""


@pytest.mark.vllm
def test_a_script_asks_the_bundled_model_once(bundled_model: Path, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path / "answers.sqlite")],
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": "ignore"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    first, second = found["runs"]
    assert [row[0] for row in first["rows"]] == ["apple", "dog", "pear", "apple"]
    assert {row[1] for row in first["rows"]} <= {"fruit", "animal"}
    assert all(isinstance(row[2]["plural"], bool) for row in first["rows"])
    assert first["rows"][0] == first["rows"][3]
    assert first["totals"]["llm_calls"] == 9  # three words, three questions
    assert first["totals"]["llm_calls_coalesced"] == 3
    assert first["totals"]["prompt_tok_cached"] > 0
    assert second["rows"] == first["rows"]
    assert second["totals"]["llm_calls"] == 0
    assert second["totals"]["llm_calls_from_store"] == 9
    assert second["seconds"] < 15  # no engine was started
    assert found["loaded"] == []
