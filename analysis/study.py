"""A study: the few runs that answer one question, as a table and a figure, both called <name>.

    results/<profile>/<study>/{scores.csv,items.parquet,certificate.json,notes.json}   ->   <name>.{md,tex,txt,csv,png,pdf}

The notes are those of `analysis.tables` with a `title`; what a study asks and how is in `about`, for the page. With --axis a
setting has a value in some rows and the figure draws the mean over it; without, a row for each run. With --pairs the mean that
a paper prints stands beside a run; nothing printed by others enters a number of ours.
"""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import pandas as pd

from analysis import render
from analysis.certificate import read_certificate
from analysis.costs import PREFIXES, amount, power_of_thousand, run_costs
from analysis.evidence import Evidence, Footnotes, gather, sentence
from analysis.published import read_published
from analysis.render import Table
from analysis.scores import read_items, read_table
from analysis.study_figures import Axis, axis_figure, row_figure
from analysis.style import STYLE, save
from analysis.tables import STRUCTURED, difference_cells, frame, mean_cells, named, read_notes, settings

COSTS = {"sampled_tokens": "Sampled", "flops": "FLOPs"}
SUMMARY = ["seeds", "mean", "low", "high", "difference", "difference_low", "difference_high", "p", "p_holm"]
PRINTED = ["run", "paper", "method", "mean", "source", "protocol", "note"]


@dataclass
class Columns:
    """The columns of a table while they are collected."""

    titles: list[str]
    texts: list[Sequence[str]]
    marks: list[Sequence[str]]

    def add(self, title: str, texts: Sequence[str], mark: str = "") -> None:
        self.titles.append(title)
        self.texts.append(texts)
        self.marks.append([mark if text else "" for text in texts])


def read_axis(texts: Sequence[str], runs: Sequence[str]) -> Axis:
    """The setting of `LABEL RUN=VALUE ...`. Raises ValueError for another run or a value that is no number."""
    label, *pairs = texts
    values = {}
    for run, text in (pair.rpartition("=")[::2] for pair in pairs):
        if run not in runs:
            raise ValueError(f"--axis gives {label!r} of run {run!r}, which is no row: choose among {', '.join(runs)}")
        if not re.fullmatch(r"-?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", text, re.IGNORECASE):
            raise ValueError(f"--axis gives run {run!r} the value {text!r}: expected a number")
        values[run] = float(text)
    if not values:
        raise ValueError(f"--axis {label!r} names no run: add RUN=VALUE for at least one row")
    return Axis(label, values)


def printed_means(published: pd.DataFrame, pairs: Sequence[str], evidence: Evidence) -> pd.DataFrame:
    """A row per `RUN=PAPER=METHOD`, with columns PRINTED: the mean that the paper prints for the benchmarks of the study.

    From its cells if it prints all of them, else the mean it prints of these very benchmarks, else NaN. Raises ValueError if
    the run is no row, a run has two counterparts in one paper, or the paper has no such method.
    """
    benchmarks = set(evidence.benchmarks)
    rows = []
    for pair in pairs:
        run, paper, method = (*pair.split("=", 2), "", "")[:3]
        if run not in evidence.runs:
            raise ValueError(f"--pairs names run {run!r}, which is no row: choose among {', '.join(evidence.runs)}")
        if (run, paper) in {(row["run"], row["paper"]) for row in rows}:
            raise ValueError(f"--pairs gives run {run!r} two counterparts in {paper!r}: keep one")
        own = published[(published["paper"] == paper) & (published["method"] == method)]
        if own.empty:
            known = published.loc[published["paper"] == paper, "method"].unique()
            choice = f"methods {', '.join(known)}" if len(known) else f"papers {', '.join(published['paper'].unique())}"
            raise ValueError(f"--pairs compares run {run!r} with {method!r} of {paper!r}, which is not there: it has {choice}")
        cells = own[own["benchmark"].isin(benchmarks)]
        means = own[[set(over.split()) == benchmarks for over in own["over"]]]  # a single benchmark is over nothing
        used = cells if len(cells) == len(benchmarks) else means
        about = {name: "; ".join(filter(None, used[name].unique())) for name in ("source", "protocol", "note")}
        rows.append({"run": run, "paper": paper, "method": method, "mean": used["value"].mean(), **about})
    return pd.DataFrame(rows, columns=PRINTED)


