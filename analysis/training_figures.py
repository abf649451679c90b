"""What happened while the runs trained: shared panels per metric, and small panels per run."""

from collections.abc import Sequence
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from analysis.curves import METRICS, by_seed, nested, smooth, weight_thirds
from analysis.style import COLOURS, COLUMN, LINES, WIDTH, broken, legend_below, look, sentence_figure

TITLES = {
    "reward": "Reward (without prefix)",
    "response_tokens": "Response (tokens)",
    "entropy": "Entropy (nats per token)",
    "finished": "Responses that end (%)",
    "logp_own": "Own log-prob (nats)",
    "logp_expert": "Expert log-prob (nats)",
    "grad_norm": "Gradient norm",
    "guided": "Guided rollouts (%)",
}
UNSIGNED = ("reward", "response_tokens", "finished", "guided")  # drawn from 0
LOGARITHMIC = ("grad_norm",)
PERCENT = {"finished": 100.0}  # recorded as shares
ACROSS = 3  # panels in a row
HEIGHT = 1.25  # inches of a panel with its title and ticks
MARKED = 4  # markers along a line
THIRDS = ("early", "middle", "late")


def training_figure(curves: pd.DataFrame, runs: Sequence[str]) -> Figure:
    """A panel per metric that any run recorded; one line per run, smoothed, mean over its seeds.

    Behind it the range of the seeds, or the one seed unsmoothed. The x axis is each run's own progress: runs with many cheap
    updates would otherwise squeeze the others.
    """
    trained = [run for run in runs if run in set(curves["run"])]
    curves = curves[curves["run"].isin(trained)]
    drawn = [metric for metric in METRICS if curves[metric].notna().any()]
    if not drawn:
        return sentence_figure("No run recorded any metric while it trained.")
    figure, panels = grid(len(drawn), "% of the run's updates", below=0.5 + 0.06 * len(trained))
    handles: dict[str, Any] = {}
    for axes, metric in zip(panels, drawn, strict=True):
        for position, run in enumerate(trained):
            own = curves[curves["run"] == run]
            if own[metric].notna().any():
                handles[run] = _curve(axes, own, metric, position)
        axes.set_title(TITLES[metric])
        if metric in UNSIGNED:
            axes.set_ylim(bottom=0)
        if metric in PERCENT:
            axes.set_ylim(top=100)
        if metric in LOGARITHMIC:
            axes.set_yscale("log")
    order = [run for run in trained if run in handles]
    legend_below(figure, [handles[run] for run in order], order, _missing(curves, trained))
    return figure


