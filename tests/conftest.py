"""What several tests share: the folder of real data beside the repository, a tiny model, and made-up problems."""

import os

os.environ["DS_ACCELERATOR"] = "cpu"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a test process per core: spinning threads would slow each other

import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from engine import record
from engine.sampler import Request
from engine.words import Problem, Rollout

ROOT = Path(__file__).parents[1]
METHODS = ROOT / "methods"
SHARED = ROOT.parent / "shared"


TRAIN = {
    "updates": 4,
    "prompts_per_update": 3,
    "learning_rate": 1e-3,
    "schedule": "constant",
    "warmup_updates": 0,
    "weight_decay": 0.0,
    "betas": [0.9, 0.999],
    "clip_gradient": 1.0,
    "temperature": 1.0,
    "max_prompt_tokens": 64,
    "max_response_tokens": 64,
    "micro_batch_tokens": 512,
    "sample_batch_tokens": 8192,
    "ranks": 1,
    "zero_stage": 2,
    "checkpoint_every": 2,
    "min_finished": 0.5,
    "dtype": "float32",
    "device": "cpu",
}


class Lockstep:
    """A sampler that gives nothing back before everything asked of it is done."""

    def __init__(self, inner: Any) -> None:
        self.inner, self.asked = inner, 0

    def submit(self, key: int, request: Request) -> None:
        self.asked += 1
        self.inner.submit(key, request)

    def step(self) -> list[tuple[int, list[Rollout]]]:
        found = []
        while len(found) < self.asked:
            found += self.inner.step()
        self.asked = 0
        return found


def assert_answered(requests: list[Request], groups: list[list[Rollout]], limit: int) -> None:
    """Rollouts continue the prefix they were given, within the response limit, and stop at the end of sequence (1) alone."""
    for request, group in zip(requests, groups, strict=True):
        for rollout in group:
            assert rollout.prefix == request.sample.prefix and len(rollout.tokens) == len(rollout.logp)
            assert len(rollout.prefix) + len(rollout.tokens) <= limit
            if rollout.finish_reason == "stop":
                assert rollout.tokens[-1] == 1 and 1 not in rollout.tokens[:-1]


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens at."""
    with ExitStack() as held:
        found = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in found:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in found]


# As a stage's ranks do (engine/ranks.py): Python's own way out now and then aborts one of several.
LEAVE = """
import os, sys
sys.stdout.flush()
os._exit(0)
"""


def on_two_ranks(script: str) -> list[str]:
    """What a script prints on each of two gloo ranks, both of which must succeed."""
    where = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_ports(1)[0])}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script + LEAVE],
            cwd=ROOT,
            text=True,
            stdout=subprocess.PIPE,
            env={**os.environ, **where, "RANK": str(rank), "LOCAL_RANK": str(rank), "OMP_NUM_THREADS": "1"},
        )
        for rank in (0, 1)
    ]
    printed = [rank.communicate(timeout=400)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], printed
    return printed


@pytest.fixture(scope="session")
def shared() -> Path:
    if not SHARED.is_dir():
        pytest.skip("skipped: the folder `shared` with real data and golden numbers is not beside the repository")
    return SHARED


@pytest.fixture
def problem() -> Problem:
    """Prompt 11 12 13 14; two demonstrations of ten tokens, each ending with 2; token 20 stands for a blank line."""
    first = (21, 22, 23, 20, 24, 25, 20, 26, 27, 2)
    second = (31, 32, 33, 34, 35, 36, 37, 38, 39, 2)
    return Problem("p", (11, 12, 13, 14), "5", (first, second), ((3, 6), ()))


@pytest.fixture
def spec(tmp_path: Path) -> dict:
    """A TRAPO stage of four updates; its parent is the base model, published as a stage."""
    from engine.stage import run
    from miniature.world import training_rows

    rows = [row for row, _ in zip(training_rows(), range(12), strict=False)]
    record.write_rows(tmp_path / "train.jsonl", rows)
    base = {
        "run": "base",
        "seed": 0,
        "stage": "base",
        "inject": None,
        "sampler": "transformers",
        "method": None,
        "parent": None,
        "model": {"path": str(ROOT / "miniature" / "base")},
        "data": str(tmp_path / "train.jsonl"),
        "template": str(ROOT / "config" / "templates" / "miniature.txt"),
        "train": TRAIN,
    }
    run(base, tmp_path / "base")
    method = {"name": "trapo", "folder": str(METHODS), "settings": {}}
    return {**base, "run": "trapo", "stage": "trapo", "method": method, "parent": str(tmp_path / "base")}
