"""What a comparison costs besides its trainings: `make bench`.

    start      seconds from the start of a stage's job to the end of its first update (GRPO on the miniature, transformers'
               sampler; the first line of metrics.jsonl is there), in turns with a process that only imports what it needs
    two        two stages at once, one thread each as the workflow starts them, against one after the other
    overhead   wall time of a whole run on one core (base, sft and grpo with tables, figures and report) minus the time in
               which one of its jobs ran, and how much of that the stages' processes took to start

Results go to results/bench_workflow, which is emptied first and last; what failed is read in said.log there.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from workflow.plan import checked

ROOT = Path(__file__).parents[1]
HOME = ROOT / "results" / "bench_workflow"
SAID = HOME / "said.log"  # what the processes that are timed print
IMPORTS = "import torch, transformers, transformers.models.qwen2.modeling_qwen2, deepspeed"
ALONE = {**os.environ, "OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
RUNS = ["base", "sft", "grpo"]


def configuration(**changed: Any) -> dict[str, Any]:
    """The miniature's, with three rows."""
    config = yaml.safe_load((ROOT / "config" / "miniature.yaml").read_text())
    overrides = {run: one for run, one in config["overrides"].items() if run in RUNS}
    return {**config, "profile": HOME.name, "runs": RUNS, "baseline": "sft", "overrides": overrides, **changed}


def started(command: list[str]) -> subprocess.Popen[bytes]:
    """A process on one thread, whose words are kept."""
    HOME.mkdir(parents=True, exist_ok=True)
    with SAID.open("a") as said:
        return subprocess.Popen(command, cwd=ROOT, env=ALONE, stdout=said, stderr=said)


def ended(process: subprocess.Popen[bytes]) -> None:
    if process.wait():
        raise SystemExit(f"a process failed ({process.returncode}); its last words are in {SAID}")


def whole() -> float:
    """Seconds of a run of the workflow on one core."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(configuration(), file)
        began = time.perf_counter()
        ended(started(["snakemake", "--cores", "1", "--configfile", file.name]))
        return time.perf_counter() - began


def stage(seed: int, updates: int) -> list[str]:
    """The command of a GRPO stage."""
    config = configuration(seeds=[seed])
    config["train"]["updates"] = updates
    spec = json.loads(checked(config).stage_spec("grpo", seed, "grpo"))
    spec["parent"] = spec["parent"].replace(f"seed{seed}", "seed0")
    out = HOME / "stages" / f"seed{seed}"
    shutil.rmtree(out, ignore_errors=True)
    return [sys.executable, "-m", "engine.stage", "--out", str(out), "--spec", json.dumps(spec)]


def first_update() -> float:
    """Seconds until there is a line of metrics."""
    command, metrics = stage(1, 2), HOME / "stages" / "seed1" / "metrics.jsonl"
    began = time.perf_counter()
    running = started(command)
    while not (metrics.exists() and metrics.stat().st_size):
        if running.poll() is not None:
            raise SystemExit(f"the stage ended without an update; its last words are in {SAID}")
        time.sleep(0.002)
    took = time.perf_counter() - began
    ended(running)
    return took


def imports() -> float:
    began = time.perf_counter()
    ended(started([sys.executable, "-c", IMPORTS]))
    return time.perf_counter() - began


def trained(seeds: list[int], updates: int, at_once: bool) -> float:
    """Seconds of stages of so many updates."""
    commands = [stage(seed, updates) for seed in seeds]
    began = time.perf_counter()
    running = []
    for command in commands:
        running.append(started(command))
        if not at_once:
            ended(running[-1])
    for process in running:
        ended(process)
    return time.perf_counter() - began


def busy(since: float) -> float:
    """Seconds in which a job of the workflow ran, by Snakemake's own records."""
    records = (json.loads(path.read_text()) for path in (ROOT / ".snakemake" / "metadata").iterdir())
    times = sorted((one["starttime"], one["endtime"]) for one in records if one["starttime"] >= since)  # of each output
    covered, until = 0.0, since
    for start, end in times:
        covered += max(0.0, end - max(start, until))
        until = max(until, end)
    return covered


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--updates", type=int, default=10, help="of the stages that run at once")
    given = parser.parse_args()
    os.chdir(ROOT)
    say = sys.stdout.write
    say(f"{platform.processor() or platform.machine()}, {os.cpu_count()} cores\n")
    shutil.rmtree(HOME, ignore_errors=True)
    since = time.time()
    wall = whole()
    inside = busy(since)
    stages = [json.loads(path.read_text()) for path in HOME.glob("*/seed0/*/done.json")]
    working = sum(one["costs"]["seconds"] for one in stages if one["updates"])
    say(f"overhead: {wall:.1f} s on one core, {1 - inside / wall:.1%} of it in no job;\n")
    say(f"    of {inside:.1f} s in jobs the stages' own phases are {working:.1f} s\n")
    times: dict[str, list[float]] = {"start": [], "imports": [], "one by one": [], "at once": []}
    for _ in range(given.repeats):
        times["start"].append(first_update())
        times["imports"].append(imports())
        times["one by one"].append(trained([1, 2], given.updates, at_once=False))
        times["at once"].append(trained([1, 2], given.updates, at_once=True))
    middle = {name: statistics.median(found) for name, found in times.items()}
    ratio = statistics.median(a / b for a, b in zip(times["one by one"], times["at once"], strict=True))
    say(f"start: {middle['start']:.2f} s from job start to the end of the first update,\n")
    say(f"    {middle['imports']:.2f} s its imports alone\n")
    say(
        f"two: {middle['one by one']:.1f} s one after the other, {middle['at once']:.1f} s at once, {ratio:.2f} times as fast\n"
    )
    shutil.rmtree(HOME)


if __name__ == "__main__":
    main()
