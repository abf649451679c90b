"""What a run cost: the `costs` in the done.json of each of its stages and of every stage it starts from.

A stage that several runs start from (the SFT checkpoint of `sft_then_grpo`) counts in full in each of them: the
question is what it takes to get this one model.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from analysis.evidence import Evidence, Footnotes, unmarked
from analysis.paths import Stage, stage_of
from analysis.render import Table

RECORDED = (
    *("sampled_tokens", "graded_rollouts", "trained_tokens_own", "trained_tokens_expert", "rounds"),
    *("seconds", "seconds_explore", "seconds_update", "flops", "gpu_hours"),
)
# Printed columns: title, and the group that shares one unit; None keeps the number as it is.
PRINTED = {
    "sampled_tokens": ("Sampled", "tokens"),
    "trained_tokens_own": ("Own", "tokens"),
    "trained_tokens_expert": ("Expert", "tokens"),
    "rounds": ("Rounds", None),
    "minutes": ("Min.", None),
    "gpu_hours": ("GPU h", None),
    "flops": ("FLOPs", "flops"),
}
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z", "Y")  # powers of a thousand


def read_stages(done: Sequence[Path]) -> dict[Stage, dict]:
    """Each stage's done.json. Raises ValueError on a stage given twice or a record that lacks a cost."""
    stages: dict[Stage, dict] = {}
    for path in done:
        stage = stage_of(path)
        record = json.loads(path.read_text(encoding="utf-8"))
        if stage in stages:
            raise ValueError(f"{path} is a second record of {'/'.join(stage)}: pass each stage of one profile once")
        if missing := [name for name in RECORDED if name not in record["costs"]]:
            raise ValueError(f"{path} lacks the cost {', '.join(missing)}: run the stage again with this version")
        stages[stage] = record
    return stages


def with_ancestors(stage: Stage, stages: dict[Stage, dict]) -> set[Stage]:
    """A stage and all it starts from. Raises ValueError if one of them was not given."""
    found: set[Stage] = set()
    waiting = [stage]
    while waiting:
        stage = waiting.pop()
        if stage in found:
            continue
        if stage not in stages:
            raise ValueError(f"no done.json for {'/'.join(stage)}, which another stage starts from: pass it too")
        found.add(stage)
        waiting += [stage_of(parent) for parent in stages[stage]["parents"]]
    return found


def run_costs(done: Sequence[Path], runs: Sequence[str]) -> pd.DataFrame:
    """Indexed by run: seeds (how many), then each recorded cost, mean over seeds; NaN for a run without stages."""
    stages = read_stages(done)
    rows = []
    for run in runs:
        seeds = sorted({seed for name, seed, _ in stages if name == run})
        totals = []
        for seed in seeds:
            own = [stage for stage in stages if stage[:2] == (run, seed)]
            needed = set().union(*(with_ancestors(stage, stages) for stage in own))
            totals.append({name: sum(stages[stage]["costs"][name] for stage in needed) for name in RECORDED})
        means = pd.DataFrame(totals, columns=list(RECORDED), dtype=float).mean()
        rows.append({"run": run, "seeds": len(seeds), **means})
    return pd.DataFrame(rows).set_index("run")


def cost_table(evidence: Evidence, done: Sequence[Path]) -> Table:
    """Costs per training seed. Columns of a kind share the power of a thousand that keeps the largest value short."""
    notes = Footnotes()
    numbers = run_costs(done, evidence.runs)
    printed = numbers.assign(minutes=numbers["seconds"] / 60)
    gaps = [None if seeds else "no finished stage of this run" for seeds in numbers["seeds"]]
    cells = pd.DataFrame(index=evidence.names(notes))
    for column, (title, kind) in PRINTED.items():
        if column == "gpu_hours" and not (numbers["gpu_hours"] > 0).any():
            continue
        alike = [name for name, (_, other) in PRINTED.items() if other == kind]
        power = power_of_thousand(printed[alike].fillna(0).to_numpy().max()) if kind else 0
        texts = [amount(value, power, 0 if column == "rounds" else 1) for value in printed[column]]
        cells[f"{title} ({PREFIXES[power]})" if power else title] = notes.column(texts, gaps)
    footer = evidence.footer(
        notes,
        "Per training seed (mean over seeds): all stages of a run and every stage it starts from, in full even if "
        "other runs share it. Sampled: tokens generated. Own, expert: tokens in the loss, by author. Rounds: of "
        "generation, one after the other. Min.: wall clock beside whatever else ran; compare runs by FLOPs"
        f"{' or GPU-hours' if (numbers['gpu_hours'] > 0).any() else ''}. FLOPs: 2N per sampled, 6N per trained token "
        "(none for trajectories that move nothing), 2N for a further pass over it.",
    )
    return Table("costs", "What each run cost.", cells, unmarked(cells), numbers, footer, evidence.rule, evidence.headings)


def power_of_thousand(largest: float) -> int:
    """The power of a thousand that leaves at most four digits before the point of this number."""
    return next(power for power in range(len(PREFIXES)) if largest < 10_000 * 1000**power)


def amount(value: float, power: int, decimals: int) -> str:
    """A cost as printed; zero is `0`, and nothing else ever prints as zero."""
    if value == 0:
        return "0"
    rounded = round(value / 1000**power, decimals)
    return f"{rounded:,.{decimals}f}" if rounded else f"<{10.0**-decimals:.{decimals}f}"
