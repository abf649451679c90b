"""Studies: comparisons beside the main one, each with rows, tables and a figure in a folder of its own."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine.methods import nearest

if TYPE_CHECKING:
    from workflow.plan import Run


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
        labels = {run.clean: run.label for run in runs}

        def label(run: str, where: str) -> str:
            if run not in labels:
                raise nearest(f"run in studies.{name}.{where}:", run, labels)
            return labels[run]

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
