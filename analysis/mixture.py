"""SFT against TrSFT on a Gaussian mixture: the figure and the table `fig3_mixture_pilot`, from the CSV of miniature.mixture.

python -m analysis.mixture --data MIXTURE.csv --out-dir DIR
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from analysis import render
from analysis.evidence import unmarked
from analysis.render import Table
from analysis.style import SMALL, STYLE, WIDTH, look, save

KEY = ["components", "alpha", "seed", "step"]
MEASURES = {  # column: title in the table, digits
    "kl_expert_policy": ("KL(expert || policy)", 2),
    "kl_policy_expert": ("KL(policy || expert)", 2),
    "between": ("Between modes (%)", 1),
    "far": ("Far mode (%)", 1),
}
PERCENT = ("between", "far")
DRAWN = 0.1  # alpha of the densities shown: the paper's
TRSFT = "TrSFT, alpha "


def read(path: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The policies' lines and the expert's. Raises ValueError naming the file if a column is missing."""
    lines = pd.read_csv(path, comment="#")
    if missing := sorted({*KEY, *MEASURES} - set(lines.columns)):
        raise ValueError(f"{path} lacks the column {missing[0]!r}; make it again with python -m miniature.mixture")
    of_expert = lines["components"].isna()
    policies = lines[~of_expert].astype({"components": int, "seed": int})
    if not of_expert.any() or DRAWN not in set(policies["alpha"]) or 0 not in set(policies["alpha"]):
        raise ValueError(f"{path} lacks the expert, alpha 0 or alpha {DRAWN:g}; make it again with python -m miniature.mixture")
    return policies, lines[of_expert]


def named(alpha: float) -> str:
    """0 is SFT."""
    return f"{TRSFT}{alpha:g}" if alpha else "SFT"


def looks(policies: pd.DataFrame) -> dict[float, dict[str, Any]]:
    """Colour and line of every alpha."""
    return {alpha: look(place) | {"marker": ""} for place, alpha in enumerate(sorted(policies["alpha"].unique()))}


def of_policy(components: int) -> str:
    return f"{components} component{'s' * (components > 1)}"


def mixture_figure(policies: pd.DataFrame, expert: pd.DataFrame) -> Figure:
    """For each policy its density at the snapshots under SFT and TrSFT, every seed a line; then both KL over the steps."""
    kinds = [int(kind) for kind in policies["components"].unique()]
    heights = (0.1 + 1.45 * len(kinds), 0.8 + 1.1 * 2)
    figure = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=heights)
    upper, lower = parts
    _densities(upper, policies, expert, kinds)
    for measure, row in zip(list(MEASURES)[:2], lower.subplots(2, len(kinds), sharex=True, sharey="row"), strict=True):
        for axes, kind in zip(row, kinds, strict=True):
            _curves(axes, policies[policies["components"] == kind], measure)
            if measure == "kl_expert_policy":
                axes.set_yscale("log")
                axes.set_title(of_policy(kind))
            else:
                axes.set_ylim(bottom=0)
                axes.set_xlabel("step")
        row[0].set_ylabel(f"{MEASURES[measure][0]}\n(nats)", fontsize=SMALL)
    lines = [Line2D([], [], label=named(alpha), **style) for alpha, style in looks(policies).items()]
    lower.legend(handles=[Patch(color="0.8", label="expert"), *lines], loc="outside lower center", ncols=4, frameon=False)
    return figure


def _densities(figure: SubFigure, policies: pd.DataFrame, expert: pd.DataFrame, kinds: Sequence[int]) -> None:
    """A column per snapshot; two rows per policy, SFT above TrSFT."""
    bins = policies.filter(regex=r"^p-?\d").columns
    centres = np.array([float(name[1:]) for name in bins])
    density = policies[KEY].join(policies[bins] / (centres[1] - centres[0])).dropna()
    target = expert[bins].to_numpy()[0] / (centres[1] - centres[0])
    steps = sorted(density["step"].unique())
    panels = figure.subplots(2 * len(kinds), len(steps), sharex=True, sharey=True)
    for row, (kind, alpha) in zip(panels, [(kind, alpha) for kind in kinds for alpha in (0.0, DRAWN)], strict=True):
        own = density[(density["components"] == kind) & (density["alpha"] == alpha)]
        colour = looks(policies)[alpha]["color"]
        for axes, step in zip(row, steps, strict=True):
            axes.fill_between(centres, target, color="0.8", linewidth=0)
            axes.plot(centres, own.loc[own["step"] == step, bins].to_numpy().T, color=colour, linewidth=0.7)
            axes.grid(visible=False)
            if not alpha:
                axes.set_title(f"step {step}")
        row[0].set_ylabel("TrSFT" if alpha else "SFT")
        if not alpha:
            row[0].set_title(f"{of_policy(kind)}, step {steps[0]}")
    panels[0][0].set_yticks([])
    panels[0][0].set_ylim(bottom=0)


