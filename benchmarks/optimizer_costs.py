"""The cost model against the bundled model on real vLLM: seconds predicted and measured, and plans chosen by them.

Calibrates the model, then runs small statements (rows, prompt lengths, shared prefixes, answer lengths, guided answers,
scores, several operators) and compares the engine seconds that the plan predicts with those in which the engine was
busy: median error at most 25 %; tokens, and those read out of the prefix cache, stand beside. Then 10 statements with
other plans (rules turned off, filters written in another order, another method or fan-in): rank correlation of
predicted and measured seconds over the plans of a statement at least 0.9 on the average, and the plan chosen takes at
most 1.1 × the best one's seconds in 9 of 10. Texts are new in every run, so no cache knows them; a statement runs as
often as --times says, in turns, and the quickest run counts.
"""

from __future__ import annotations

import argparse
import os
import random
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations, permutations
from pathlib import Path
from statistics import median

from report import finish, show, verdict

import halo_sql
from halo_sql import config
from halo_sql.optimizer.optimize import Optimized

MODEL = "smollm2"
GOAL_ERROR, GOAL_RANKS, GOAL_REGRET, GOAL_CASES = 0.25, 0.9, 1.1, 0.9
WORDS = (
    "storm harbour wheat copper violin meadow lantern archive glacier saddle orchard mirror canvas anchor valley "
    "kettle ribbon tunnel marble feather compass barrel candle thunder basket island hammer pepper silver bottle"
)
#: What prompts begin with, so that no run knows the texts of another.
LEAD = "For the {} of the {} and its {}:"
RULES = (
    "You sort reports of a harbour. Every report names goods, ships and days. Read all of it before you answer, keep "
    "to what the report says, and never make up a ship. Reports of storms are urgent, reports of bread are not. "
)


@dataclass(frozen=True)
class Plan:
    """A statement and the rules it is planned without."""

    sql: str
    off: str = ""


@dataclass
class Measured:
    """Engine seconds of a plan: predicted, and those of its runs."""

    predicted_s: float = 0.0
    runs_s: list[float] = field(default_factory=list)
    calls: tuple[float, float] = (0.0, 0.0)  # predicted, made
    tokens: tuple[float, float] = (0.0, 0.0)
    cached: tuple[float, float] = (0.0, 0.0)  # prompt tokens that were in the KV cache
    computed: tuple[float, float] = (0.0, 0.0)  # prompt tokens that were not

    @property
    def seconds(self) -> float:
        return min(self.runs_s)

    @property
    def error(self) -> float:
        return self.predicted_s / self.seconds - 1.0


def map_of(hole: str, rows: int, max_tokens: int, **options: str) -> str:
    more = "".join(f", {name} => {value}" for name, value in options.items())
    call = f"LLM_MAP('NONCE Tell a long story of {{{{ {hole} }}}}', max_tokens => {max_tokens}{more})"
    return f"SELECT {call} FROM t LIMIT {rows}"


def single() -> dict[str, str]:
    """Statements of one or two operators; NONCE becomes a text that no run has had."""
    rules = f"'NONCE {RULES * 2}'"
    found = {}
    for rows in (1, 4, 12, 30):
        found[f"map, {rows} rows, 8 tokens"] = map_of("word", rows, 8)
    for rows, tokens in ((2, 24), (8, 16), (24, 4), (30, 1)):
        found[f"map, {rows} rows, {tokens} tokens"] = map_of("word", rows, tokens)
    for rows, tokens in ((1, 1), (3, 8), (6, 2)):
        found[f"map of long texts, {rows} rows, {tokens} tokens"] = map_of("body", rows, tokens)
    for rows, tokens in ((4, 8), (16, 2), (30, 8)):
        found[f"map, shared instructions, {rows} rows"] = map_of("word", rows, tokens, system=rules)
    found["map, equal rows"] = map_of("kind", 30, 16)
    for rows in (6, 30):
        found[f"filter, {rows} rows"] = (
            f"SELECT id FROM (FROM t LIMIT {rows}) WHERE LLM_FILTER('NONCE Is {{{{ word }}}} a word?')"
        )
    found["filter of long texts"] = "SELECT id FROM (FROM t LIMIT 6) WHERE LLM_FILTER('NONCE Is it bad? {{ body }}')"
    found["filter, shared instructions"] = (
        f"SELECT id FROM (FROM t LIMIT 20) WHERE LLM_FILTER('Is it {{{{ word }}}}?', system => {rules})"
    )
    found["score"] = "SELECT LLM_SCORE('NONCE Is {{ word }} a thing?') FROM t LIMIT 20"
    found["two maps"] = (
        "SELECT LLM_MAP('NONCE Tell of {{ word }}', max_tokens => 8), "
        "LLM_MAP('NONCE A poem on {{ kind }} and {{ word }}', max_tokens => 12) FROM t LIMIT 10"
    )
    found["map of a map"] = (
        "SELECT LLM_MAP('NONCE Go on: {{ a }}', max_tokens => 8) FROM "
        "(SELECT LLM_MAP('NONCE Tell a long story of {{ word }}', max_tokens => 16) AS a FROM t LIMIT 8)"
    )
    found["reduce"] = (
        "SELECT kind, LLM_REDUCE('NONCE Tell what these have in common', word, max_tokens => 16) FROM t GROUP BY kind"
    )
    found["pairs of columns"] = (
        "SELECT LLM_MAP('NONCE {{ kind }}: tell of {{ word }}', max_tokens => 6) FROM t LIMIT 20"
    )
    return found