def _curve(axes: Axes, own: pd.DataFrame, metric: str, position: int) -> Any:
    """One run's line in one panel; its handle for the legend."""
    factor = PERCENT.get(metric, 1.0)
    seeds = factor * by_seed(own, metric)
    done = 100 * seeds.index.to_numpy() / own["update"].max()
    mean, style = seeds.mean(axis=1).to_numpy(), look(position)
    if seeds.shape[1] > 1:
        axes.fill_between(done, seeds.min(axis=1), seeds.max(axis=1), color=style["color"], alpha=0.15, linewidth=0)
    else:
        raw = factor * own.set_index("update")[metric].dropna()
        axes.plot(done, raw.loc[seeds.index], color=style["color"], alpha=0.25, linewidth=0.5)
    step = max(1, len(done) // MARKED)
    return axes.plot(done, mean, linewidth=1.1, markevery=(position * step // MARKED % step, step), **style)[0]


def _missing(curves: pd.DataFrame, trained: Sequence[str]) -> str:
    """`Not recorded: reward, entropy (sft); expert log-prob (grpo).` or ""."""
    recorded = curves.groupby("run")[list(METRICS)].count() > 0
    alike: dict[tuple[str, ...], list[str]] = {}
    for metric in METRICS:
        alike.setdefault(tuple(run for run in trained if not recorded.loc[run, metric]), []).append(metric)
    titles = {metric: title.split(" (")[0].lower() for metric, title in TITLES.items()}
    named = {runs: "any run" if len(runs) == len(trained) > 1 else ", ".join(runs) for runs in alike if runs}
    texts = [f"{', '.join(titles[metric] for metric in alike[runs])} ({names})" for runs, names in named.items()]
    return f"Not recorded: {'; '.join(texts)}." if texts else ""


def guidance_figure(curves: pd.DataFrame, runs: Sequence[str]) -> Figure:
    """A panel per run that guides: % of its rollouts that continue an expert prefix, stacked by the share they were shown."""
    guiding = [run for run in runs if curves.loc[curves["run"] == run, "shares"].map(bool).any()]
    if not guiding:
        return sentence_figure("No run continues expert prefixes, so there is no use of them to show.")
    levels = sorted({share for shares in curves["shares"] for share in shares})
    colours = dict(zip(levels, matplotlib.colormaps["cividis_r"](np.linspace(0.1, 1, len(levels))), strict=True))
    figure, panels = grid(len(guiding), "update", "% of rollouts")
    highest = curves.groupby(["run", "update"])["guided"].mean().max()
    for axes, run in zip(panels, guiding, strict=True):
        own = curves[(curves["run"] == run) & curves["guided"].notna()]
        used = nested(own, "shares").fillna(0.0).groupby(level=0).mean()
        areas = [smooth(used[level].to_numpy()) for level in used]
        shades = [colours[level] for level in used]
        axes.stackplot(used.index, areas, colors=shades, edgecolor="white", linewidth=0.4)
        axes.set_title(broken(run))
        axes.set_ylim(0, highest)
        axes.margins(x=0)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    handles = [Patch(color=colours[level], label=level) for level in levels]
    legend_below(figure, handles, levels, "Share of the demonstration that the rollout was shown, the smallest at the bottom:")
    return figure


def terms_figure(curves: pd.DataFrame, runs: Sequence[str]) -> Figure:
    """A panel per run with the norm of each part's gradient before clipping, where it was measured; mean over seeds."""
    measured = [run for run in runs if curves.loc[curves["run"] == run, "terms"].map(bool).any()]
    if not measured:
        return sentence_figure("No run recorded the gradient norm of each part of its loss.")
    names = list(dict.fromkeys(name for terms in curves["terms"] for name in terms))
    figure, panels = grid(len(measured), "update", "gradient norm")
    handles: dict[str, Any] = {}
    for axes, run in zip(panels, measured, strict=True):
        own = curves[curves["run"] == run]
        norms = nested(own, "terms").groupby(level=0).mean().dropna(how="all")
        for name in map(str, norms):
            handles[name] = axes.plot(norms.index, norms[name], linewidth=1.1, **look(names.index(name)))[0]
        axes.set_title(broken(run))
        axes.set_xlim(0, own["update"].max() + 1)
        axes.set_ylim(0, 1.1 * norms.max().max())
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    legend_below(
        figure, list(handles.values()), list(handles), "Gradient of own or expert tokens, or of a named term of the loss:"
    )
    return figure


def weights_figure(curves: pd.DataFrame, runs: Sequence[str]) -> Figure:
    """A panel per run that imitates: how its expert tokens are weighted, in the thirds of its updates, all seeds together."""
    imitating = [run for run in runs if curves.loc[curves["run"] == run, "weights"].map(bool).any()]
    if not imitating:
        return sentence_figure("No run recorded the weights of expert tokens.")
    figure, panels = grid(len(imitating), "weight in the loss", "% of expert tokens")
    edges = np.linspace(0, 1.05, 22)
    handles: dict[str, Any] = {}
    for axes, run in zip(panels, imitating, strict=True):
        for third, percent in enumerate(weight_thirds(curves[curves["run"] == run])):
            if np.isfinite(percent).all():
                style = {"color": COLOURS[third], "linestyle": LINES[third], "linewidth": 1.1}
                handles[THIRDS[third]] = axes.stairs(percent, edges, **style)
        axes.set_title(broken(run))
        axes.set_xticks([0, 0.5, 1.0], ["0", ".5", "1"])
        axes.set_ylim(bottom=0)
    named = [third for third in THIRDS if third in handles]
    note = "Third of the run's updates (the last bar holds all weights above 1):"
    legend_below(figure, [handles[third] for third in named], named, note)
    return figure


def grid(count: int, x: str, y: str = "", below: float = 0.4) -> tuple[Figure, list[Axes]]:
    """A figure with this many panels, labelled in the last row and the first column, and inches for a legend below."""
    rows, columns = -(-count // ACROSS), min(count, ACROSS)
    size = (WIDTH if count > 1 else COLUMN, 0.2 + rows * HEIGHT + below)
    figure = Figure(figsize=size, layout="constrained")
    panels = [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
    for axes in panels[(rows - 1) * ACROSS :]:
        axes.set_xlabel(x)
    for axes in panels[::ACROSS]:
        axes.set_ylabel(y)
    return figure, panels