def _curves(axes: Axes, own: pd.DataFrame, measure: str) -> None:
    """A line per alpha, the mean over seeds, in front of the range of the seeds."""
    for alpha, style in looks(own).items():
        seeds = own[own["alpha"] == alpha].pivot(index="step", columns="seed", values=measure)
        axes.fill_between(seeds.index, seeds.min(axis=1), seeds.max(axis=1), color=style["color"], alpha=0.15, linewidth=0)
        axes.plot(seeds.index, seeds.mean(axis=1), linewidth=1.0, **style)


def mixture_table(policies: pd.DataFrame, expert: pd.DataFrame) -> Table:
    """Where every policy ends, a row per number of components and alpha: mean over seeds and, in brackets, their range."""
    last = policies[policies["step"] == policies["step"].max()]
    factors = {measure: 100 if measure in PERCENT else 1 for measure in MEASURES}
    found = last.groupby(["components", "alpha"])[list(MEASURES)].agg(["mean", "min", "max"])
    cells, numbers = [], []
    for key, row in found.iterrows():
        components, alpha = key  # pyright: ignore[reportGeneralTypeIssues]
        values = {measure: factors[measure] * row[measure] for measure in MEASURES}
        cells.append({MEASURES[m][0]: _spread(value, MEASURES[m][1]) for m, value in values.items()})
        spread = {f"{m}_{end}": value[end] for m, value in values.items() for end in ("mean", "min", "max")}
        numbers.append({"components": components, "alpha": alpha} | spread)
    index = [named(alpha) for _, alpha in found.index]
    frame = pd.DataFrame(cells, index=index)
    of_expert = expert.iloc[0]
    footer = (
        f"Mean over {last['seed'].nunique()} seeds after {last['step'].max()} steps, in brackets their smallest and largest "
        "value; KL in nats. No alpha was left out.",
        "Between modes: probability between the outer modes of the expert and more than two standard deviations from each; "
        f"far mode: within two of the right-most. The expert itself has {100 * of_expert['between']:.2f} % and "
        f"{100 * of_expert['far']:.1f} %.",
        "Our setting, not the paper's, which is unpublished; alpha bounds the probability of a bin of the line "
        "(miniature/mixture.py).",
    )
    headings = tuple(f"Policy with {of_policy(components)}" for components, _ in found.index)
    caption = "A Gaussian-mixture policy imitates a Gaussian-mixture expert with a mode far away: where SFT and TrSFT end."
    table = pd.DataFrame(numbers, index=pd.Index(index, name="loss"))
    return Table("fig3_mixture_pilot", caption, frame, unmarked(frame), table, footer, False, headings, corner="Loss")


def _spread(value: pd.Series, digits: int) -> str:
    return f"{value['mean']:.{digits}f} [{value['min']:.{digits}f}, {value['max']:.{digits}f}]"


def main(argv: Sequence[str] | None = None) -> None:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m analysis.mixture", description=__doc__, formatter_class=text)
    parser.add_argument("--data", required=True, type=Path, help="what python -m miniature.mixture wrote")
    parser.add_argument("--out-dir", required=True, type=Path, help="where figure and table go")
    arguments = parser.parse_args(argv)
    policies, expert = read(arguments.data)
    with matplotlib.rc_context(STYLE):
        save(mixture_figure(policies, expert), arguments.out_dir / "fig3_mixture_pilot")
    render.write(mixture_table(policies, expert), arguments.out_dir)


if __name__ == "__main__":
    main()