def study_table(
    evidence: Evidence,
    name: str,
    axis: Axis | None = None,
    theirs: pd.DataFrame | None = None,
    costs: pd.DataFrame | None = None,
) -> Table:
    """A row per run: its setting, accuracies, mean, difference to the baseline, printed means, costs; without what is absent.

    theirs: of `printed_means`. costs: of `analysis.costs.run_costs`.
    """
    notes, columns = Footnotes(), Columns([], [], [])
    index, runs = evidence.names(notes), list(evidence.runs)
    accuracy, summary = evidence.means("accuracy"), next(iter(evidence.summaries.values())).reindex(runs)
    numbers = pd.DataFrame(index=pd.Index(runs, name="run"))
    lines = ["Accuracy in points. Avg.: unweighted mean of the benchmarks, with its 95 % t interval. " + evidence.seeds()]
    if axis:
        numbers["setting"] = pd.Series(axis.values).reindex(runs)
        columns.add(axis.label, [f"{value:g}" if value == value else "" for value in numbers["setting"]])
    for key, title in evidence.benchmarks.items():
        columns.add(title, notes.column([f"{v:.1f}" for v in accuracy[key]], [evidence.gap(run, key) for run in runs]))
    average, interval = zip(*(mean_cells(evidence, "", run, notes) for run in runs), strict=True)
    columns.add("Avg.", average)
    columns.add("95 %", interval)
    numbers = numbers.join(accuracy).join(summary[SUMMARY])
    if len(runs) > 1:
        change, sure, _, p = zip(*(difference_cells(evidence, "", run, notes) for run in runs), strict=True)
        for title, texts in (("Δ", change), ("95 % of Δ", sure), ("p (Holm)", p)):
            columns.add(title, texts)
        lines.append(
            f"Δ: difference to {evidence.baseline}, paired over problems, and over seeds where both runs have the same. "
            "p (Holm): of Δ = 0, by a t test, or sign flips over problems if both runs have one seed; corrected for all rows."
        )
    if theirs is not None:
        lines += _add_printed(columns, numbers, theirs, notes)
    if costs is not None:
        lines += _add_costs(columns, numbers, costs, notes)
    numbers["certificates"] = evidence.certificates()
    footer = evidence.footer(notes, *lines, evidence.sizes(), *settings(evidence.notes))
    cells, marks = frame(columns.texts, index, columns.titles), frame(columns.marks, index, columns.titles)
    return Table(name, sentence(evidence.notes["title"]), cells, marks, numbers, footer, evidence.rule)


def _add_printed(columns: Columns, numbers: pd.DataFrame, theirs: pd.DataFrame, notes: Footnotes) -> list[str]:
    """A column per paper; returns the lines that say what they hold."""
    lines = ["Printed: by others, in their words and by their protocol, the mean of the same benchmarks; not measured here."]
    for paper, own in theirs.set_index("run").groupby("paper", sort=False):
        texts = {run: _printed_cell(row, notes) for run, row in own.to_dict("index").items()}
        columns.add(f"Printed\n{paper}", [texts.get(run, "") for run in numbers.index], "theirs")
        numbers[f"printed_{paper}"] = own["mean"]
        found = own[own["mean"].notna()]
        sources = [f"{source} ({protocol})" for source, protocol in found[["source", "protocol"]].drop_duplicates().to_numpy()]
        lines += [f"{paper}: {sentence(sources)}"] if sources else []
    return lines


def _printed_cell(row: Mapping[Any, Any], notes: Footnotes) -> str:
    if pd.isna(row["mean"]):
        return render.DASH + notes.mark(f"{row['method']}: no mean of these benchmarks is printed")
    return f"{row['mean']:.1f}" + (notes.mark(row["note"]) if row["note"] else "")


