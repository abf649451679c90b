"""What the runs reach: means with intervals, paired differences, pass@k, and accuracy against cost."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

from analysis.costs import PREFIXES
from analysis.evidence import BUG
from analysis.intervals import excludes_zero
from analysis.names import place_names
from analysis.render import probability, signed
from analysis.style import COLOURS, SMALL, WIDTH, broken, legend_below, look, sentence_figure

ROW = 0.24  # inches of a run's row


def average_figure(summary: pd.DataFrame, over: str = "benchmarks") -> Figure:
    """Mean over the benchmarks (`over`, in words) and its interval if there is one, the first run on top.

    A dashed line continues the first run's mean.
    """
    figure, axes = run_rows(summary)
    summary = summary.assign(**{end: summary[end].fillna(summary["mean"]) for end in ("low", "high")})
    for position, row in enumerate(summary.to_dict("records")):
        colour = "0.35" if position == 0 else COLOURS[0]
        dot(axes, position, row["mean"], row["low"], row["high"], colour)
        ground = {"facecolor": "white", "edgecolor": "none", "pad": 1}  # where the interval goes on
        beside = {"xytext": (4, 0), "textcoords": "offset points", "va": "center", "fontsize": SMALL, "bbox": ground}
        axes.annotate(f"{row['mean']:.1f}", (min(row["high"], 100.0), position), **beside)
    axes.axvline(summary["mean"].iloc[0], color="0.6", linewidth=0.7, linestyle="--", zorder=0)
    axes.margins(x=0.08)
    axes.set_xlim(possible(axes.get_xlim(), 0, 107))  # of 100 points, and room for the number beside the last one
    axes.set_xlabel(f"mean of the {over} and its 95 % interval (points)")
    return figure


def difference_figure(summary: pd.DataFrame, baseline: str) -> Figure:
    """Forest plot: each run's paired difference to the baseline with its interval; filled where the interval excludes 0.

    Beside it the numbers and the p-value after Holm's correction.
    """
    known = summary[summary["difference"].notna()]
    if known.empty:
        return sentence_figure(f"No run can be compared with {baseline}.")
    figure, axes = run_rows(known)
    for position, row in enumerate(known.to_dict("records")):
        low, high = row["difference_low"], row["difference_high"]
        dot(axes, position, row["difference"], low, high, COLOURS[0], filled=excludes_zero(low, high))
        sure = f"[{signed(low)}, {signed(high)}]  p {probability(row['p_holm'])}" if low == low else "no interval"
        text = f"{signed(row['difference'])} {sure}"
        beside = {"xycoords": ("axes fraction", "data"), "va": "center", "fontsize": SMALL}
        axes.annotate(text, (1.02, position), **beside)
    axes.axvline(0, color="0.35", linewidth=0.8, zorder=0)
    axes.set_xlim(possible(axes.get_xlim(), -100, 100))
    axes.set_xlabel(f"difference to {baseline} and its 95 % interval (points)")
    return figure


def run_rows(summary: pd.DataFrame) -> tuple[Figure, Axes]:
    """A figure with a named row for each run. summary: columns run and seeds, how many of them."""
    figure = Figure(figsize=(WIDTH, 0.7 + ROW * len(summary)), layout="constrained")
    axes: Axes = figure.subplots()
    names = [run + (" (1 seed)" if seeds == 1 else "") for run, seeds in zip(summary["run"], summary["seeds"], strict=True)]
    axes.set_yticks(range(len(summary)), [broken(name, 32) for name in names], fontsize=SMALL)
    axes.set_ylim(len(summary) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.tick_params(axis="y", length=0)
    return figure, axes


def possible(limits: tuple[float, float], least: float, most: float) -> tuple[float, float]:
    """Limits of an axis of points, without what no run can reach: an interval of two seeds may be hundreds of points wide, and
    leaves the picture then."""
    return max(limits[0], least - 3), min(limits[1], most + 3)


def dot(axes: Axes, position: int, value: float, low: float, high: float, colour: str, filled: bool = True) -> None:
    """A run's value and interval in its row; hollow if not filled."""
    axes.plot([low, high], [position] * 2, color=colour, linewidth=1.6, solid_capstyle="butt")
    axes.plot(value, position, "o", color=colour, markerfacecolor=colour if filled else "white", markersize=5)


