"""How much of the demonstrations the guided rollouts of a run were shown, early, in the middle and late in training.

    <run>/seed<k>/<stage>/metrics.jsonl   ->   prefix_use_histogram.{md,tex,txt,csv,png,pdf}

Only runs that guide have a row and a panel. Within a seed all rollouts of a third count alike; seeds are averaged.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from analysis import render
from analysis.costs import PREFIXES, amount, power_of_thousand
from analysis.curves import read_curves, third
from analysis.evidence import Footnotes, unmarked
from analysis.render import Table
from analysis.style import COLOURS, STYLE, broken, legend_below, save
from analysis.tables import frame
from analysis.training_figures import THIRDS, grid

NAME = "prefix_use_histogram"
PLACE = ["run", "seed", "part"]
GAPS = {"guided": "no rollout was graded then", "shown": "no rollout was guided then"}
WHOLE = "all"  # updates, beside the thirds
WIDE = 0.028  # of a bar; three stand at each tenth
HATCHES = ("", "////", "....")  # tell the thirds apart in grey


def prefix_use(curves: pd.DataFrame) -> pd.DataFrame:
    """Columns run, seed, part (a third, or all updates), shown (share of the demonstration) and rollouts, in % of all there.

    Only runs that guide. A part in which nothing was sampled has no rows; one without guidance has zeros. Raises ValueError
    if no run guides.
    """
    guides = curves.groupby("run")["shares"].agg(lambda shares: any(map(bool, shares)))
    own = curves[curves["run"].map(guides) & (curves["graded_rollouts"] > 0)].reset_index()
    if own.empty:
        raise ValueError(
            f"none of the runs {', '.join(dict.fromkeys(curves['run']))} continues an expert prefix: pass the metrics of one "
            "that does, such as trapo"
        )
    last = own["run"].map(curves.groupby("run")["update"].max())
    thirds = [THIRDS[third(*pair)] for pair in zip(own["update"], last, strict=True)]
    counts = pd.DataFrame(own["shares"].tolist()).fillna(0.0).mul(own["graded_rollouts"] / 100, axis=0)
    rows = counts.join(own[["run", "seed", "graded_rollouts"]])
    sums = pd.concat([rows.assign(part=thirds), rows.assign(part=WHOLE)]).groupby(PLACE, sort=False).sum()
    percent = 100 * sums[counts.columns].div(sums["graded_rollouts"], axis=0)
    return percent.reset_index().melt(PLACE, var_name="shown", value_name="rollouts").astype({"shown": float})


def by_part(use: pd.DataFrame) -> pd.DataFrame:
    """Indexed by run and part, mean over seeds: guided, % of the rollouts; shown, mean share of the demonstration in %.

    A part without guidance shows nothing: NaN.
    """
    sums = use.assign(weighted=100 * use["shown"] * use["rollouts"]).groupby(PLACE, sort=False).sum()
    sums["shown"] = sums["weighted"] / sums["rollouts"]
    means = sums.groupby(["run", "part"], sort=False)[["rollouts", "shown"]].mean()
    return means.rename(columns={"rollouts": "guided"})


def tokens(curves: pd.DataFrame, runs: Sequence[str]) -> pd.DataFrame:
    """Indexed by run, per seed: sampled, tokens the run generated; expert, tokens of demonstrations in its loss."""
    sums = curves.groupby(["run", "seed"])[["sampled_tokens", "trained_tokens_expert"]].sum()
    return sums.groupby("run").mean().loc[list(runs)].set_axis(["sampled", "expert"], axis=1)


def use_table(use: pd.DataFrame, curves: pd.DataFrame) -> Table:
    """A row per run that guides."""
    notes = Footnotes()
    runs = list(use["run"].unique())
    parts, counted = by_part(use), tokens(curves, runs)
    texts, titles, groups, numbers = [], [], [], pd.DataFrame(index=pd.Index(runs, name="run"))
    for column, title in (("guided", "Guided rollouts (%)"), ("shown", "Mean share shown (%)")):
        for part in (*THIRDS, WHOLE):
            values = parts[column].reindex([(run, part) for run in runs]).to_numpy()
            gaps = [None if value == value else GAPS[column] for value in values]
            texts.append(notes.column([f"{value:.1f}" for value in values], gaps))
            titles.append(part)
            groups.append(title)
            numbers[f"{column}_{part}"] = values
    power = power_of_thousand(counted.to_numpy().max())
    for column in counted:
        texts.append([amount(value, power, 1) for value in counted[column]])
        titles.append(str(column))
        groups.append(f"Tokens ({PREFIXES[power]})" if power else "Tokens")
        numbers[f"tokens_{column}"] = counted[column]
    seeds = numbers["seeds"] = use.groupby("run")["seed"].nunique().reindex(runs)
    alike = seeds.nunique() == 1
    counts = seeds.iloc[0] if alike else ", ".join(f"{run} {count}" for run, count in seeds.items())
    footer = (
        *notes.lines(),
        "Guided: rollouts that continue an expert prefix, of all graded rollouts. Share shown: of the demonstration, in tokens "
        "to the nearest tenth, mean over guided rollouts. Early, middle, late: thirds of the run's updates.",
        "Tokens: sampled, what the run generated; expert, tokens of demonstrations in its loss. Per training seed.",
        f"Training seeds: {counts}; means over them.",
    )
    cells = frame(texts, runs, titles)
    caption = "How often rollouts were guided, and by how much of a demonstration."
    return Table(NAME, caption, cells, unmarked(cells), numbers, footer, False, groups=tuple(groups))


def use_figure(use: pd.DataFrame) -> Figure:
    """A panel per run: % of its rollouts by the share of the demonstration they were shown, a bar for each third."""
    runs = list(use["run"].unique())
    bars = use[use["part"] != WHOLE].groupby(["run", "part", "shown"], as_index=False)["rollouts"].mean()
    figure, panels = grid(len(runs), "share shown", "% of rollouts", below=0.75)
    for axes, run in zip(panels, runs, strict=True):
        for place, part in enumerate(THIRDS):
            own = bars[(bars["run"] == run) & (bars["part"] == part)]
            axes.bar(own["shown"] + (place - 1) * WIDE, own["rollouts"], WIDE, **_bar(place))
        axes.set_title(broken(run))
        axes.set_xlim(-0.06, 1.06)
        axes.set_xticks(np.linspace(0, 1, 6), ["0", ".2", ".4", ".6", ".8", "1"])
        axes.set_ylim(0, 1.05 * bars["rollouts"].max())
        axes.grid(axis="x", visible=False)
    handles = [Patch(**_bar(place)) for place in range(len(THIRDS))]
    several = " Mean over seeds." if use["seed"].nunique() > 1 else ""
    note = (
        "Share of the demonstration that a rollout was shown, in the thirds of the run's updates; rollouts without a prefix "
        f"are not drawn.{several}"
    )
    legend_below(figure, handles, THIRDS, note)
    return figure


def _bar(third: int) -> dict[str, Any]:
    return {"facecolor": COLOURS[third], "hatch": HATCHES[third], "edgecolor": "white", "linewidth": 0}


def main(argv: Sequence[str] | None = None) -> int:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m analysis.prefix_use", description=__doc__, formatter_class=text)
    parser.add_argument("--metrics", required=True, nargs="+", type=Path, metavar="FILE", help="every stage's metrics.jsonl")
    parser.add_argument("--out-dir", required=True, type=Path, help="where table and figure go")
    arguments = parser.parse_args(argv)
    try:
        curves = read_curves(arguments.metrics)
        use = prefix_use(curves)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    render.write(use_table(use, curves), arguments.out_dir)
    with matplotlib.rc_context(STYLE):
        save(use_figure(use), arguments.out_dir / NAME)
    return 0


if __name__ == "__main__":
    sys.exit(main())
