"""The jobs of a plan that cost something: which there are, what one of them costs, and whether it fits the declared machine."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from engine import methods
from workflow import memory, models
from workflow.estimate import Cost, Habits, evaluation_cost, habits, stage_cost
from workflow.hardware import CPU, Hardware, declared
from workflow.memory import GIB, RESERVE, Memory
from workflow.models import Shape
from workflow.plan import Plan
from workflow.runs import BASE

# Changes that make a stage smaller, the cheapest first; `None` stands for the longest row of the run.
SMALLER: tuple[tuple[str, Any], ...] = (
    ("term_norms_every", 0),
    ("gradient_checkpointing", True),
    ("micro_batch_tokens", None),
    ("zero_stage", 2),
    ("zero_stage", 3),
    ("offload", True),
)


@dataclass
class Job:
    """Jobs of one rule that differ in their row and seed alone: `rows` they belong to, `cost` and `memory` of one of them, its
    settings, and the folders they write."""

    rule: str
    rows: list[str]
    cost: Cost
    memory: Memory
    shape: Shape
    settings: dict[str, Any]
    again: Callable[[dict[str, Any]], Memory]  # the memory with other settings
    habits: Habits | None = None
    folders: set[str] = field(default_factory=set)

    @property
    def ranks(self) -> int:
        return memory.world(self.settings) if self.rule == "train" else 1

    @property
    def whole(self) -> Cost:
        return self.cost.times(len(self.folders))


def rows(plan: Plan) -> dict[str, list[int]]:
    """Every row of the main tables and of the studies, with its seeds."""
    found = {run.label: set(plan.seeds) for run in plan.runs}
    for study in plan.studies.values():
        for run in study.runs:
            found.setdefault(run.label, set()).update(study.seeds)
    return {label: sorted(seeds) for label, seeds in found.items()}


def trainings(plan: Plan) -> list[Job]:
    """The training stages, a shared one once; those of different rows that cost the same stay apart."""
    hardware, sampler = declared(plan.config), plan.config["sampler"]
    jobs: dict[tuple[str, str], Job] = {}
    for label, seeds in rows(plan).items():
        run = plan.run(label)
        for stage in plan.stages(run):
            if stage.method is None:
                continue
            folders = {str(plan.stage_folder(run, stage, seed)) for seed in seeds}
            home = str(plan.stage_folder(run, stage, "*"))
            if (home, stage.name) not in jobs:
                spec = json.loads(plan.stage_spec(label, seeds[0], stage.name))
                jobs[home, stage.name] = _training(spec, sampler, hardware, plan)
            jobs[home, stage.name].folders |= folders
            jobs[home, stage.name].rows.append(label)
    return list(jobs.values())


def _training(spec: dict[str, Any], sampler: str, hardware: Hardware | None, plan: Plan) -> Job:
    train, habit = spec["train"], _habits(json.dumps(spec["method"]), plan.folder)
    shape = models.shape(spec["model"])

    def again(settings: dict[str, Any]) -> Memory:
        return memory.of_training(shape, settings, sampler, habit.rollouts > 0, habit.reads, habit.reference, habit.optimizers)

    return Job("train", [], stage_cost(train, habit, shape, hardware), again(train), shape, train, again, habit)


@cache
def _habits(method: str, folder: Path) -> Habits:
    chosen = json.loads(method)
    return habits(methods.build(chosen["name"], chosen["settings"], folder))


def evaluations(plan: Plan) -> list[Job]:
    """One job for every row and seed: rows whose models have one shape together."""
    settings, sampler, hardware = plan.config["evaluation"], plan.config["sampler"], declared(plan.config)
    samples = sum(entry["size"] * entry["samples"] for entry in plan.benchmarks.values())
    jobs: dict[Shape, Job] = {}
    for label, seeds in rows(plan).items():
        run = plan.run(label)
        shape = models.shape(plan.model(run.checkpoint or plan.of_train(run)["start"]))
        if shape not in jobs:

            def again(changed: dict[str, Any], shape: Shape = shape) -> Memory:
                return memory.of_evaluation(shape, changed, sampler)

            cost = evaluation_cost(settings, samples, shape, hardware)
            jobs[shape] = Job("generate", [], cost, again(settings), shape, settings, again)
        jobs[shape].rows.append(label)
        jobs[shape].folders |= {f"{label}/seed{seed}" for seed in seeds}
    return list(jobs.values())


def copies(plan: Plan) -> Cost:
    """The base model, and published checkpoints, as stages of their own: their weights are copied once for each seed."""
    size, found = memory.BYTES[plan.config["train"]["dtype"]], rows(plan)
    costs = [
        Cost(disk=size * models.shape(plan.model(label)).parameters).times(len(found.get(label, plan.seeds)))
        for label in dict.fromkeys([BASE, *plan.starts(plan.all_runs), *(run.label for run in plan.all_runs if run.checkpoint)])
    ]
    return sum(costs[1:], costs[0])


def disk(plan: Plan, jobs: list[Job]) -> tuple[float, float]:
    """Bytes that stay, and bytes of checkpoints to resume from while as many jobs run as the machine has room for."""
    hardware = declared(plan.config)
    kept = sum(job.whole.disk for job in jobs) + copies(plan).disk
    return kept, max((job.cost.scratch * abreast(job, hardware) for job in jobs), default=0)


def abreast(job: Job, hardware: Hardware | None) -> int:
    """How many jobs of a kind run at the same time: as many as there are, or as the GPUs hold."""
    room = max(1, hardware.gpus // job.ranks) if hardware and hardware.gpu else 1
    return min(room, max(1, len(job.folders)))


def refusals(plan: Plan, jobs: list[Job]) -> list[str]:
    """What cannot fit the declared machine, each with the setting, its value and a remedy; nothing if none is declared."""
    hardware = declared(plan.config)
    if not hardware:
        return []
    rows: dict[tuple[str, str], list[str]] = {}
    for job in jobs:
        for text in _refused(job, hardware):
            rows[job.rule, text] = list(dict.fromkeys([*rows.get((job.rule, text), ()), *job.rows]))
    found = [f"{rule} of {', '.join(names)}: {text}" for (rule, text), names in rows.items()]
    need = sum(disk(plan, jobs))
    if hardware.disk and need > hardware.disk:
        has = f"hardware.disk_gb is {hardware.disk / GIB:.0f}"
        found.append(f"{need / GIB:.0f} GiB of disk are needed and {has}: run fewer seeds or rows at a time, or free some")
    return found


def _refused(job: Job, hardware: Hardware) -> Iterator[str]:
    settings, host = job.settings, job.memory.host
    here = job.ranks // settings.get("nodes", 1)
    if hardware.host_memory and here * host > hardware.host_memory:
        has = f"hardware.host_memory_gb is {hardware.host_memory / GIB:.0f}"
        remedy = "set train.offload to false or " if settings.get("offload") else ""
        yield f"{here} processes need {here * host / GIB:.0f} GiB of the host's memory and {has}; {remedy}lower train.ranks"
    if settings["device"] == CPU or not hardware.gpu:
        return
    if here > hardware.gpus:
        yield f"train.ranks is {here}, one GPU each, and hardware.gpus is {hardware.gpus}; lower one or raise the other"
    room = round((1 - RESERVE) * hardware.gpu_memory)
    for phase, peak in job.memory.peaks.items():
        if peak > room:
            parts = ", ".join(f"{name} {size / GIB:.1f}" for name, size in job.memory.parts(phase).items())
            yield (
                f"{peak / GIB:.1f} GiB of a GPU while {phase} ({parts}), and {hardware.name} leaves {room / GIB:.1f} of "
                f"{hardware.gpu_memory / GIB:.0f}; {_remedy(job, phase, room)}"
            )


def _remedy(job: Job, phase: str, room: int) -> str:
    """What to change for a phase to fit: the size of the KV cache, else the cheapest of SMALLER one after the other."""
    section, settings = ("train" if job.rule == "train" else "evaluation"), job.settings
    if phase == "sampling":
        asked = settings["sample_batch_tokens"]
        left = 1 - (job.memory.peaks[phase] - room) / job.memory.phases[phase]["KV cache"]
        tokens = int(asked * left) // 1024 * 1024
        if tokens > 0 and job.again({**settings, "sample_batch_tokens": tokens}).peaks[phase] <= room:
            return f"lower {section}.sample_batch_tokens from {asked} to {tokens}"

    def peak(made: dict[str, Any]) -> int:
        return job.again({**settings, **made}).peaks[phase]

    changes: dict[str, Any] = {}
    for name, value in SMALLER if job.rule == "train" else ():
        changes[name] = memory.longest(settings) if value is None else value
        if peak(changes) <= room:
            for key in list(changes):
                rest = {other: new for other, new in changes.items() if other != key}
                changes = rest if peak(rest) <= room else changes
            asked = " and ".join(f"train.{key} {str(new).lower()}" for key, new in changes.items())
            return f"with {asked} it is {peak(changes) / GIB:.1f}"
    more = ", or more train.ranks with ZeRO" if job.rule == "train" else ""
    return f"no setting of {section} makes it fit: use larger GPUs, shorter responses{more}"
