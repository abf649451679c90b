"""What expert openings change before any training: figure and table `fig2_prefix_pilot`, from what engine.pilot sampled.

python -m analysis.prefix_pilot --data PREFIXES.parquet --out-dir DIR
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from analysis import render
from analysis.evidence import unmarked
from analysis.intervals import Estimate, difference, estimate
from analysis.render import DASH, Table, signed
from analysis.style import STYLE, WIDTH, legend_below, look, save

MARKS = {"backtracking": "Backtracking", "backward_chaining": "Backward chaining"}
COLUMNS = ("ratio", "problem_id", "sample", "correct", "given", "tokens", "prefix_tokens", "finish_reason", *MARKS)


def read(path: Path) -> pd.DataFrame:
    """One row per continuation. Raises ValueError if a column is missing, or the ratios are not of the same problems."""
    rows = pd.read_parquet(path)
    if missing := [name for name in COLUMNS if name not in rows]:
        raise ValueError(f"{path} lacks the column {missing[0]!r}; make it again with python -m engine.pilot prefixes")
    problems = rows.groupby("ratio")["problem_id"].agg(frozenset)
    if rows.empty or problems.nunique() > 1:
        raise ValueError(f"{path} does not have the same problems for every ratio; make it again with python -m engine.pilot")
    return rows


def accuracies(rows: pd.DataFrame) -> dict[float, np.ndarray]:
    """By ratio [1, problems]: % of each problem's continuations that are correct, problems in the same order."""
    points = 100 * rows.groupby(["ratio", "problem_id"])["correct"].mean()
    return {float(ratio): points[ratio].to_numpy()[None] for ratio in sorted(rows["ratio"].unique())}


def rate(rows: pd.DataFrame, mark: str) -> Estimate:
    """Marks per 1,000 generated tokens, all continuations together; NaN where nothing was generated.

    A ratio of two sums over problems: its standard error is that of the mean of marks - ratio * tokens, over the mean tokens.
    """
    sums = rows.groupby("problem_id")[[mark, "tokens"]].sum()
    if not sums["tokens"].sum():
        return Estimate(float("nan"), float("nan"), float("nan"))
    found = sums[mark].sum() / sums["tokens"].sum()
    around = estimate([((sums[mark] - found * sums["tokens"]) / sums["tokens"].mean()).to_numpy()[None]])
    return Estimate(1000 * float(found), 1000 * around.se, around.df)


def summarise(rows: pd.DataFrame) -> pd.DataFrame:
    """A row per ratio: accuracy with its interval, the paired difference to the smallest ratio, shares in %, and marks."""
    cells, found = accuracies(rows), []
    first, *_ = cells.values()
    for ratio, points in cells.items():
        own = rows[rows["ratio"] == ratio]
        accuracy, apart = estimate([points]), difference([points], [first], same_seeds=True)
        entry = {"ratio": ratio, "accuracy": accuracy.mean, "low": accuracy.low, "high": accuracy.high}
        entry |= {"difference": apart.mean, "difference_low": apart.low, "difference_high": apart.high, "p": apart.p}
        entry |= {"given": 100 * own["given"].mean(), "truncated": 100 * (own["finish_reason"] == "length").mean()}
        entry |= {"prefix_tokens": own["prefix_tokens"].mean(), "tokens": own["tokens"].mean()}
        for mark in MARKS:
            marks = rate(own, mark)
            entry |= {mark: marks.mean, f"{mark}_low": marks.low, f"{mark}_high": marks.high}
        found.append(entry)
    return pd.DataFrame(found).set_index("ratio")


def pilot_figure(summary: pd.DataFrame) -> Figure:
    """Accuracy, and marks per 1,000 generated tokens, against the share of the demonstration, with 95 % intervals."""
    figure = Figure(figsize=(WIDTH, 2.3), layout="constrained")
    left, right = figure.subplots(1, 2)
    shares = 100 * summary.index.to_numpy()
    panels = [(left, "accuracy", "", "correct"), *((right, mark, f"{mark}_", title) for mark, title in MARKS.items())]
    handles = []
    for position, (axes, name, prefix, label) in enumerate(panels):
        low, high = (summary[f"{prefix}{end}"].fillna(summary[name]) for end in ("low", "high"))
        axes.fill_between(shares, low, high, color=look(position)["color"], alpha=0.15, linewidth=0)
        handles += axes.plot(shares, summary[name], linewidth=1.1, label=label, **look(position))
    handles += left.plot(shares, summary["given"], linewidth=1.1, label="correct in the prefix already", **look(len(panels)))
    left.set_title("Accuracy (%)")
    right.set_title("Marks per 1,000 generated tokens")
    left.set_ylim(0, 103)
    right.set_ylim(bottom=0, top=None if summary[list(MARKS)].max().max() > 0 else 1)
    for axes in (left, right):
        axes.set_xlabel("prefix (% of the demonstration)")
    handles.insert(1, handles.pop())
    legend_below(figure, handles, [str(handle.get_label()) for handle in handles])
    return figure


def pilot_table(rows: pd.DataFrame, summary: pd.DataFrame) -> Table:
    """A row per ratio."""
    cells = pd.DataFrame(index=[f"{100 * ratio:g} %" for ratio in summary.index])
    cells["Correct"] = [_between(*ends) for ends in summary[["accuracy", "low", "high"]].to_numpy()]
    apart = summary[["difference", "difference_low", "difference_high"]].to_numpy()
    cells["Difference"] = ["", *(f"{signed(mean)} [{signed(low)}, {signed(high)}]" for mean, low, high in apart[1:])]
    for name, title in (("given", "Given"), ("truncated", "Truncated"), ("prefix_tokens", "Prefix"), ("tokens", "Tokens")):
        cells[title] = summary[name].map("{:.1f}".format).to_numpy()
    for mark, title in MARKS.items():
        cells[title] = [_between(*ends) for ends in summary[[mark, f"{mark}_low", f"{mark}_high"]].to_numpy()]
    footer = (
        f"{rows['problem_id'].nunique()} training problems, {rows['sample'].max() + 1} continuations of each (a whole "
        "demonstration is only graded); brackets: 95 % t interval over problems. Correct, given and truncated in %.",
        "Correct: prefix and continuation graded together; difference: paired, to the first row; given: the prefix alone is "
        "correct already; prefix and tokens: mean tokens shown and generated.",
        "Backtracking and backward chaining: phrases of a word list (engine/pilot.py) per 1,000 generated tokens; the paper "
        "had a language model judge them.",
    )
    caption = "What the opening of an expert demonstration does to the base model, before any training."
    return Table("fig2_prefix_pilot", caption, cells, unmarked(cells), summary, footer, False, corner="Prefix shown")


def _between(mean: float, low: float, high: float) -> str:
    """A number with its interval; without one where there is no spread to learn from."""
    if np.isnan(mean):
        return DASH
    return f"{mean:.1f}" if np.isnan(low) else f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def main(argv: Sequence[str] | None = None) -> None:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m analysis.prefix_pilot", description=__doc__, formatter_class=text)
    parser.add_argument("--data", required=True, type=Path, help="what python -m engine.pilot prefixes wrote")
    parser.add_argument("--out-dir", required=True, type=Path, help="where figure and table go")
    arguments = parser.parse_args(argv)
    rows = read(arguments.data)
    summary = summarise(rows)
    with matplotlib.rc_context(STYLE):
        save(pilot_figure(summary), arguments.out_dir / "fig2_prefix_pilot")
    render.write(pilot_table(rows, summary), arguments.out_dir)


if __name__ == "__main__":
    main()