def choices() -> dict[str, list[Plan]]:
    """Statements with the plan that is chosen first, then others that give the same answer: filters in other orders,
    without each set of rules that matter, other methods and fan-ins."""
    flag = "LLM_FILTER('NONCE Say {{ flag }}.')"
    other = "LLM_FILTER('NONCE NONCE Say {{ other }}.')"
    long = "LLM_FILTER('NONCE Is it bad? {{ body }}')"  # half of the rows pass the others
    story = "LLM_MAP('NONCE Tell a long story of {{ word }}', max_tokens => 16) AS story"
    report = "LLM_MAP('NONCE Go on: {{ body }}', max_tokens => 8) AS story"

    def orders(rows: int, *filters: str) -> list[Plan]:
        source = f"SELECT id FROM (FROM t LIMIT {rows}) WHERE"
        written = [f"{source} {' AND '.join(order)}" for order in permutations(filters)]
        return [Plan(written[0]), *(Plan(sql, "order_llm_filters") for sql in written)]

    def without(sql: str, *rules: str) -> list[Plan]:
        """The statement without each set of these rules."""
        return [Plan(sql, ",".join(off)) for count in range(len(rules) + 1) for off in combinations(rules, count)]

    def over(call: str, condition: str, rows: int, *rules: str) -> list[Plan]:
        source = f"SELECT id, word, body, flag, other, {call} FROM (FROM t LIMIT {rows})"
        return without(f"SELECT id, story FROM ({source}) WHERE {condition}", *rules)

    unread = f"SELECT id, a FROM (SELECT id, {story}, LLM_MAP('NONCE {{{{ kind }}}}?', max_tokens => 4) AS a FROM t)"
    ranked = "SELECT word FROM (FROM t LIMIT ROWS) ORDER BY LLM_RANK('NONCE Is it heavy? {{ word }}'HOW) DESC LIMIT 2"
    methods = ("", ", method => 'score'", *(f", method => 'tournament', fan_in => {most}" for most in (2, 4, 8)))
    joined = "SELECT LLM_REDUCE('NONCE Name the heaviest', word, max_tokens => 8HOW) FROM (FROM t LIMIT 16)"
    fan_ins = ("", *(f", fan_in => {most}" for most in (2, 3, 6, 12)))
    first = f"SELECT id, {report} FROM t ORDER BY word LIMIT 4"
    past, push = "llm_filter_past_llm_map", "push_filter_below_llm"
    return {
        "two filters, the long one first": orders(8, long, flag),
        "three filters": orders(8, flag, long, other),
        "filter over a map": over(story, flag, 16, past),
        "filter and condition over a map": over(report, f"{flag} AND id % 4 < 2", 8, past, push),
        "long filter and condition over a map": over(story, f"{long} AND id % 4 < 3", 8, past, push),
        "SQL condition over a map": over(story, "id % 4 = 0", 16, push),
        "map that nobody reads": without(unread, "drop_unused_calls,prune_columns"),
        "map of the first 4 rows": without(first, "top_k_below_llm,sort_below_llm"),
        "top 2 of 24": [Plan(ranked.replace("ROWS", "24").replace("HOW", how)) for how in methods],
        "reduce at once or in a tree": [Plan(joined.replace("HOW", how)) for how in fan_ins],
    }


