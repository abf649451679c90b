"""What the tables are made from, and what is missing from it, each gap with its reason."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, cast

import numpy as np
import pandas as pd

from analysis.render import DASH, TIMES, superscript
from analysis.scores import PROTOCOL
from analysis.statistics import arrange, summarise

BASE = "base"
BUG = "+"  # in a run's label, before the name of the bug injected on purpose
LONG = 24  # characters of a label; a longer one breaks before its bug
NO_INTERVAL = "no interval: nothing varies here, or only one of the two runs has several seeds"
OWN_COLUMNS = ("Avg.", "95 %")  # of the main table, beside the benchmarks


@dataclass
class Footnotes:
    """Reasons in the order they are first needed; equal reasons share a number."""

    reasons: list[str] = field(default_factory=list)

    def mark(self, reason: str) -> str:
        if reason not in self.reasons:
            self.reasons.append(reason)
        return superscript(self.reasons.index(reason) + 1)

    def column(self, texts: Iterable[str], gaps: Iterable[str | None]) -> list[str]:
        """The texts, with a dash and the footnote's number where there is a reason for a gap."""
        return [DASH + self.mark(gap) if gap else text for text, gap in zip(texts, gaps, strict=True)]

    def lines(self) -> list[str]:
        """The reasons as they stand under a table, each with its number."""
        return [f"{superscript(number)} {sentence(reason)}" for number, reason in enumerate(self.reasons, 1)]


