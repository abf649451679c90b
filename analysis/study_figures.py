"""The figures of a study: its runs in rows, or their means over the value of a setting."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import ScaledTranslation

from analysis.evidence import BUG, Evidence
from analysis.result_figures import dot, run_rows
from analysis.style import COLOURS, LINES, POINTS, SMALL, WIDTH, legend_below, sentence_figure

WIDE = 20  # times from the smallest to the largest value: from there on the axis is logarithmic
APART = 6  # points between marks at the same value
THEIRS = "Ds^v"  # of papers in order, hollow
BASELINE = "0.35"
BUGGY = "with an injected bug"


@dataclass(frozen=True)
class Axis:
    """A setting and its value in some of the runs."""

    label: str
    values: dict[str, float]


def row_figure(evidence: Evidence, theirs: pd.DataFrame | None, over: str) -> Figure:
    """A row per run: mean and interval, the number beside it; hollow marks: what papers print. The baseline's mean goes on.

    theirs: of `study.printed_means`. over: the benchmarks in words.
    """
    summary = _summary(evidence)
    figure, axes = run_rows(summary.reset_index())
    for position, row in enumerate(summary.to_dict("records")):
        text = "no mean"
        if row["mean"] == row["mean"]:
            dot(axes, position, row["mean"], row["low"], row["high"], _colour(evidence, str(summary.index[position])))
            text = f"{row['mean']:.1f}" + (f" [{row['low']:.1f}, {row['high']:.1f}]" if row["low"] == row["low"] else "")
        axes.annotate(text, (1.02, position), xycoords=("axes fraction", "data"), va="center", fontsize=SMALL)
    means = summary["mean"].dropna().to_dict()
    if evidence.baseline in means:
        axes.axvline(means[evidence.baseline], color="0.6", linewidth=0.7, linestyle="--", zorder=0)
    handles = {}
    for place, (source, own) in enumerate(_sources(theirs)):
        rows = [evidence.runs.index(run) + (-0.32 if place % 2 else 0.32) for run in own["run"]]
        handles[source] = axes.plot(own["mean"], rows, **_hollow(place))[0]
    if any(BUG in run for run in evidence.runs):
        handles[BUGGY] = Line2D([], [], color=COLOURS[1], marker="o", markersize=5, linewidth=1.6)
    axes.margins(x=0.08)
    axes.set_xlabel(f"mean of the {over} and its 95 % interval (points)")
    if handles:
        legend_below(figure, list(handles.values()), list(handles))
    return figure


def axis_figure(evidence: Evidence, axis: Axis, theirs: pd.DataFrame | None, over: str) -> Figure:
    """The mean over the setting's value with intervals as bars; runs without a value, and the baseline, as bands.

    Runs with equal values stand side by side; the line joins their mean.
    """
    summary = _summary(evidence).assign(value=pd.Series(axis.values))
    known = summary[summary["mean"].notna()]
    drawn = known[known["value"].notna()].sort_values("value", kind="stable")
    if drawn.empty:
        return sentence_figure(f"No run with a value of {axis.label} is graded on every benchmark.")
    figure = Figure(figsize=(WIDTH, 2.9), layout="constrained")
    axes: Axes = figure.subplots()
    handles = _bands(axes, known[known["value"].isna() | (known.index == evidence.baseline)], evidence.baseline)
    values: list[float] = sorted(set(drawn["value"]))
    axes.plot(values, drawn.groupby("value")["mean"].mean(), color=COLOURS[0], linewidth=1)
    for value in values:
        alike = drawn[drawn["value"] == value]
        for place, row in enumerate(alike.to_dict("records")):
            style = {"transform": _beside(axes, APART * (place - (len(alike) - 1) / 2))}
            style["color"] = COLOURS[1] if BUG in alike.index[place] else COLOURS[0]
            axes.plot([value] * 2, [row["low"], row["high"]], linewidth=1.6, solid_capstyle="butt", **style)
            axes.plot(value, row["mean"], "o", markersize=5, **style)
    ends = drawn.melt("value", ["mean", "low", "high"], value_name="points")[["value", "points"]]
    axes.update_datalim(ends.dropna().to_numpy())  # what is moved aside does not do so by itself
    for place, (source, own) in enumerate(_sources(theirs)):
        at = own["run"].map(axis.values)
        if at.notna().any():
            shifted = _beside(axes, -APART if place % 2 else APART)
            handles[source] = axes.plot(at, own["mean"], transform=shifted, **_hollow(place))[0]
            axes.update_datalim(pd.DataFrame({"at": at, "mean": own["mean"]}).dropna().to_numpy())
    if any(BUG in run for run in drawn.index):
        handles[BUGGY] = Line2D([], [], color=COLOURS[1], marker="o", markersize=5, linewidth=1.6)
    _scale(axes, values)
    axes.set_xlabel(axis.label)
    axes.set_ylabel(f"mean of the {over} (points)")
    legend_below(figure, list(handles.values()), list(handles), _said(evidence, summary))
    return figure


def _summary(evidence: Evidence) -> pd.DataFrame:
    """Indexed by run: seeds, mean, low, high; NaN without a mean."""
    (summary,) = evidence.summaries.values()
    seeds = evidence.scores.groupby("run")["seed"].nunique()
    return summary[["mean", "low", "high"]].reindex(list(evidence.runs)).assign(seeds=seeds)


def _sources(theirs: pd.DataFrame | None) -> list[tuple[str, pd.DataFrame]]:
    """What a legend says of each paper, and its rows that have a mean."""
    known = pd.DataFrame() if theirs is None else theirs[theirs["mean"].notna()]
    if known.empty:
        return []
    return [
        (f"printed: {paper}, {', '.join(own['source'].unique())}", own) for paper, own in known.groupby("paper", sort=False)
    ]


def _hollow(place: int) -> dict[str, Any]:
    mark = {"marker": THEIRS[place % len(THEIRS)], "markersize": 4, "markerfacecolor": "white"}
    return {**mark, "color": "black", "markeredgewidth": 0.8, "linestyle": "", "zorder": 3}


def _colour(evidence: Evidence, run: str) -> str:
    return COLOURS[1] if BUG in run else BASELINE if run == evidence.baseline else COLOURS[0]


def _beside(axes: Axes, points: float) -> Any:
    """The data's coordinates, moved to the right by this many points."""
    assert axes.figure is not None
    return axes.transData + ScaledTranslation(points / POINTS, 0, axes.figure.dpi_scale_trans)