class Bench:
    """A connection with the calibrated model and a table of 30 rows."""

    def __init__(self) -> None:
        self.con = halo_sql.connect(
            config={"halo_store": "off", "halo_default_model": MODEL, "halo_progress": False, "halo_max_seconds": 0}
        )
        self._dice = random.Random(11)
        words = WORDS.split()
        rows = [
            (
                number,
                f"{words[number]} {words[(7 * number + 3) % len(words)]} {number}",
                ("old", "new", "lost")[number % 3],
                " ".join(self._sentence() for _ in range(8)),
                ("yes", "no")[number % 2],
                ("yes", "no")[number // 2 % 2],
            )
            for number in range(len(words))
        ]
        self.con.execute(
            "CREATE TABLE t (id INTEGER, word VARCHAR, kind VARCHAR, body VARCHAR, flag VARCHAR, other VARCHAR)"
        )
        self.con.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?)", rows)

    def predict(self, plan: Plan, into: Measured) -> None:
        """What the plan is expected to take, by what is known now."""
        self.con.execute(f"SET halo_disabled_rules = '{plan.off}'")
        optimized = self.con.session.compile(plan.sql.replace("NONCE", LEAD.format("mirror", "harbour", "wheat")))
        assert isinstance(optimized, Optimized)
        guesses = [node.estimate for node in optimized.dag.nodes]
        into.predicted_s = sum(guess.cost.gpu_s for guess in guesses)
        into.calls = sum(guess.llm_calls for guess in guesses), into.calls[1]
        into.tokens = sum(guess.prompt_tok + guess.output_tok for guess in guesses), into.tokens[1]
        into.cached = sum(guess.prompt_tok_cached for guess in guesses), into.cached[1]
        into.computed = sum(guess.prompt_tok - guess.prompt_tok_cached for guess in guesses), into.computed[1]

    def measure(self, plan: Plan, into: Measured) -> None:
        """One run."""
        self.con.execute(f"SET halo_disabled_rules = '{plan.off}'")
        sql = plan.sql
        while "NONCE" in sql:
            sql = sql.replace("NONCE", LEAD.format(*self._dice.sample(WORDS.split(), 3)), 1)
        self.con.execute(sql).fetchall()
        profile = self.con.session.last_profile()
        assert profile is not None
        totals = profile.totals()
        into.runs_s.append(profile.engine_s[MODEL])
        into.calls = into.calls[0], totals["llm_calls"]
        into.tokens = into.tokens[0], totals["prompt_tok"] + totals["output_tok"]
        into.cached = into.cached[0], totals["prompt_tok_cached"]
        into.computed = into.computed[0], totals["prompt_tok"] - totals["prompt_tok_cached"]

    def _sentence(self) -> str:
        one, two, three = self._dice.sample(WORDS.split(), 3)
        return f"The {one} wasn't what we hoped for: its {two} came late, and nobody said that the {three} is broken."


def ranks(values: Sequence[float]) -> list[float]:
    """Places in ascending order, equal values sharing theirs."""
    ordered = sorted(values)
    return [ordered.index(value) + (ordered.count(value) - 1) / 2 for value in values]


