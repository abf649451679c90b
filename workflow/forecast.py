"""What a configuration would run, cost, and find out, before anything is run: `assay plan`."""

from collections.abc import Sequence

from analysis import power
from workflow import jobs as planned
from workflow.estimate import REST, SAMPLING, TRAINING, Cost, calibration
from workflow.hardware import CPU, Hardware, declared
from workflow.jobs import Job
from workflow.layout import headline
from workflow.memory import GIB, RESERVE
from workflow.plan import Plan

NOTHING = "-"
PREFIXES = ("", "k", "M", "G", "T", "P", "E", "Z")  # powers of a thousand


def forecast(plan: Plan) -> str:
    """Rows, stages, samples, and the smallest difference between two rows that could be told from chance."""
    stages = plan.stage_folders(plan.runs, plan.seeds, trained=True)
    stages += [
        folder for study in plan.studies.values() for folder in plan.stage_folders(study.runs, study.seeds, trained=True)
    ]
    trained = len(set(stages))
    each = sum(entry["size"] * entry["samples"] for entry in plan.benchmarks.values())
    rows, seeds, evaluations = len(plan.runs), len(plan.seeds), sum(map(len, planned.rows(plan).values()))
    tokens = plan.config["evaluation"]["max_new_tokens"]
    shown = headline(plan)[1].values()
    sizes, samples = ({entry["title"]: entry[name] for entry in shown} for name in ("size", "samples"))
    return (
        f"{plan.config['profile']}: {rows} rows, {trained} stages to train, {each:,} samples to evaluate a checkpoint, "
        f"{each * evaluations:,} in all, of at most {tokens:,} tokens.\n{power.plan_text(sizes, samples, seeds)}"
    )


def full(plan: Plan) -> tuple[str, list[str]]:
    """All of it as text, and what cannot fit the declared machine: one line each, empty if everything fits."""
    hardware, training, evaluating = declared(plan.config), planned.trainings(plan), planned.evaluations(plan)
    parts = [
        forecast(plan),
        _rules(plan, training, evaluating, hardware),
        _stages(training, hardware),
        _memory([*training, *evaluating], hardware),
        _windows(evaluating),
        _times(plan, hardware),
    ]
    return "\n\n".join(part for part in parts if part), planned.refusals(plan, [*training, *evaluating])


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as text: the first column to the left, the others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        return "  ".join([row[0].ljust(widths[0]), *cells]).rstrip()

    return "\n".join(map(line, rows))


def _rules(plan: Plan, training: list[Job], evaluating: list[Job], hardware: Hardware | None) -> str:
    zero = Cost(jobs=0)
    cells = sum(len(job.folders) for job in evaluating) * len(plan.benchmarks)
    costs = {
        "base": planned.copies(plan),
        "train": sum((job.whole for job in training), zero),
        "generate": sum((job.whole for job in evaluating), zero),
        "grade": Cost(jobs=cells),
    }
    total = sum(costs.values(), zero)
    table = [("rule", "jobs", "GPU-hours", "sampled", "own", "expert", "FLOPs", "disk")]
    for name, cost in {**costs, "total": total}.items():
        tokens = (_si(cost.sampled), _si(cost.own), _si(cost.expert))
        table.append((name, f"{cost.jobs:,}", _hours(cost.gpu_seconds), *tokens, _si(cost.flops), _si(cost.disk, "B")))
    lines = [
        aligned(table),
        "Tokens: sampled, and learned from by author. On the CPU beside these: data, golds, scores, tables.",
    ]
    if hardware and hardware.gpu and total.gpu_seconds:
        hours = sum(_wall(job, hardware) for job in (*training, *evaluating)) / 3600
        lines.append(f"{hardware.gpus} x {hardware.name}, never idle: {hours:,.0f} hours ({hours / 24:.1f} days).")
    kept, running = planned.disk(plan, [*training, *evaluating])
    lines.append(f"Disk at most {_si(kept + running, 'B')}, {_si(running, 'B')} of it checkpoints to resume from.")
    return "\n".join(lines)


def _wall(job: Job, hardware: Hardware) -> float:
    return (job.whole.clock or 0) / planned.abreast(job, hardware)


