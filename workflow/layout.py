"""What the configuration says about tables: how they are laid out, and which settings the fidelity table compares."""

import json
from typing import TYPE_CHECKING, Any

from engine import methods
from workflow.studies import Study, label_of

if TYPE_CHECKING:
    from workflow.plan import Plan

PUBLISHED = ("as_paper", "as_released")


def layout(plan: "Plan", study: Study | None = None) -> dict[str, Any]:
    """For the notes: groups of rows and of columns, the baseline, ladders, counterparts in print; what is not set is absent.

    Runs as labels, with the bug that may be injected. Raises ValueError for a run that is no row.
    """
    columns: dict[str, list[str]] = {}
    for name, entry in plan.benchmarks.items():
        columns.setdefault(entry["group"].capitalize(), []).append(name)
    found: dict[str, Any] = {"columns": columns if len(columns) > 1 else {}, **(_of_study(study) if study else _of_main(plan))}
    return {key: value for key, value in found.items() if value}


def _of_study(study: Study) -> dict[str, Any]:
    return {
        "title": study.title,
        "about": study.about,
        "baseline": study.baseline,
        "published": study.published,
    }


def _of_main(plan: "Plan") -> dict[str, Any]:
    def label(name: str, where: str) -> str:
        return label_of(name, plan.runs, where)

    config = plan.config
    return {
        "groups": {title: [label(run, "groups") for run in runs] for title, runs in config["groups"].items()},
        "baseline": label(config["baseline"], "baseline") if config["baseline"] else "",
        "ablation": {title: [label(run, "ablation") for run in runs] for title, runs in config["ablation"].items()},
        "published": {label(run, "published"): papers for run, papers in config["published"].items()},
    }


def headline(plan: "Plan") -> tuple[str, dict[str, dict[str, Any]]]:
    """The benchmarks of the first column, whose mean the figures and the bug study show, and what to call them."""
    group = next(iter(plan.benchmarks.values()))["group"]
    own = {name: entry for name, entry in plan.benchmarks.items() if entry["group"] == group}
    return ("benchmarks" if len(own) == len(plan.benchmarks) else f"{group} benchmarks"), own


def fidelity(plan: "Plan") -> dict[str, Any]:
    """`shared` settings, and `methods`: method -> preset -> every setting its last stage would be trained with here. Presets:
    those that stand for a publication, and those that are rows."""
    table: dict[str, dict[str, Any]] = {}
    rows = {(run.method, run.preset) for run in plan.runs}
    for name in dict.fromkeys(run.method for run in plan.runs):
        stage = methods.stages(name, plan.folder)[-1]
        if stage.method is None:  # the base model
            continue
        presets = methods.presets(name, plan.folder)
        for preset in (methods.MATCHED, *(p for p in presets if p in PUBLISHED or (name, p) in rows)):
            label = plan.run(name if preset == methods.MATCHED else f"{name}-{preset}").label
            spec = json.loads(plan.stage_spec(label, plan.seeds[0], stage.name))
            table.setdefault(name, {})[preset] = {**spec["method"]["settings"], **spec["train"]}
    return {"shared": plan.config["train"], "methods": table}