def _add_costs(columns: Columns, numbers: pd.DataFrame, costs: pd.DataFrame, notes: Footnotes) -> list[str]:
    gaps = [None if seeds else "no finished stage of this run" for seeds in costs["seeds"]]
    for cost, title in COSTS.items():
        numbers[cost] = costs[cost]
        power = power_of_thousand(costs[cost].fillna(0).max())
        texts = notes.column([amount(value, power, 1) for value in costs[cost]], gaps)
        columns.add(f"{title}\n({PREFIXES[power]})" if power else title, texts)
    return [
        "Sampled: tokens generated; FLOPs: 2N per sampled, 6N per trained token (none for trajectories that move nothing), "
        "2N for a further pass over it; per training seed, over all stages of a run and those it starts from."
    ]


def main(argv: Sequence[str] | None = None) -> int:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m analysis.study", description=__doc__, formatter_class=text)
    parser.add_argument("--scores", required=True, type=Path, help="the study's scores.csv of analysis.scores")
    parser.add_argument("--items", required=True, type=Path, help="its items.parquet of analysis.scores")
    parser.add_argument("--certificate", required=True, type=Path, help="its certificate, of analysis.certificate")
    parser.add_argument("--notes", required=True, type=Path, help="its JSON notes, with `title`")
    parser.add_argument("--runs", required=True, nargs="+", metavar="RUN", help="rows in order; base goes first")
    parser.add_argument("--baseline", metavar="RUN", help="what differences are to (default: the first row)")
    parser.add_argument("--benchmarks", required=True, nargs="+", metavar="KEY=NAME", help="what the mean is over, in order")
    parser.add_argument("--over", default="benchmarks", metavar="TEXT", help="their name on the axes (default: %(default)s)")
    parser.add_argument("--axis", nargs="+", metavar=("LABEL", "RUN=VALUE"), help="a setting and its value in some rows")
    parser.add_argument("--published", type=Path, default=Path("results/published"), help="folder (default: %(default)s)")
    parser.add_argument("--pairs", nargs="+", metavar="RUN=PAPER=METHOD", help="counterparts of rows in that folder")
    parser.add_argument("--done", nargs="+", type=Path, metavar="FILE", help="every stage's done.json: adds what a row cost")
    parser.add_argument("--name", required=True, help="of the files")
    parser.add_argument("--out-dir", required=True, type=Path, help="where they go")
    arguments = parser.parse_args(argv)
    try:
        write(arguments)
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def write(arguments: argparse.Namespace) -> None:
    """Table and figure of the study that the arguments of `main` describe. Raises ValueError on bad input."""
    notes = {key: value for key, value in read_notes(arguments.notes).items() if key not in (*STRUCTURED, "baseline")}
    if not notes.get("title"):
        raise ValueError(f"{arguments.notes} has no 'title': give the study one in the configuration")
    if arguments.baseline:
        notes["baseline"] = arguments.baseline
    scores, items, certificate = (
        read_table(arguments.scores),
        read_items(arguments.items),
        read_certificate(arguments.certificate),
    )
    evidence = gather(scores, items, arguments.runs, named(arguments.benchmarks), notes, certificate)
    axis = read_axis(arguments.axis, evidence.runs) if arguments.axis else None
    theirs = printed_means(read_published(arguments.published), arguments.pairs, evidence) if arguments.pairs else None
    costs = run_costs(arguments.done, evidence.runs) if arguments.done else None
    render.write(study_table(evidence, arguments.name, axis, theirs, costs), arguments.out_dir)
    with matplotlib.rc_context(STYLE):
        drawn = axis_figure(evidence, axis, theirs, arguments.over) if axis else row_figure(evidence, theirs, arguments.over)
        save(drawn, arguments.out_dir / arguments.name)


if __name__ == "__main__":
    sys.exit(main())