def pass_at_k_figure(curves: pd.DataFrame, runs: Sequence[str], benchmarks: dict[str, str]) -> Figure:
    """A panel per benchmark with several samples per problem: pass@k in points over k, with 95 % intervals as bars.

    curves: of `statistics.pass_curves`.
    """
    drawn = [key for key in benchmarks if (curves.loc[curves["benchmark"] == key, "k"] > 1).any()]
    if not drawn:
        return sentence_figure("pass@k needs several samples per problem, and every benchmark here has one.")
    across = min(len(drawn), 2)
    rows = -(-len(drawn) // across)
    figure = Figure(figsize=(WIDTH, 0.5 + 2.0 * rows + 0.06 * len(runs)), layout="constrained")
    handles: dict[str, Any] = {}
    for place, benchmark in enumerate(drawn):
        axes = figure.add_subplot(rows, across, place + 1)
        own = curves[curves["benchmark"] == benchmark]
        for position, run in enumerate(runs):
            if run in set(own["run"]):
                handles[run] = _pass_curve(axes, own[own["run"] == run], position, len(runs))
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(set(own["k"])), [str(k) for k in sorted(set(own["k"]))])
        axes.minorticks_off()
        axes.set_title(benchmarks[benchmark])
        axes.set_xlabel("k")
        if place % across == 0:
            axes.set_ylabel("pass@k (points)")
    order = [run for run in runs if run in handles]
    legend_below(figure, [handles[run] for run in order], order)
    return figure


def _pass_curve(axes: Axes, own: pd.DataFrame, position: int, runs: int) -> Any:
    """One run's curve, moved aside a little so that bars of several runs do not cover one another."""
    shifted = own["k"] * 2 ** ((position - (runs - 1) / 2) * min(0.05, 0.3 / runs))
    bars = [own["mean"] - own["low"], own["high"] - own["mean"]]
    return axes.errorbar(shifted, own["mean"], bars, linewidth=1.0, elinewidth=0.6, **look(position))


def cost_figure(summary: pd.DataFrame, costs: pd.DataFrame, over: str = "benchmarks") -> Figure:
    """The mean over the benchmarks against GPU-hours and FLOPs on log axes, and the front that no run beats at its cost.

    costs: of `analysis.costs.run_costs`. Without GPUs only FLOPs: minutes on cores that other jobs share are no cost. A run
    that cost nothing (base) is a dashed line; one with an injected bug is hollow and not on the front.
    """
    table = summary.set_index("run").join(costs.drop(columns="seeds"))
    free, paid = table[table["flops"] == 0], table[table["flops"] > 0]
    if paid.empty:
        return sentence_figure("No run cost anything, so there is no cost to show.")
    gpu = (paid["gpu_hours"] > 0).all()
    power = int(np.log10(paid["flops"].max()) // 3)
    columns = {"training, GPU-hours": paid["gpu_hours"]} if gpu else {}
    columns[f"training, FLOPs ({PREFIXES[power]})"] = paid["flops"] / 1000**power
    figure = Figure(figsize=(WIDTH, 2.6 + 0.06 * len(paid)), layout="constrained")
    panels = figure.subplots(1, len(columns), sharey=True, squeeze=False)[0]
    for axes, (label, values) in zip(panels, columns.items(), strict=True):
        _cost_panel(axes, values, paid, free)
        axes.set_xlabel(label)
        axes.set_title(" ")  # room for what `place_names` may have to say
    panels[0].set_ylabel(f"mean of the {over} (points)")
    handles, labels = panels[0].get_legend_handles_labels()
    named = dict(zip(labels, handles, strict=True))
    legend_below(figure, list(named.values()), list(named))
    figure.draw_without_rendering()
    figure.set_layout_engine("none")  # names are placed for these very axes
    for axes, values in zip(panels, columns.values(), strict=True):
        place_names(axes, pd.DataFrame({"x": values, "y": paid["mean"]}), [axes.lines[0], *axes.collections])
    return figure


def _cost_panel(axes: Axes, values: pd.Series, paid: pd.DataFrame, free: pd.DataFrame) -> None:
    clean = np.array([BUG not in run for run in paid.index])
    front = pareto(values[clean], paid["mean"][clean])
    corners = np.repeat([*front.index, values.max()], 2)[1:-1], np.repeat(front, 2)
    axes.plot(*corners, color=COLOURS[1], linewidth=1, zorder=1, label="no run is better at this cost")
    axes.vlines(values, paid["low"], paid["high"], color="0.7", linewidth=0.9, zorder=1, label="95 % interval")
    for kind, face, text in ((clean, COLOURS[0], ""), (~clean, "white", "with an injected bug")):
        if kind.any():
            axes.plot(values[kind], paid["mean"][kind], "o", color=COLOURS[0], markerfacecolor=face, markersize=4, label=text)
    for run, mean in free["mean"].items():
        axes.axhline(mean, color="0.35", linewidth=0.8, linestyle="--", zorder=0)
        near = {"xycoords": ("axes fraction", "data"), "xytext": (0, 2), "textcoords": "offset points", "fontsize": SMALL}
        axes.annotate(str(run), (0.01, mean), **near)
    axes.set_ylim(possible(axes.get_ylim(), 0, 100))
    axes.set_xscale("log")
    axes.margins(x=0.25)
    low, high = axes.get_xlim()
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.minorticks_off()


def pareto(costs: pd.Series, means: pd.Series) -> pd.Series:
    """The means that are above those of all cheaper runs, indexed by cost."""
    ordered = pd.Series(means.to_numpy(), index=costs.to_numpy()).sort_index(kind="stable")
    best = ordered.groupby(level=0).max()
    return best[best > best.cummax().shift(fill_value=-np.inf)]
