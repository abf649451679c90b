"""The figures of a results folder, each as PDF and PNG, the same bytes for the same inputs.

training      per update: reward, response length, entropy, responses that end, log-probs by author, gradient norm, guidance
guidance      how many rollouts continue an expert prefix, by the share of the demonstration they were shown
terms         the gradient norm of each part of the loss
weights       how the loss weights expert tokens, early, in the middle and late
averages      the mean over the benchmarks with its 95 % interval
differences   paired differences to the baseline, with intervals and p-values
pass_at_k     pass@k of the benchmarks with several samples per problem
cost          the mean over the benchmarks against GPU-hours and FLOPs

A figure for which a results folder has nothing says so in a sentence. Where many runs have a line or a panel each, and the
notes have groups, each group has a page of its own.
"""

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from analysis.costs import run_costs
from analysis.curves import read_curves
from analysis.result_figures import average_figure, cost_figure, difference_figure, pass_at_k_figure
from analysis.scores import read_items
from analysis.statistics import arrange, pass_curves, summarise
from analysis.style import STYLE, save
from analysis.tables import named, read_notes
from analysis.training_figures import guidance_figure, terms_figure, training_figure, weights_figure

MOST = 10  # runs with a line or a panel each on one page
TITLE = 10  # points, of a page


def pages(runs: Sequence[str], groups: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Title -> the runs on a page: all of them if they are few or have no groups; those of no group come last."""
    if len(runs) <= MOST or not groups:
        return {"": list(runs)}
    grouped = {title: [run for run in members if run in runs] for title, members in groups.items()}
    others = [run for run in runs if not any(run in members for members in grouped.values())]
    return {title: members for title, members in {**grouped, "Other runs": others}.items() if members}


def main(argv: Sequence[str] | None = None) -> None:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m analysis.figures", description=__doc__, formatter_class=text)
    parser.add_argument("--items", required=True, type=Path, help="items.parquet of analysis.scores")
    parser.add_argument("--metrics", required=True, nargs="+", type=Path, metavar="FILE", help="every stage's metrics.jsonl")
    parser.add_argument("--done", required=True, nargs="+", type=Path, metavar="FILE", help="every stage's done.json")
    parser.add_argument("--runs", required=True, nargs="+", metavar="RUN", help="lines and dots, in this order")
    parser.add_argument("--benchmarks", nargs="+", metavar="KEY=NAME", help="what the mean is over (default: all in the items)")
    parser.add_argument("--over", default="benchmarks", metavar="TEXT", help="their name on the axes (default: %(default)s)")
    parser.add_argument("--baseline", metavar="RUN", help="what differences are to (default: the first run)")
    parser.add_argument("--notes", type=Path, metavar="FILE", help="notes.json, for groups of runs (default: none)")
    parser.add_argument("--out-dir", required=True, type=Path, help="where the figures go")
    arguments = parser.parse_args(argv)

    runs, baseline = arguments.runs, arguments.baseline or arguments.runs[0]
    if baseline not in runs:
        raise ValueError(f"baseline {baseline!r} is not among the runs: choose one of {', '.join(runs)}")
    items = read_items(arguments.items)
    benchmarks = named(arguments.benchmarks or items["benchmark"].unique())
    summary = summarise(arrange(items, runs, list(benchmarks)), baseline)
    several = items[items["samples"] > 1]
    curves = read_curves(arguments.metrics)
    passes = pass_curves(several, runs, list(benchmarks))
    groups = read_notes(arguments.notes).get("groups", {})

    def paged(draw: Callable[[Sequence[str]], Figure]) -> list[Figure]:
        """A page for each group of runs that has something to show; if none has, the sentence that says so."""
        made = {title: draw(own) for title, own in pages(runs, groups).items()}
        shown = {title: page for title, page in made.items() if page.axes}
        for title, page in shown.items():
            if title:
                page.suptitle(title, x=0.01, ha="left", fontsize=TITLE)
        return list(shown.values()) or [draw(runs)]

    with matplotlib.rc_context(STYLE):
        figures = {
            "training": paged(lambda own: training_figure(curves, own)),
            "guidance": paged(lambda own: guidance_figure(curves, own)),
            "terms": paged(lambda own: terms_figure(curves, own)),
            "weights": paged(lambda own: weights_figure(curves, own)),
            "averages": average_figure(summary, arguments.over),
            "differences": difference_figure(summary, baseline),
            "pass_at_k": paged(lambda own: pass_at_k_figure(passes, own, benchmarks)),
            "cost": cost_figure(summary, run_costs(arguments.done, runs), arguments.over),
        }
        for name, figure in figures.items():
            save(figure, arguments.out_dir / name)


if __name__ == "__main__":
    main()
