"""How fast the samplers are, side by side in one process and one run: `make bench-sampler`.

    one round      every problem asks for 8 rollouts at once
    four rounds    the pattern of methods/trapo.py: 4, 2, 1 and 1 rollouts, each group after the grades of the one before

Lengths are heavy-tailed (Pareto) up to a cap and belong to a rollout's seed, so every row writes the same number of
tokens. `four barriers` is how the published code samples: one call of `LLM.generate` per group for all problems together.
Each repetition runs every row once, in another order; ratios are taken within a repetition, and their median is printed.
"""

import argparse
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from engine import methods, seeds
from engine.distributed import start_distributed
from engine.explore import explore
from engine.sampler import Request, Sampling, serve
from engine.sampler.transformers import Job, TransformersSampler
from engine.sampler.vllm import VllmSampler
from engine.words import Problem, Rollout, Sample
from tests.conftest import Lockstep

ROOT = Path(__file__).parents[1]
SHORTEST, TAIL = 24, 1.0  # of the Pareto distribution of lengths: its smallest value and its exponent


class Raw:
    """One call of `LLM.generate` for everything asked."""

    def __init__(self, sampler: VllmSampler) -> None:
        self.sampler, self.asked = sampler, []

    def submit(self, key: int, request: Request) -> None:
        self.asked.append((key, request))

    def step(self) -> list[tuple[int, list[Rollout]]]:
        vllm, sampling = self.sampler._vllm, self.sampler.sampling
        prompts, parameters = [], []
        for _, request in self.asked:
            room = sampling.room(request, self.sampler.window)
            for seed in request.seeds if room else ():
                prompts.append(vllm.TokensPrompt(prompt_token_ids=list(request.prompt)))
                named = {"temperature": sampling.temperature, "max_tokens": room, "seed": seed}
                parameters.append(
                    vllm.SamplingParams(**named, ignore_eos=True, logprobs=0, flat_logprobs=True, detokenize=False)
                )
        outputs = iter(self.sampler._llm.generate(prompts, parameters, use_tqdm=False) if prompts else [])
        found = []
        for key, request in self.asked:
            room, prefix = sampling.room(request, self.sampler.window), request.sample.prefix
            rollouts = [Rollout(prefix, (), (), 0.0, "prefix") for _ in request.seeds]
            for k in range(len(rollouts)) if room else ():
                (output,) = next(outputs).outputs
                rollouts[k] = Rollout(prefix, tuple(output.token_ids), tuple(output.logprobs.logprobs), 0.0, "length")
            found.append((key, rollouts))
        self.asked = []
        return found


def length(seed: int, cap: int) -> int:
    """How many tokens the rollout of that seed has."""
    return min(cap, int(SHORTEST * random.Random(seed).paretovariate(TAIL)))


