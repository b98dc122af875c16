"""The main job with the real model: a plain script, SQL in, typed answers out, and again from the response store."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# No __main__ guard on purpose: a user's script has none.
SCRIPT = """
import json, sys, threading, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
import halo_sql

asked = []

class Sky(BaseHTTPRequestHandler):
    def do_GET(self):
        asked.append(self.path)
        body = json.dumps({"sky": "rain" if "Oslo" in self.path else "sun"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *texts):
        pass

server = ThreadingHTTPServer(("127.0.0.1", 0), Sky)
threading.Thread(target=server.serve_forever, daemon=True).start()
url = f"http://127.0.0.1:{server.server_port}/sky?city={{{{ city }}}}"
instructions = (
    "You rate customers. The tool orders_of gives the number of orders of a customer, the tool weather the sky over a "
    "city. Look up first what you need, one thing at a time, and never the same thing twice. Then answer small when "
    "there are fewer than 20 orders, and large when there are 20 or more of them."
)
with_agents = f'''
CREATE TEMP TABLE customers AS SELECT range AS id, ['Oslo', 'Rome'][range % 2 + 1] AS city FROM range(16);
CREATE TEMP TOOL orders_of(customer INTEGER) RETURNS INTEGER COMMENT 'how many orders a customer has'
    AS SQL 'SELECT count(*) FROM range($customer * 3)';
CREATE TEMP TOOL weather(city ENUM('Oslo', 'Rome')) RETURNS VARCHAR COMMENT 'the sky over a city'
    AS HTTP GET '{url}' WITH (path = '$.sky', loopback = true);
CREATE TEMP AGENT clerk RETURNS ENUM('small', 'large') WITH (tools = [orders_of, weather], egress = [weather],
    max_steps = 3, max_step_tokens = 48, max_parallel = 1, system = '{instructions}');
CREATE TEMP AGENT watcher RETURNS ENUM('small', 'large') WITH (tools = [weather], egress = [weather],
    max_steps = 2, max_step_tokens = 48, max_parallel = 1, system = '{instructions}');
'''

def agents(con):
    con.execute(with_agents)
    found = {}
    for agent in ("clerk", "watcher"):
        task = "Rate customer {{ id }} of {{ city }}."
        rows = con.execute(f"FROM customers c, LATERAL AGENT({agent}, '{task}') a").fetchall()
        found[agent] = {"rows": rows, "totals": con.last_profile()["totals"]}
    return found

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
    if len(runs) == 1:
        answered = agents(con)
    con.close()
loaded = [name for name in ("vllm", "torch", "transformers") if name in sys.modules]
print(json.dumps({"runs": runs, "loaded": loaded, "agents": answered, "asked": asked}))
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
    _check_agents(found)


def _check_agents(found: dict[str, Any]) -> None:
    """Sixteen rows with a tool of SQL and one of HTTP run to typed answers, on prompts that are mostly in the cache."""
    clerk, watcher = found["agents"]["clerk"], found["agents"]["watcher"]
    prompt_tok = sum(each["totals"]["prompt_tok"] for each in (clerk, watcher))
    cached_tok = sum(each["totals"]["prompt_tok_cached"] for each in (clerk, watcher))
    assert cached_tok >= 0.8 * prompt_tok
    tools = set()
    for each, most in ((clerk, 3), (watcher, 2)):
        assert len(each["rows"]) == 16
        for _, _, answer, steps, tokens, trace in each["rows"]:
            assert answer in ("small", "large")
            assert 1 <= steps <= most
            assert len(trace) >= steps
            assert tokens > 0
            tools |= {event["tool"] for event in trace if event["kind"] == "call"}
        assert each["totals"]["errors"] == 0
        assert each["totals"]["tool_calls"] + each["totals"]["tool_calls_coalesced"] <= 16 * (most - 1)
    assert tools == {"orders_of", "weather"}
    # a city is asked for once in a statement, whichever rows ask
    assert watcher["totals"]["tool_calls"] <= 2 <= watcher["totals"]["tool_calls_coalesced"]
    assert len(found["asked"]) <= 4
