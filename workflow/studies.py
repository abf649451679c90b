"""Studies: comparisons beside the main one, each with rows, tables and a figure in a folder of its own."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.methods import nearest

if TYPE_CHECKING:
    from workflow.runs import Run


def label_of(name: str, runs: Sequence["Run"], where: str) -> str:
    """The label of the row that is called `name`: its own, or without the bug that every row was injected with.

    Raises ValueError if there is none.
    """
    labels = {**{run.clean: run.label for run in reversed(runs)}, **{run.label: run.label for run in runs}}
    if name not in labels:
        raise nearest(f"run in {where}:", name, labels)
    return labels[name]


@dataclass(frozen=True)
class Study:
    """`axis` names the setting that its rows differ in, if it is one; `published` is run -> paper -> method in print."""

    name: str
    title: str
    about: str
    runs: tuple["Run", ...]
    seeds: tuple[int, ...]
    home: Path
    baseline: str
    axis: str
    published: dict[str, dict[str, str]]

    @classmethod
    def of(cls, name: str, settings: dict[str, Any], runs: tuple["Run", ...], seeds: tuple[int, ...], home: Path) -> "Study":
        """Raises ValueError for a baseline or counterpart that is no row of the study."""

        def label(run: str, where: str) -> str:
            return label_of(run, runs, f"studies.{name}.{where}")

        return cls(
            name,
            settings["title"],
            settings["about"],
            runs,
            seeds,
            home,
            label(settings["baseline"], "baseline") if "baseline" in settings else runs[0].label,
            settings.get("axis", ""),
            {label(run, "published"): papers for run, papers in settings.get("published", {}).items()},
        )