def reward(pairs: Sequence[tuple[Problem, Rollout]]) -> list[float]:
    """A verdict that depends on how long a rollout is, and says yes about every third time."""
    return [float(len(rollout.tokens) % 3 == 0) for _, rollout in pairs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, default=ROOT / "miniature" / "base", help="a checkpoint folder")
    parser.add_argument("--problems", type=int, default=64)
    parser.add_argument("--cap", type=int, default=2048, help="longest response")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"])
    parser.add_argument("--batch-tokens", type=int, default=1 << 18, help="tokens in memory at once")
    parser.add_argument("--only", default="", help="rows whose name holds this text, beside the first of each kind")
    given = parser.parse_args()

    start_distributed(given.device)
    loaded: Any = AutoModelForCausalLM.from_pretrained(given.model, dtype=getattr(torch, given.dtype))
    model = loaded.to(given.device).eval()
    draw = random.Random(0)
    words = range(10, model.config.vocab_size - 10)
    problems = [
        Problem(f"p{i}", tuple(draw.choices(words, k=40)), "", (tuple(draw.choices(words, k=60)),))
        for i in range(given.problems)
    ]
    sampling = Sampling(0, -1, 64, given.cap, 1.0, given.batch_tokens, given.dtype, given.device)
    began = time.perf_counter()
    vllm = VllmSampler(given.model, sampling, model)
    vllm.sync()
    starting = time.perf_counter() - began
    by_seed(vllm, given.cap)
    plain = TransformersSampler(model, sampling)

    asked = [Request(p, Sample(8), tuple(seeds.seed(problem=p.id, sample=k) for k in range(8))) for p in problems]
    trapo = methods.build("trapo", {}, ROOT / "methods")

    def one_round(sampler: Any) -> int:
        return sum(len(rollout.tokens) for group in serve(sampler, asked) for rollout in group)

    def four_rounds(sampler: Any) -> int:
        return explore(trapo, problems, sampler, reward, 0, 1, 0, {}).sampled_tokens

    rows: dict[str, tuple[Callable[[Any], int], Any]] = {
        "one round: LLM.generate": (one_round, Raw(vllm)),
        "one round: vllm": (one_round, vllm),
        "one round: transformers": (one_round, plain),
        "four rounds: LLM.generate, four barriers": (four_rounds, Raw(vllm)),
        "four rounds: vllm in lockstep": (four_rounds, Lockstep(vllm)),
        "four rounds: vllm without barriers": (four_rounds, vllm),
        "four rounds: transformers": (four_rounds, plain),
    }
    first = {kind: next(name for name in rows if name.startswith(kind)) for kind in ("one round", "four rounds")}
    rows = {name: row for name, row in rows.items() if given.only in name or name in first.values()}
    speeds: dict[str, list[float]] = {name: [] for name in rows}
    written: dict[str, int] = {}
    synced = []
    for repeat in range(given.repeats + 1):  # the first one warms up
        for name in draw.sample(list(rows), len(rows)):
            began = time.perf_counter()
            vllm.sync()
            synced.append(time.perf_counter() - began)
            work, sampler = rows[name]
            began = time.perf_counter()
            written[name] = work(sampler)
            took = time.perf_counter() - began
            if repeat:
                speeds[name].append(written[name] / took)
                sys.stderr.write(f"{repeat}/{given.repeats} {name}: {took:.1f} s\n")
    lengths = sorted(length(seed, given.cap) for request in asked for seed in request.seeds)
    sys.stdout.write(
        f"{given.problems} problems x 8, {given.model}, {given.dtype} on {given.device}, {torch.get_num_threads()} threads\n"
        f"lengths: median {lengths[len(lengths) // 2]}, mean {statistics.mean(lengths):.0f}, largest {lengths[-1]}\n"
        f"start of vLLM {starting:.1f} s; change of weights, median {1000 * statistics.median(synced):.0f} ms\n\n"
        f"{'':42}{'tokens':>9}{'tokens/s':>10}{'  of the first row of its kind':>30}\n"
    )
    for name in rows:
        ratio = statistics.median(a / b for a, b in zip(speeds[name], speeds[first[name.split(":")[0]]], strict=True))
        sys.stdout.write(f"{name:42}{written[name]:9}{statistics.median(speeds[name]):10.0f}{ratio:30.2f}\n")


def by_seed(vllm: VllmSampler, cap: int) -> None:
    """Give every rollout the length of its seed, whoever serves it."""
    inner, made = vllm._vllm, Job.__init__

    def parameters(**named: Any) -> Any:
        if "seed" in named:  # not the texts of a canary
            named = {**named, "max_tokens": min(named["max_tokens"], length(named["seed"], cap)), "stop_token_ids": None}
        return inner.SamplingParams(**named)

    def job(self: Job, request: Request, room: int, seed: int, rollout: Rollout | None = None) -> None:
        made(self, request, min(room, length(seed, cap)), seed, rollout)

    vllm._vllm = SimpleNamespace(
        SamplingParams=parameters, TokensPrompt=inner.TokensPrompt, sampling_params=inner.sampling_params
    )
    Job.__init__ = job


if __name__ == "__main__":
    main()