def _bands(axes: Axes, rows: pd.DataFrame, baseline: str) -> dict[str, Any]:
    """A line with its interval as a band for each run; their handles for the legend."""
    handles = {}
    others = [run for run in rows.index if run != baseline]
    for run, row in rows.iterrows():
        place = 1 + others.index(run) if run in others else 0
        colour = COLOURS[1 + place] if place else BASELINE
        if row["low"] == row["low"]:
            axes.axhspan(row["low"], row["high"], color=colour, alpha=0.12, linewidth=0, zorder=0)
        line = axes.axhline(row["mean"], color=colour, linewidth=1, linestyle=LINES[1 + place % 4], zorder=1)
        handles[str(run) + (" (baseline)" if run == baseline else "")] = line
    return handles


def _scale(axes: Axes, values: Sequence[float]) -> None:
    """A tick at each value; logarithmic where they span WIDE or more, linear below the smallest if one is 0."""
    positive = [value for value in values if value > 0]
    if positive and values[0] >= 0 and positive[-1] >= WIDE * positive[0]:
        axes.set_xscale("symlog", linthresh=positive[0]) if values[0] == 0 else axes.set_xscale("log")
    axes.set_xticks(values, [f"{value:g}" for value in values])
    axes.minorticks_off()
    axes.margins(x=0.08, y=0.1)


def _said(evidence: Evidence, summary: pd.DataFrame) -> str:
    """What the figure says in words: what is drawn, seeds, runs with equal values, runs without a mean."""
    texts = ["Bars and bands: 95 % intervals.", evidence.seeds()]
    for value, alike in summary[summary["mean"].notna()].groupby("value"):
        texts += [f"At {value:g}: {', '.join(alike.index)}."] if len(alike) > 1 else []
    lacking = summary.index[summary["mean"].isna()]
    return " ".join([*texts, *([f"No mean: {', '.join(lacking)}."] if len(lacking) else [])])