@dataclass(frozen=True)
class Evidence:
    """runs: in table order, base first. benchmarks: key -> display name. scores: of these runs and benchmarks only.

    summaries: column group -> `statistics.summarise` of the runs complete on its benchmarks, indexed by run. notes: the
    notes file, see `analysis.tables`. certificate: the summary of the profile's certificate.
    """

    runs: tuple[str, ...]
    benchmarks: dict[str, str]
    scores: pd.DataFrame
    summaries: dict[str, pd.DataFrame]
    notes: dict[str, Any]
    certificate: str

    @property
    def rule(self) -> bool:
        """Whether a line separates the first row from the rest."""
        return self.runs[0] == BASE and len(self.runs) > 1

    @property
    def baseline(self) -> str:
        """The run all others are compared with."""
        return self.notes.get("baseline", self.runs[0])

    @property
    def columns(self) -> dict[str, list[str]]:
        """Column group -> its benchmarks, in order; one group without a name if the notes tell of none."""
        return self.notes.get("columns") or {"": list(self.benchmarks)}

    @property
    def headings(self) -> tuple[str, ...]:
        """The row group of each run, "" for none; () if there are no groups."""
        groups = self.notes.get("groups", {})
        heading = {run: name for name, members in groups.items() for run in members}
        return tuple(heading.get(run, "") for run in self.runs) if groups else ()

    @cached_property
    def seeds_of(self) -> dict[tuple[str, str], set[int]]:
        """(run, benchmark) -> its graded seeds."""
        grouped = self.scores.groupby(["run", "benchmark"])["seed"]
        return {cast(tuple[str, str], key): set(seeds) for key, seeds in grouped}

    def gap(self, run: str, benchmark: str) -> str | None:
        """Why this run has no number on this benchmark; None if it has one. Some of its seeds are not enough."""
        seeds = set().union(*(self.seeds_of.get((run, key), set()) for key in self.benchmarks))
        lacking = sorted(seeds - self.seeds_of.get((run, benchmark), set()))
        if not seeds:
            return "no graded samples of this run"
        if len(lacking) == len(seeds):
            return "this run was not graded on this benchmark"
        return f"seed {', '.join(map(str, lacking))} of this run was not graded on this benchmark" if lacking else None

    def average_gap(self, run: str, benchmarks: Iterable[str] | None = None) -> str | None:
        """Why this run has no mean over these benchmarks, by default all; None if it has one."""
        gaps = {self.gap(run, benchmark) for benchmark in benchmarks or self.benchmarks}
        if gaps == {None}:
            return None
        return str(gaps.pop()) if len(gaps) == 1 else "no mean without every benchmark"

    def average_gaps(self, benchmarks: Iterable[str] | None = None) -> list[str | None]:
        return [self.average_gap(run, benchmarks) for run in self.runs]

    def means(self, column: str) -> pd.DataFrame:
        """[runs, benchmarks] mean over seeds of a column of the scores; NaN where there is a gap."""
        table = self.scores.pivot_table(index="run", columns="benchmark", values=column)
        table = table.reindex(index=list(self.runs), columns=list(self.benchmarks))
        return table.mask(np.array([[self.gap(run, key) is not None for key in self.benchmarks] for run in self.runs]))

    def names(self, notes: Footnotes) -> list[str]:
        """Run names, each with the footnote that the notes file holds about it (an injected bug, say)."""
        texts = [run.replace(BUG, "\n" + BUG) if len(run) > LONG else run for run in self.runs]
        about = {
            run: "; ".join(filter(None, (self.notes.get("runs", {}).get(run), self.deviations.get(run)))) for run in self.runs
        }
        return [text + (notes.mark(about[run]) if about[run] else "") for run, text in zip(self.runs, texts, strict=True)]

    @cached_property
    def _usual(self) -> pd.DataFrame:
        """By benchmark: the template and grader that most runs have; of equals, the first."""
        return self.scores.groupby("benchmark")[list(PROTOCOL)].agg(lambda own: max(own.unique(), key=list(own).count))

    @cached_property
    def deviations(self) -> dict[str, str]:
        """Run -> what was otherwise in evaluating it than most runs of each benchmark; only runs where something was."""
        first = self._usual
        texts: dict[str, list[str]] = {}
        for name in PROTOCOL:
            other = self.scores[self.scores[name] != self.scores["benchmark"].map(first[name])]
            for run, values in other.groupby("run", sort=False)[name]:
                texts.setdefault(str(run), []).append(f"{name} {', '.join(values.unique())}")
        return {run: f"evaluated with {', '.join(found)}" for run, found in texts.items()}

    def protocol(self) -> str:
        """The template and grader of the rows that do not deviate, by benchmark where there are several."""
        first = self._usual
        parts = []
        for kind in PROTOCOL:
            names: dict[str, list[str]] = {}
            for key, name in self.benchmarks.items():
                names.setdefault(str(first.loc[key, kind]), []).append(name)
            parts += [f"{kind} {value}" + (f" ({', '.join(on)})" if len(names) > 1 else "") for value, on in names.items()]
        return f"All rows{' unless noted' if self.deviations else ''}: {', '.join(parts)}."

    def certificates(self) -> pd.Series:
        """Per run the digests of its seeds' certificates, joined by a space."""
        seeds = self.scores.drop_duplicates(["run", "seed"]).sort_values("seed")
        return seeds.groupby("run")["certificate"].agg(" ".join).reindex(list(self.runs))

    def footer(self, notes: Footnotes, *lines: str) -> tuple[str, ...]:
        """Footnotes, the given lines, template and grader, the certificate, the profile."""
        profile = [f"Profile: {self.notes['profile']}."] if "profile" in self.notes else []
        return (*notes.lines(), *lines, self.protocol(), f"Certificate: {self.certificate}", *profile)

    def seeds(self) -> str:
        """How many training seeds there are, and what the intervals therefore cover."""
        counts = self.scores.groupby("run")["seed"].nunique()
        if set(counts) == {1}:
            return "Training seeds: 1; intervals are over problems only and say nothing about another seed."
        several = " or ".join(str(count) for count in sorted(set(counts)) if count > 1)
        single = ", ".join(run for run in self.runs if counts.get(run) == 1)
        alone = f" ({single}: 1, so its interval is over problems only)" if single else ""
        two = (
            " With two seeds such intervals cover 87 to 98 %, and up to 10 % of equally good runs look different."
            if 2 in set(counts)
            else ""
        )
        return f"Training seeds: {several}{alone}; intervals are over seeds and problems.{two}"

    def sizes(self) -> str:
        """How many problems a benchmark has and how many samples of each were graded."""
        sizes = self.scores.groupby("benchmark")[["problems", "samples"]].first()
        listed = (
            f"{name} {sizes.loc[key, 'problems']}{TIMES}{sizes.loc[key, 'samples']}" for key, name in self.benchmarks.items()
        )
        return f"Problems{TIMES}samples: {', '.join(listed)}."


