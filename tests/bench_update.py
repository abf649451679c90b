"""How fast an update is, side by side with TRL's, and how close to what the machine can do: `make bench`.

    GRPO      128 completions of 64 tokens after prompts of 32, no KL term, one update per batch, against TRL's GRPOTrainer
    SFT       the same texts as demonstrations, against TRL's SFTTrainer, with packing and without
    sampling  128 completions of 64 tokens of the same prompts, with their log-probs, against transformers' `generate` without
              (against vLLM's: tests/bench_sampler.py)

In turns, on all cores: one optimizer step each that counts, after one that does not, as those of a stage follow one another.
TRL's own loop is in a process of its own, in the environment --trl, with given rollouts in the place of generated ones. Each
trainer has the size of a forward pass that is fastest for it, of a few, and keeps its activations; `TRL default` is
GRPOTrainer as it comes: 8 rows at a time, activations made again in the backward pass.
`of the limit` is model FLOP utilisation: 6 N FLOPs per token trained and 2 N per token sampled (N without the embeddings that
are only looked up), prompts included, also where they are passed once for several rows, and padding not, over the FLOP/s of a
matrix product in fp32 on the same machine, measured in the same turns.
"""

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from engine import methods
from engine.sampler import Request, Sampling, serve
from engine.sampler.transformers import TransformersSampler
from engine.settings import Settings
from engine.train import Trainer
from engine.words import Problem, Rollout, Sample, Trajectory, expert, own

ROOT = Path(__file__).parents[1]
OTHERS = dict(os.environ)  # of the processes started here: ours will say that it is a rank
GROUP, PROMPT, COMPLETION = 8, 32, 64
ROW = PROMPT + COMPLETION
SIDE = 1024  # of the matrices whose product is the limit
Row = tuple[list[int], list[int], float]
Step = Callable[[], float]


def rows(groups: int, vocabulary: int) -> list[Row]:
    """(prompt, completion, advantage); no group is without advantages."""
    draw = random.Random(0)
    found = []
    for _ in range(groups):
        prompt = draw.choices(range(10, vocabulary - 10), k=PROMPT)
        for k in range(GROUP):
            found.append((prompt, draw.choices(range(10, vocabulary - 10), k=COMPLETION), 1.0 - 2.0 * (k % 2)))
    return found


def trajectories(kind: str, given: list[Row]) -> list[Trajectory]:
    found = []
    for i, (prompt, completion, advantage) in enumerate(given):
        rollout = Rollout((), tuple(completion), (-5.0,) * COMPLETION, advantage, "length")
        text = own(rollout, advantage) if kind == "grpo" else expert(tuple(completion))
        found.append(Trajectory(Problem(str(i), tuple(prompt), ""), (text,)))
    return found


def ours(
    kind: str, model: Path, given: list[Row], micro_batch_tokens: int, packed: bool = False, dtype: torch.dtype = torch.float32
) -> Step:
    """One update by the trainer of every stage."""
    settings = Settings(1e-6, 1000, micro_batch_tokens=micro_batch_tokens, packed=packed, term_norms_every=0)
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=dtype)
    trainer = Trainer(loaded, methods.build(kind, {}, ROOT / "methods"), settings, pad=0)
    wanted = trajectories(kind, given)

    def step() -> float:
        began = time.perf_counter()
        found = trainer.update(wanted)
        took = time.perf_counter() - began
        assert found["grad_norm"] > 0 and sum(found["trained_tokens"].values()) == len(given) * COMPLETION
        return took

    return step


def sampler(model: Path, given: list[Row]) -> Step:
    """Completions of all prompts, by the sampler of every stage."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    served = TransformersSampler(loaded, Sampling(0, -1, PROMPT, COMPLETION, 1.0, len(given) * ROW))
    prompts = [Problem(str(i), tuple(prompt), "") for i, (prompt, _, _) in enumerate(given[::GROUP])]
    asked = [Request(one, Sample(GROUP), tuple(range(k * GROUP, (k + 1) * GROUP))) for k, one in enumerate(prompts)]

    def step() -> float:
        began = time.perf_counter()
        groups = serve(served, asked)
        took = time.perf_counter() - began
        assert all(len(rollout.tokens) == len(rollout.logp) == COMPLETION for group in groups for rollout in group)
        return took

    return step


def generate(model: Path, given: list[Row]) -> Step:
    """The same by transformers' own loop."""
    loaded: Any = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    prompts = torch.tensor([prompt for prompt, _, _ in given[::GROUP]])
    chosen = {"do_sample": True, "top_k": 0, "num_return_sequences": GROUP, "pad_token_id": 0, "eos_token_id": None}

    def step() -> float:
        began = time.perf_counter()
        found = loaded.generate(prompts, max_new_tokens=COMPLETION, **chosen)
        took = time.perf_counter() - began
        assert found.shape == (len(given), ROW)
        return took

    return step


@contextmanager
def trl(python: Path, job: dict[str, Any]) -> Iterator[Step]:
    """One step of TRL's trainer, in its own process."""
    with ExitStack() as open_:
        file = open_.enter_context(tempfile.NamedTemporaryFile("w", suffix=".json"))
        json.dump(job, file)
        file.flush()
        said = open_.enter_context(tempfile.TemporaryFile("w+"))
        command = [str(python), str(ROOT / "tests" / "trl_worker.py"), file.name]
        worker = open_.enter_context(
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True, env=OTHERS)
        )
        open_.callback(worker.kill)
        assert worker.stdin and worker.stdout
        asked, answers = worker.stdin, worker.stdout

        def answer() -> Any:
            if line := answers.readline():
                return json.loads(line)
            said.seek(0)
            raise SystemExit(f"{said.read()}\nTRL's side ended: {python} tests/trl_worker.py with {job['kind']}")

        def step() -> float:
            asked.write("step\n")
            asked.flush()
            return answer()

        step.versions = answer()  # pyright: ignore[reportFunctionMemberAccess]
        yield step