def _stages(training: list[Job], hardware: Hardware | None) -> str:
    """One line for each stage: what one job of it does and costs."""
    table = [
        (
            "stage",
            "jobs",
            "updates",
            "problems",
            "rollouts",
            "rounds",
            "GPU-hours",
            "hours",
            "sampled",
            "own",
            "expert",
            "FLOPs",
        )
    ]
    for job in training:
        assert job.habits is not None
        did = (f"{job.habits.rollouts:.3g}", str(job.habits.rounds), _hours(job.cost.gpu_seconds), _hours(job.cost.clock))
        counts = (str(len(job.folders)), f"{job.settings['updates']:,}", str(job.settings["prompts_per_update"]))
        tokens = (_si(job.cost.sampled), _si(job.cost.own), _si(job.cost.expert))
        table.append((_named(job.rows), *counts, *did, *tokens, _si(job.cost.flops)))
    about = "One job of each; rollouts and rounds for a problem, with a policy that is right every third time."
    return f"{aligned(table)}\n{about}" if training else ""


def _named(rows: Sequence[str], most: int = 3) -> str:
    shown = ", ".join(rows[:most])
    return shown if len(rows) <= most else f"{shown} and {len(rows) - most} more"


def _memory(jobs: list[Job], hardware: Hardware | None) -> str:
    """GiB of one GPU by part, a line for each distinct job and phase; nothing for jobs on the CPU."""
    held = [
        (job, phase, {**job.memory.always, **parts})
        for job in jobs
        for phase, parts in job.memory.phases.items()
        if job.settings["device"] != CPU and (phase != "stepping" or _largest(job) == phase)
    ]
    if not held:
        return ""
    names = list(dict.fromkeys(name for _, _, parts in held for name, size in parts.items() if size))
    lines: dict[tuple[str, ...], list[str]] = {}
    for job, phase, parts in held:
        cells = [f"{parts[name] / GIB:.1f}" if parts.get(name) else NOTHING for name in names]
        key = job.rule, phase, *cells, f"{sum(parts.values()) / GIB:.1f}", f"{job.memory.host / GIB:.0f}"
        lines[key] = list(dict.fromkeys([*lines.get(key, ()), *job.rows]))
    table = [("memory", "phase", *names, "GPU", "host")]
    table += [(f"{rule}: {_named(rows)}", *cells) for (rule, *cells), rows in lines.items()]
    about = "Of one process, in GiB; a GPU holds one phase at a time."
    if hardware and hardware.gpu:
        about += f" {hardware.name} has {hardware.gpu_memory / GIB:.0f}, of which {RESERVE:.0%} are left to CUDA."
    return f"{aligned(table)}\n{about}"


def _largest(job: Job) -> str:
    return max(job.memory.peaks, key=lambda phase: job.memory.peaks[phase])


def _windows(evaluating: list[Job]) -> str:
    """Models whose window is shorter than what they are asked for."""
    found = []
    for job in evaluating:
        asked = job.settings["max_prompt_tokens"] + job.settings["max_new_tokens"]
        if asked > job.shape.window:
            found.append(f"Window of {_named(job.rows)}: {job.shape.window:,} tokens, prompt and response may have {asked:,}.")
    return "\n".join(found)


def _times(plan: Plan, hardware: Hardware | None) -> str:
    if not hardware:
        return "No `hardware` in the configuration: neither time nor fit is estimated."
    if not hardware.gpu:
        return "hardware.gpu is cpu: no time is estimated."
    table = [["published", "printed", "model", "ratio", "source"]]
    for row in calibration():
        shown = [_si(row[key]) if row["quantity"] == "train_flops" else f"{row[key]:,.0f}" for key in ("published", "model")]
        unit = "FLOPs" if row["quantity"] == "train_flops" else "GPU-hours"
        table.append([f"{row['method']}, {unit}", *shown, f"{row['ratio']:.2f}", row["source"]])
    slow = (
        ""
        if plan.config["sampler"] == "vllm"
        else " Times are vLLM's: transformers' sampler takes several times as long on a GPU."
    )
    return (
        f"Assumed: {hardware.response_tokens:,} tokens in a response and in a demonstration, at most the limit of the run; "
        f"updates at {TRAINING:.0%} of the peak, sampling at {SAMPLING:.0%} of peak and bandwidth, {REST:.0%} for the rest."
        f"{slow}\nCalibrated on the first line alone, without the pass for old log-probs, which this engine does not make; the "
        f"others are checks. Models much below 7B take longer than this (workflow/estimate.py).\n{aligned(table)}"
    )


def _hours(seconds: float | None) -> str:
    if not seconds:
        return NOTHING
    hours = seconds / 3600
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"


def _si(value: float, unit: str = "") -> str:
    """Three digits and a prefix: 1.27e20 is 127 E."""
    power_of_1000 = 0
    while value >= 999.5 and power_of_1000 < len(PREFIXES) - 1:
        value, power_of_1000 = value / 1000, power_of_1000 + 1
    return f"{value:.3g} {PREFIXES[power_of_1000]}{unit}".rstrip() if value else NOTHING
