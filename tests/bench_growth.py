"""How the cost of an update grows: seconds and peak memory against what it is made of, and the exponent of each: `make bench`.

Every line is a process of its own that makes one update to warm up and takes the median of --repeats more (GRPO, as a stage
makes it, micro-batches of --micro-batch tokens); memory is the most the process held, over what it held before the first
update, of all ranks together. Along each axis everything else is as in the first line (ranks: with more completions). The
exponent is the slope of log cost against log size by least squares; expected: work is proportional to tokens (and to pairs of
tokens in attention), weights and ranks; memory to weights and the micro-batch, whatever the update is made of.

`rows`: the seconds in which Snakemake plans the miniature with more methods x seeds (a dry run), which every start pays.
"""

import argparse
import json
import math
import os
import random
import resource
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
GROUPS, PROMPT = 4, 32
FIRST = {"completions": 8, "length": 64, "size": 128, "ranks": 1}
# axis -> (its values, expected exponent of seconds, of memory)
AXES: dict[str, tuple[Sequence[int], str, str]] = {
    "completions": ((4, 8, 16, 32, 64), "1", "0"),
    "length": ((32, 64, 128, 256, 512), "1 to 2", "0"),
    "size": ((128, 256, 512, 768), "1", "1"),  # width of the layers; the exponent is that of the weights
    "ranks": ((1, 2), "-1", "1"),
}
BESIDE = {"ranks": {"completions": 64}}  # micro-batches enough to be divided


def model(width: int) -> Any:
    """A random model of the miniature's family and depth, 0.75 to 30 million weights."""
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    layers = 3 if width < 768 else 4
    config = Qwen2Config(
        vocab_size=311,
        hidden_size=width,
        intermediate_size=3 * width,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
    )
    return Qwen2ForCausalLM(config)


def measure(case: dict[str, int], micro_batch_tokens: int, repeats: int) -> None:
    """One line, in this process: prints {"seconds", "megabytes", "weights"} as JSON, of this rank."""
    from engine import methods
    from engine.settings import Settings
    from engine.train import Trainer
    from engine.words import Problem, Rollout, Trajectory, own

    draw = random.Random(0)
    found = []
    for i in range(GROUPS):
        problem = Problem(str(i), tuple(draw.choices(range(10, 300), k=PROMPT)), "")
        for k in range(case["completions"]):
            tokens = tuple(draw.choices(range(10, 300), k=case["length"]))
            found.append(
                Trajectory(problem, (own(Rollout((), tokens, (-5.0,) * len(tokens), 1.0, "length"), 1.0 - 2 * (k % 2)),))
            )
    settings = Settings(1e-6, 1000, micro_batch_tokens=micro_batch_tokens, response_tokens=case["length"], term_norms_every=0)
    loaded = model(case["size"])
    trainer = Trainer(loaded, methods.build("grpo", {}, ROOT / "methods"), settings, pad=0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    took = []
    for _ in range(repeats + 1):
        began = time.perf_counter()
        assert trainer.update(found)["grad_norm"] > 0
        took.append(time.perf_counter() - began)
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    weights = sum(p.numel() for p in loaded.parameters())
    sys.stdout.write(json.dumps({"seconds": statistics.median(took[1:]), "megabytes": more, "weights": weights}) + "\n")
    sys.stdout.flush()
    os._exit(0)  # as a stage's ranks leave (engine/ranks.py): Python's own way out now and then aborts one of several


def asked(case: dict[str, int], given: argparse.Namespace) -> dict[str, float]:
    """One line, from processes of its own: as many as it has ranks, which share the threads."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    ranks = case["ranks"]
    shared = {**os.environ, "OMP_NUM_THREADS": str(max(1, given.threads // 2))}
    group = {"WORLD_SIZE": str(ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} if ranks > 1 else {}
    command = [sys.executable, "-m", "tests.bench_growth", "--case", json.dumps(case), "--repeats", str(given.repeats)]
    command += ["--micro-batch", str(given.micro_batch)]
    started = [
        subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**shared, **group, **({"RANK": str(rank), "LOCAL_RANK": str(rank)} if ranks > 1 else {})},
        )
        for rank in range(ranks)
    ]
    said = [process.communicate() for process in started]
    for process, (_, why) in zip(started, said, strict=True):
        if process.returncode:
            raise SystemExit(f"{why}\nthe case {case} failed ({process.returncode})")
    found = [json.loads(text.splitlines()[-1]) for text, _ in said]
    return {**found[0], "seconds": max(f["seconds"] for f in found), "megabytes": sum(f["megabytes"] for f in found)}


def planned(seeds: int) -> float:
    """Seconds of a dry run of the miniature, seven rows, with so many seeds."""
    command = ["snakemake", "-n", "--quiet", "all", "--cores", "1", "--configfile", "config/miniature.yaml"]
    command += ["--config", "profile=bench_growth", f"seeds={json.dumps(list(range(seeds)))}"]
    began = time.perf_counter()
    subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """Slope of log cost against log size."""
    x, y = ([math.log(max(value, 1e-9)) for value in values] for values in (sizes, costs))
    return statistics.linear_regression(x, y).slope


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--micro-batch", type=int, default=1024, help="tokens of a forward pass, padding included")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--only", choices=[*AXES, "rows"])
    parser.add_argument("--case", type=json.loads, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.case:
        measure(given.case, given.micro_batch, given.repeats)
        return
    say = sys.stdout.write
    say(f"{GROUPS} prompts of {PROMPT} tokens; first line of each axis: {FIRST}\n")
    for axis, (values, of_seconds, of_memory) in AXES.items():
        if given.only not in (None, axis):
            continue
        found = [asked({**FIRST, **BESIDE.get(axis, {}), axis: value}, given) for value in values]
        say(f"\n{axis:>12}{'weights':>12}{'s an update':>13}{'MiB more':>10}\n")
        for value, one in zip(values, found, strict=True):
            say(f"{value:12}{one['weights']:12,}{one['seconds']:13.3f}{one['megabytes']:10.0f}\n")
        sizes = [one["weights"] for one in found] if axis == "size" else values
        slopes = [exponent(sizes, [one[key] for one in found]) for key in ("seconds", "megabytes")]
        say(f"{'exponent':>12}{'':12}{slopes[0]:13.2f}{slopes[1]:10.2f}\n")
        say(f"{'expected':>12}{'':12}{of_seconds:>13}{of_memory:>10}\n")
    if given.only in (None, "rows"):
        counts = (1, 2, 4, 8)
        took = [planned(count) for count in counts]
        say(f"\n{'rows':>12}{'s to plan':>13}\n" + "".join(f"{7 * n:12}{s:13.2f}\n" for n, s in zip(counts, took, strict=True)))
        say(f"{'exponent':>12}{exponent(counts, took):13.2f}\n{'expected':>12}{'at most 1':>13}\n")


if __name__ == "__main__":
    main()