def limit() -> float:
    """Seconds of one product of SIDE x SIDE matrices in fp32, the best of a few."""
    one, other = torch.rand(SIDE, SIDE), torch.rand(SIDE, SIDE)
    found = []
    for _ in range(5):
        began = time.perf_counter()
        torch.mm(one, other)
        found.append(time.perf_counter() - began)
    return min(found)


def fastest(made: dict[str, Step]) -> tuple[str, Step]:
    """By the best of four steps of each, after one to warm up."""
    took = {name: min([step() for _ in range(5)][1:]) for name, step in made.items()}
    name = min(took, key=lambda one: took[one])
    tried = ", ".join(f"{other} {seconds:.2f} s" for other, seconds in took.items())
    sys.stderr.write(f"  {name} of: {tried}\n")
    return name, made[name]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "miniature" / "base", help="a checkpoint folder")
    parser.add_argument("--trl", type=Path, required=True, help="python of an environment with TRL")
    parser.add_argument("--groups", type=int, default=16, help="of 8 completions")
    parser.add_argument("--repeats", type=int, default=9, help="of which medians are taken")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    given = parser.parse_args()
    if not given.trl.is_file():
        parser.error(f"--trl {given.trl} is no file; `make bench` makes such an environment, of requirements/trl.txt")
    torch.set_num_threads(given.threads)
    OTHERS["OMP_NUM_THREADS"] = str(given.threads)

    sized = AutoModelForCausalLM.from_pretrained(given.model)
    active = sum(p.numel() for p in sized.parameters()) - sized.model.embed_tokens.weight.numel()
    data = rows(given.groups, sized.config.vocab_size)
    job = {"model": str(given.model), "rows": data, "steps": 5 + 2 * given.repeats, "length": 10 * ROW}
    with ExitStack() as open_:

        def rival(**changed: Any) -> Step:
            return open_.enter_context(trl(given.trl, {**job, **changed}))

        sizes = [len(data) * ROW // cut for cut in (16, 8, 4, 1)]
        found: dict[str, tuple[str, Step, int]] = {}  # what is compared: (how, one step, tokens of a step)
        for kind in ("grpo", "sft"):
            sys.stderr.write(f"{kind}: sizes of a forward pass, tried\n")
            # Rows packed into one cost a CPU the square of all their tokens: only the smaller sizes are tried.
            ways: dict[str, dict[str, Any]] = {"": {}, " packed": {"packed": True}, " bfloat16": {"dtype": torch.bfloat16}}
            for name, changed in ways.items():
                tried = {
                    f"{n} tokens": ours(kind, given.model, data, n, **changed) for n in sizes[: 2 if "packed" in changed else 4]
                }
                found[f"{kind} ours{name}"] = (*fastest(tried), len(data) * ROW)
            batches = [len(data) // cut for cut in (16, 8, 4, 1)]
            if kind == "grpo":
                tried = {f"{n} rows": rival(kind=kind, batch=n) for n in batches}
                found["grpo TRL"] = (*fastest(tried), len(data) * ROW)
                found["grpo TRL default"] = ("8 rows", rival(kind=kind, batch=8, recompute=True), len(data) * ROW)
            else:
                for name, packing, one in (("packed", True, 10), ("padded", False, 1)):
                    tried = {f"{n} rows": rival(kind=kind, batch=n // one, packing=packing) for n in batches if n >= one}
                    how, step = fastest(tried)
                    found[f"sft TRL {name}"] = (how, step, int(how.split()[0]) // one * one * ROW)
        for name, made in (("ours", sampler), ("generate", generate)):
            found[f"sampling {name}"] = (*fastest({f"{len(data)} rows": made(given.model, data)}), len(data) * ROW)
        seconds: dict[str, list[float]] = {name: [] for name in found}
        limits = []
        order = random.Random(1)
        for _ in range(given.repeats):
            limits.append(limit())
            for name in order.sample(list(found), len(found)):
                seconds[name].append([found[name][1]() for _ in range(2)][1])
        versions = found["grpo TRL"][1].versions  # pyright: ignore[reportFunctionMemberAccess]

    speed = {name: [tokens / took for took in seconds[name]] for name, (_, _, tokens) in found.items()}
    flops = 2 * SIDE**3 / statistics.median(limits)
    say = sys.stdout.write
    say(f"{len(data)} rows of {PROMPT} + {COMPLETION} tokens, {active:,} weights that are multiplied, fp32\n")
    say(f"{platform.processor() or platform.machine()}, {given.threads} threads, {flops / 1e9:.0f} GFLOP/s in a product of ")
    say(f"{SIDE} x {SIDE}; torch {torch.__version__}; TRL's side: {', '.join(f'{k} {v}' for k, v in versions.items())}\n\n")
    say(f"{'':19}{'a forward pass':>17}{'s a step':>10}{'tokens/s':>10}{'ours / it':>11}{'of the limit':>14}\n")
    for name, (how, _, _) in found.items():
        rate = statistics.median(speed[name])
        ratio = statistics.median(a / b for a, b in zip(speed[f"{name.split()[0]} ours"], speed[name], strict=True))
        used = (2 if name.startswith("sampling") else 6) * active * rate / flops
        say(f"{name:19}{how:>17}{statistics.median(seconds[name]):10.3f}{rate:10.0f}{ratio:11.2f}{used:13.0%}\n")


if __name__ == "__main__":
    main()
