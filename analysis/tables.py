"""The tables of a results folder, each as Markdown, LaTeX, plain text and CSV.

    main        accuracy per benchmark, their unweighted mean and its 95 % interval
    intervals   the mean again, with the t interval over seeds and the paired difference to the first run
    responses   what lies behind the accuracy: truncated, without answer, undecided, length
    costs       what each run cost, the stages it starts from included

A number that does not exist prints as a dash with the reason below the table, never as 0.

The notes file is a JSON object. `profile` ends every table; `runs` maps a run to a footnote it carries in every table,
and a run with an injected bug (`grpo+stale_weights`) is refused without one. `groups` maps a heading to the runs under
it, `columns` a heading to its benchmarks, which then have an average of their own; `baseline` is the run that others are
compared with (default: the first row); `ablation`, `published`, `title` and `about` belong to the modules `ablation`,
`published` and `study`. Any other key (`training`, `sampling`, ...) holds a text or a list of texts for the footer of the
main table. The summary of the certificate stands under each.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from analysis import render
from analysis.certificate import read_certificate
from analysis.costs import cost_table
from analysis.evidence import (
    BUG,
    NO_INTERVAL,
    OWN_COLUMNS,
    Evidence,
    Footnotes,
    bracket,
    gather,
    sentence,
    unmarked,
)
from analysis.render import DASH, Table, probability, signed
from analysis.scores import read_items, read_table

CAPTION = "Accuracy by method and benchmark."
STRUCTURED = ("groups", "columns", "ablation", "published")  # notes that are no texts
OWN_NOTES = ("profile", "runs", "baseline", "title", "about", *STRUCTURED)  # notes with a place of their own


def best_marks(printed: Sequence[str], runs: Sequence[str]) -> list[str]:
    """The marks "best" and "second" of a column as printed: equal digits share a mark; a dash or a bug has none."""
    values = pd.to_numeric(pd.Series(printed), errors="coerce").where(np.array([BUG not in run for run in runs]))
    names = dict(zip(sorted(set(values.dropna()), reverse=True), ("best", "second"), strict=False))
    return [names.get(value, "") for value in values]


def main_table(evidence: Evidence, caption: str) -> Table:
    """Accuracy in points, one row per run; each group of columns ends with its own average."""
    notes = Footnotes()
    index = evidence.names(notes)
    accuracy = evidence.means("accuracy")
    average, spread = OWN_COLUMNS
    titles, groups, texts, marks = [], [], [], []
    numbers = accuracy[[]].assign(seeds=evidence.scores.groupby("run")["seed"].nunique().astype("Int64"))
    for group, benchmarks in evidence.columns.items():
        for key in benchmarks:
            gaps = [evidence.gap(run, key) for run in evidence.runs]
            titles.append(evidence.benchmarks[key])
            texts.append(notes.column([f"{value:.1f}" for value in accuracy[key]], gaps))
            numbers[key] = accuracy[key]
        summary = evidence.summaries[group].reindex(list(evidence.runs))
        half = (summary["high"] - summary["low"]) / 2
        texts.append(notes.column([f"{value:.1f}" for value in summary["mean"]], evidence.average_gaps(benchmarks)))
        marks += [best_marks(column, evidence.runs) for column in texts[len(marks) :]]
        spreads = zip(summary["mean"], half, strict=True)
        texts.append(["" if pd.isna(mean) else spread_text(value, notes) for mean, value in spreads])
        marks.append(["small"] * len(half))
        titles += [average, spread]
        groups += [group] * (len(benchmarks) + 2)
        ending = f"_{group}" if group else ""
        own = {"average": summary["mean"], "low": summary["low"], "high": summary["high"], "half_width": half}
        numbers[[name + ending for name in own]] = pd.DataFrame(own)
    numbers["certificates"] = evidence.certificates()
    unranked = " Runs with an injected bug are not ranked." if any(BUG in run for run in evidence.runs) else ""
    footer = evidence.footer(
        notes,
        "Accuracy in points: mean over problems of the mean over samples, averaged over training seeds. Avg.: unweighted mean "
        f"of the benchmarks{' of its group' if len(evidence.columns) > 1 else ''}. Best and second of each column are marked "
        "by their printed digits, not by how sure they are; equal digits share." + unranked,
        f"±: half of the 95 % t interval of Avg. {evidence.seeds()}",
        evidence.sizes(),
        *settings(evidence.notes),
    )
    cells = frame(texts, index, titles)
    shown = tuple(groups) if len(evidence.columns) > 1 else ()
    return Table("main", caption, cells, frame(marks, index, titles), numbers, footer, evidence.rule, evidence.headings, shown)


def settings(notes: dict[str, Any]) -> list[str]:
    """What all rows share, from the notes without a place of their own."""
    return [f"{key.capitalize()}: {sentence(text)}" for key, text in notes.items() if key not in OWN_NOTES]


def frame(columns: Sequence[Sequence[str]], index: Sequence[str], titles: Sequence[str]) -> pd.DataFrame:
    """The columns side by side; their titles may repeat."""
    return pd.DataFrame(dict(enumerate(columns)), index=list(index)).set_axis(list(titles), axis=1)


def interval_table(evidence: Evidence) -> Table:
    """Mean, both intervals, and the paired difference to the baseline; a block of rows for each group of columns."""
    notes = Footnotes()
    names = evidence.names(notes)
    baseline, several = evidence.baseline, len(evidence.columns) > 1
    titles = ["Avg.", "95 %", "seeds alone", f"Δ {baseline}", "95 % of Δ", "p", "p (Holm)", "P(better)"]
    cells = pd.DataFrame(
        [_interval_cells(evidence, group, run, notes) for group in evidence.columns for run in evidence.runs],
        index=names * len(evidence.columns),
        columns=titles,
    )
    footer = evidence.footer(
        notes,
        "Points. 95 %: t interval over problems and training seeds, benchmarks fixed. Seeds alone: t interval over seeds, for "
        f"these very problems. {evidence.seeds()}",
        f"Δ {baseline}: paired over problems, and over seeds where both runs have the same. Compare two runs by such a "
        "difference, never by whether their intervals overlap.",
        "p: t test of Δ = 0, or sign flips over problems where both runs have one seed. p (Holm): corrected for all "
        f"comparisons {'of a block' if several else 'in the table'}. P(better): probability that a seed of the run beats one "
        f"of {baseline}, averaged over the benchmarks.",
    )
    caption = f"The mean of the benchmarks, how sure it is, and the difference to {baseline}."
    numbers = (
        pd.concat(evidence.summaries, names=["benchmarks"]) if several else evidence.summaries[next(iter(evidence.columns))]
    )
    headings = tuple(group for group in evidence.columns for _ in evidence.runs) if several else evidence.headings
    return Table("intervals", caption, cells, unmarked(cells), numbers, footer, evidence.rule, headings)


def _interval_cells(evidence: Evidence, group: str, run: str, notes: Footnotes) -> list[str]:
    if gap := evidence.average_gap(run, evidence.columns[group]):
        return [DASH + notes.mark(gap)] * 8
    table = evidence.summaries[group]
    row = table.loc[run].to_dict()
    cells = mean_cells(evidence, group, run, notes)
    one = "one training seed shows no spread over seeds"
    cells.append(DASH + notes.mark(one) if row["seeds"] == 1 else f"[{row['seed_low']:.1f}, {row['seed_high']:.1f}]")
    changes = difference_cells(evidence, group, run, notes)
    if pd.isna(row["difference"]):
        return [*cells, *changes, changes[-1]]
    single = 1 in (row["seeds"], table.loc[evidence.baseline, "seeds"])
    return [*cells, *changes, DASH + notes.mark(one) if single else f"{row['improvement']:.2f}"]


def mean_cells(evidence: Evidence, group: str, run: str, notes: Footnotes) -> list[str]:
    """The mean over a group of columns and its 95 % interval."""
    if gap := evidence.average_gap(run, evidence.columns[group]):
        return [DASH + notes.mark(gap)] * 2
    row = evidence.summaries[group].loc[run].to_dict()
    return [f"{row['mean']:.1f}", bracket(row["low"], row["high"], notes)]


def difference_cells(evidence: Evidence, group: str, run: str, notes: Footnotes) -> list[str]:
    """The paired difference to the baseline, its 95 % interval, p and p (Holm); empty for the baseline itself."""
    if gap := evidence.average_gap(run, evidence.columns[group]):
        return [DASH + notes.mark(gap)] * 4
    if run == evidence.baseline:
        return [""] * 4
    row = evidence.summaries[group].loc[run].to_dict()
    if pd.isna(row["difference"]):
        return [DASH + notes.mark(f"{evidence.baseline} was not graded on every benchmark")] * 4
    interval = bracket(row["difference_low"], row["difference_high"], notes, signed)
    tests = (probability(row[p]) if row[p] == row[p] else DASH + notes.mark(NO_INTERVAL) for p in ("p", "p_holm"))
    return [signed(row["difference"]), interval, *tests]


def spread_text(half: float, notes: Footnotes) -> str:
    return f"±{half:.1f}" if half == half else DASH + notes.mark(NO_INTERVAL)


def response_table(evidence: Evidence) -> Table:
    """Shares of samples in points and mean length in tokens, averaged over seeds, then benchmarks."""
    notes = Footnotes()
    cells = pd.DataFrame(index=evidence.names(notes))
    numbers = pd.DataFrame(index=list(evidence.runs))
    sizes = evidence.scores.groupby("benchmark")["samples"].first()
    voted = [key for key in evidence.benchmarks if sizes[key] > 1]
    titles = {"accuracy": "avg@k", "majority": "maj@k"} if voted else {}
    shares = {"truncated": "Truncated", "no_answer": "No answer", "undecided": "Undecided", "mean_tokens": "Tokens"}
    for column, title in (titles | shares).items():
        benchmarks = list(evidence.benchmarks) if column in shares else voted
        numbers[column] = evidence.means(column)[benchmarks].mean(axis=1, skipna=False)
        cells[title] = notes.column([f"{value:.1f}" for value in numbers[column]], evidence.average_gaps(benchmarks))
    listed = ", ".join(f"{evidence.benchmarks[key]} ({sizes[key]})" for key in voted)
    votes = (
        f"avg@k: accuracy, maj@k: accuracy of the most frequent answer to a problem, both on the benchmarks with several "
        f"samples, k in brackets: {listed}."
    )
    footer = evidence.footer(
        notes,
        *([votes] if voted else []),
        "Shares of all samples in points; tokens per response; unweighted means over the benchmarks. Truncated: stopped by the "
        "length limit, counted as wrong. Undecided: the grader could not tell; counted as not correct, like no answer.",
    )
    caption = "The responses behind the accuracies."
    return Table("responses", caption, cells, unmarked(cells), numbers, footer, evidence.rule, evidence.headings)


def named(pairs: Iterable[str]) -> dict[str, str]:
    """key -> name of `KEY=NAME`; a key alone is its own name."""
    return {key: name or key for key, _, name in (pair.partition("=") for pair in pairs)}


def read_notes(path: Path | None) -> dict[str, Any]:
    """The notes file; {} without one. Raises ValueError naming a note that is neither a text nor a list of texts."""
    notes = json.loads(path.read_text(encoding="utf-8")) if path else {}
    for key, value in notes.items():
        if key in STRUCTURED:
            continue
        texts = list(value.values()) if key == "runs" else value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"note {key!r} in {path} is {value!r}: expected a text or a list of texts")
    return notes


def main(argv: Sequence[str] | None = None) -> None:
    text = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(prog="python -m analysis.tables", description=__doc__, formatter_class=text)
    parser.add_argument("--scores", required=True, type=Path, help="scores.csv of analysis.scores")
    parser.add_argument("--items", required=True, type=Path, help="items.parquet of analysis.scores")
    parser.add_argument("--done", required=True, nargs="+", type=Path, metavar="FILE", help="every stage's done.json")
    parser.add_argument("--runs", required=True, nargs="+", metavar="RUN", help="rows in order; base goes first")
    parser.add_argument("--benchmarks", nargs="+", metavar="KEY=NAME", help="columns in order (default: all, by key)")
    parser.add_argument("--certificate", required=True, type=Path, help="the profile's, of analysis.certificate")
    parser.add_argument("--notes", type=Path, help="JSON notes for the footers, see above")
    parser.add_argument("--audit", type=Path, metavar="FILE", help="audit.json: what other graders would have said")
    parser.add_argument("--caption", default=CAPTION, help="of the main table (default: %(default)s)")
    parser.add_argument("--out-dir", required=True, type=Path, help="where the tables go")
    parser.add_argument("--show", action="store_true", help="also print the main table")
    arguments = parser.parse_args(argv)

    scores = read_table(arguments.scores)
    benchmarks = named(arguments.benchmarks or scores["benchmark"].unique())
    notes, certificate = read_notes(arguments.notes), read_certificate(arguments.certificate)
    if arguments.audit:
        notes["graders"] = json.loads(arguments.audit.read_text(encoding="utf-8"))["summary"]
    evidence = gather(scores, read_items(arguments.items), arguments.runs, benchmarks, notes, certificate)
    main_one = main_table(evidence, arguments.caption)
    for table in (main_one, interval_table(evidence), response_table(evidence), cost_table(evidence, arguments.done)):
        render.write(table, arguments.out_dir)
    if arguments.show:
        sys.stdout.write(render.to_text(main_one))


if __name__ == "__main__":
    main()
