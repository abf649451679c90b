"""What the configuration says about tables: what stands under them, how they are laid out, and which settings are compared."""

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from engine import methods
from workflow.rehearsal import TEXT as REHEARSAL
from workflow.runs import BASE, Run
from workflow.studies import Study, label_of

if TYPE_CHECKING:
    from workflow.plan import Plan

PUBLISHED = ("as_paper", "as_released")
# The settings that say how long a stage trains: one sentence under every table.
LENGTH = ("updates", "prompts_per_update", "sampled_tokens")


def notes(plan: "Plan", study: Study | None = None) -> dict[str, Any]:
    """What stands under every table, of the main comparison or of a study: the profile, what all rows share, and what a row
    does differently."""
    runs = study.runs if study else plan.runs
    common = _common(plan, runs)
    evaluation, shared = plan.config["evaluation"], {**plan.config["train"], **common}
    tokens = shared["sampled_tokens"]
    updates = f"{shared['updates']} updates of {shared['prompts_per_update']} problems per stage"
    updates += f", or as many as it takes to sample {tokens:,} tokens," if tokens else ""
    differing = {run.label: _differing(plan, run, common) for run in runs}
    return {
        "profile": plan.config["profile"] + (f", a {REHEARSAL}" if plan.config["rehearse"] else ""),
        **plan.evaluation.notes(),
        "sampling": f"temperature {evaluation['temperature']}, at most {evaluation['max_new_tokens']} new tokens, by "
        + plan.config["sampler"],
        "training": f"{updates} unless noted",
        "runs": {label: text for label, text in differing.items() if text},
        **layout(plan, study),
    }


def _common(plan: "Plan", runs: Sequence[Run]) -> dict[str, Any]:
    """How long every trained row trains, where all of them differ from the shared settings alike."""
    own = [plan.overrides(run) for run in runs if run.method != BASE]
    first = own[0] if own else {}
    return {key: first[key] for key in LENGTH if key in first and all(each.get(key, ...) == first[key] for each in own)}


def _differing(plan: "Plan", run: Run, common: dict[str, Any]) -> str:
    """What one row does differently from those beside it: the injected bug first, then its settings."""
    bug = [f"trained with a bug injected on purpose, {run.bug}: {plan.bugs[run.bug]['about']}"] if run.bug else []
    own = {key: "none" if value is None else value for key, value in plan.overrides(run).items() if key not in common}
    settings = [f"{key} {value}" for key, value in own.items()]
    settings += [f"weights of {plan.model(run.checkpoint)['name']}"] if run.checkpoint else []
    settings += [f"{s.name} for {s.times:g} times its updates" for s in plan.stages(run) if s.times != 1]
    cut = ["responses end where its window does"] if plan.evaluation.of(run.clean)["within_window"] else []
    return "; ".join(text for text in (*bug, ", ".join(settings), *cut) if text)


def layout(plan: "Plan", study: Study | None = None) -> dict[str, Any]:
    """Groups of rows and of columns, the baseline, ladders, counterparts in print; what is not set is absent.

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