def in_order(runs: Sequence[str], groups: dict[str, list[str]]) -> tuple[str, ...]:
    """The rows: runs of no group first, base before the others, then group by group. Raises ValueError for another run."""
    grouped = [run for members in groups.values() for run in members]
    if unknown := [run for run in grouped if run not in runs]:
        raise ValueError(f"run {unknown[0]!r} is in `groups` but not in the table: choose among {', '.join(runs)}")
    return (*sorted((run for run in runs if run not in grouped), key=lambda run: run != BASE), *grouped)


def gather(
    scores: pd.DataFrame,
    items: pd.DataFrame,
    runs: Sequence[str],
    benchmarks: dict[str, str],
    notes: dict[str, Any],
    certificate: dict[str, Any],
) -> Evidence:
    """Order the rows and summarise the complete runs against the baseline. certificate: the profile's, as read.

    Raises ValueError if a row or column is named twice, a benchmark was never graded, no run is complete, scores and
    items are of different grades, a score is of a stage outside the certificate, a bug lacks its footnote, or the notes
    group or compare what is not in the table.
    """
    columns: dict[str, list[str]] = notes.get("columns") or {"": list(benchmarks)}
    if sorted(key for keys in columns.values() for key in keys) != sorted(benchmarks):
        raise ValueError(f"`columns` in the notes is {columns}: expected each of {', '.join(benchmarks)} in one group")
    ordered = in_order(runs, notes.get("groups", {}))
    for kind, names in (("run", list(runs)), ("run", list(ordered)), ("benchmark name", [*benchmarks.values(), *OWN_COLUMNS])):
        if repeated := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{kind} {repeated[0]!r} stands twice in one table: give each its own")
    if bare := [run for run in runs if BUG in run and not notes.get("runs", {}).get(run, "").strip()]:
        raise ValueError(f"run {bare[0]!r} has an injected bug, but `runs` in the notes does not say so: add its footnote")
    if "certificate" not in scores:
        raise ValueError("the scores have no column certificate: write them again with analysis.scores")
    if unknown := sorted(set(benchmarks) - set(scores["benchmark"])):
        known = ", ".join(sorted(set(scores["benchmark"])))
        raise ValueError(f"benchmark {unknown[0]!r} is not in the scores: choose among {known}, or evaluate it")
    scores = scores[scores["run"].isin(ordered) & scores["benchmark"].isin(list(benchmarks))]
    certified = {stage["digest"] for stage in certificate["stages"]}
    if foreign := sorted(set(scores["run"][~scores["certificate"].isin(certified)])):
        raise ValueError(f"the scores of run {foreign[0]!r} are of a stage outside the certificate: write both again")
    evidence = Evidence(ordered, benchmarks, scores, {}, notes, certificate["summary"])
    if evidence.baseline not in ordered:
        raise ValueError(f"baseline {evidence.baseline!r} is no row of the table: choose among {', '.join(ordered)}")
    return replace(evidence, summaries={name: _summary(evidence, items, keys) for name, keys in columns.items()})


def _summary(evidence: Evidence, items: pd.DataFrame, benchmarks: list[str]) -> pd.DataFrame:
    complete = [run for run in evidence.runs if evidence.average_gap(run, benchmarks) is None]
    if not complete:
        raise ValueError(f"no run of {', '.join(evidence.runs)} is graded on all of {', '.join(benchmarks)}: evaluate one")
    summary = summarise(arrange(items, complete, benchmarks), evidence.baseline).set_index("run")
    apart = (evidence.means("accuracy").loc[complete, benchmarks].mean(axis=1) - summary["mean"]).abs().max()
    if apart > 1e-6:
        raise ValueError(f"scores and items disagree by {apart:.2g} points: write both again with analysis.scores")
    return summary


def bracket(low: float, high: float, notes: Footnotes, show: Callable[[float], str] = "{:.1f}".format) -> str:
    """An interval as printed; a dash with the reason where there is none."""
    return f"[{show(low)}, {show(high)}]" if low == low else DASH + notes.mark(NO_INTERVAL)


def unmarked(cells: pd.DataFrame) -> pd.DataFrame:
    """The marks of a table in which no cell is set apart."""
    return pd.DataFrame("", index=cells.index, columns=cells.columns)


def sentence(value: str | list[str]) -> str:
    return (value if isinstance(value, str) else "; ".join(value)).rstrip(".") + "."