def correlation(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's rank correlation; 0 where one side is all equal."""
    one, other = ranks(left), ranks(right)
    middle = (len(one) - 1) / 2
    product = sum((a - middle) * (b - middle) for a, b in zip(one, other, strict=True))
    spread = sum((place - middle) ** 2 for place in one) * sum((place - middle) ** 2 for place in other)
    return product / spread**0.5 if spread else 0.0


def predictions(bench: Bench, times: int) -> bool:
    """Predicted and measured seconds of single statements."""
    found = {name: Measured() for name in single()}
    for name, sql in single().items():
        bench.predict(Plan(sql), found[name])
        bench.measure(Plan(sql), found[name])
    for _ in range(times - 1):
        for name, sql in single().items():
            bench.measure(Plan(sql), found[name])
    errors = [abs(one.error) for one in found.values()]
    rows = [
        (
            name,
            f"{one.calls[0]:.0f} / {one.calls[1]:.0f}",
            f"{one.tokens[0]:.0f} / {one.tokens[1]:.0f}",
            f"{one.cached[0]:.0f} / {one.cached[1]:.0f}",
            f"{one.predicted_s:.2f}",
            f"{one.seconds:.2f}",
            f"{one.error:+.0%}",
        )
        for name, one in found.items()
    ]
    show("Engine seconds", ("", "calls", "tokens", "cached", "predicted s", "measured s", "error"), rows)
    exact = sum(round(one.calls[0]) == one.calls[1] for one in found.values())
    off_tok = median(abs(one.tokens[0] / one.tokens[1] - 1) for one in found.values())
    off_computed = median(abs(one.computed[0] / one.computed[1] - 1) for one in found.values() if one.computed[1])
    good = median(errors) <= GOAL_ERROR
    show(
        f"Predictions of {len(found)} statements",
        ("", "measured", "goal", ""),
        [
            ("median error of seconds", f"{median(errors):.0%}", f"<= {GOAL_ERROR:.0%}", verdict(good)),
            ("largest", f"{max(errors):.0%}", "", ""),
            ("statements with the exact calls", f"{exact} of {len(found)}", "", ""),
            ("median error of tokens", f"{off_tok:.0%}", "", ""),
            ("median error of computed prompt tokens", f"{off_computed:.0%}", "", ""),
        ],
    )
    return good


def decisions(bench: Bench, times: int) -> bool:
    """Predicted and measured seconds of the plans of a statement, and what choosing by them costs."""
    cases = {name: [(plan, Measured()) for plan in plans] for name, plans in choices().items()}
    for plans in cases.values():
        for plan, measured in plans:
            bench.predict(plan, measured)
    for _ in range(times):
        for plans in cases.values():
            for plan, measured in plans:
                bench.measure(plan, measured)
    rows: list[tuple[str, ...]] = []
    predicted: list[float] = []
    seconds: list[float] = []
    within = 0
    each: list[float] = []
    for name, plans in cases.items():
        ones = [measured for _, measured in plans]
        predicted += [one.predicted_s for one in ones]
        seconds += [one.seconds for one in ones]
        each.append(correlation(predicted[-len(ones) :], seconds[-len(ones) :]))
        # The chosen plan and a forced one may be the same: then their seconds differ by noise only.
        chosen = min(one.seconds for one in ones if abs(one.predicted_s / ones[0].predicted_s - 1) < 0.02)
        regret = chosen / min(one.seconds for one in ones)
        within += regret <= GOAL_REGRET
        pairs = ", ".join(f"{one.predicted_s:.1f} / {one.seconds:.1f}" for one in ones)
        rows.append((name, pairs, f"{regret:.2f}"))
    show("Plans: the one chosen, then the others", ("", "predicted / measured s", "chosen ÷ best"), rows)
    rank = correlation(predicted, seconds)
    mean = sum(each) / len(each)
    ranked, chosen_well = mean >= GOAL_RANKS, within >= GOAL_CASES * len(cases)
    show(
        f"{len(predicted)} plans of {len(cases)} statements",
        ("", "measured", "goal", ""),
        [
            ("rank correlation of a statement's plans, mean", f"{mean:.2f}", f">= {GOAL_RANKS}", verdict(ranked)),
            ("  of all plans together", f"{rank:.2f}", "", ""),
            ("chosen <= 1.1 x best", f"{within} of {len(cases)}", f">= {GOAL_CASES:.0%}", verdict(chosen_well)),
        ],
    )
    return ranked and chosen_well


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--times", type=int, default=2)
    arguments = parser.parse_args()
    models = config.home() / "models"
    models.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:  # calibrations of its own, the model as it is
        (Path(folder) / "models").symlink_to(models)
        os.environ["HALO_HOME"] = folder
        bench = Bench()
        began = time.perf_counter()
        result = bench.con.execute(f"CALIBRATE MODEL {MODEL}")
        names = [column[0] for column in result.description]
        figures = dict(zip(names, result.fetchall()[0], strict=True))
        shown = [(name, f"{value:.4g}" if isinstance(value, float) else str(value)) for name, value in figures.items()]
        show(f"Calibration, {time.perf_counter() - began:.0f} s with the start", ("", ""), shown)
        good = predictions(bench, arguments.times)
        well = decisions(bench, arguments.times)
        print(f"\n  pace of the queries: {bench.con.execute('SELECT pace FROM halo_calibrations()').fetchone()[0]:.2f}")
        bench.con.close()
    finish(good and well)


if __name__ == "__main__":
    main()
