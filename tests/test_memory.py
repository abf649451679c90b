"""Out of memory in the middle of a run: the setting is named, and smaller micro-batches end where larger ones would."""

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from engine import checkpoint, memory, record
from engine.sampler import Request, Sampling
from engine.sampler.transformers import TransformersSampler
from engine.words import Problem, Sample
from tests.conftest import METHODS, ROOT, TRAIN
from tests.test_stage import finish, outcome, start

# Updates after the first checkpoint may take 128 MB of address space more than what the process has. One micro-batch of the
# whole update takes 310 MB, micro-batches of 512 tokens 30 MB (measured).
BOUNDED = """
import resource, sys
from contextlib import contextmanager
from engine import memory, stage
from engine.training import Training
memory.keep = lambda device: None  # what is freed is given back: the limit counts what is in use
timed = Training.timed
@contextmanager
def bounded(self, phase):
    before = resource.getrlimit(resource.RLIMIT_AS)
    if phase == "update" and (self.out / "state").exists():
        size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (size + (128 << 20), before[1]))
    with timed(self, phase):
        yield
    resource.setrlimit(resource.RLIMIT_AS, before)
Training.timed = bounded
sys.exit(stage.main())
"""


def weights(model: Path) -> torch.Tensor:
    return torch.cat([tensor.flatten().double() for _, tensor in sorted(load_file(model / "model.safetensors").items())])


def test_smaller_micro_batches_go_on_after_an_update_ran_out_of_memory(
    spec: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "262144")  # as above
    shared = {**TRAIN, "prompts_per_update": 12, "zero_stage": 0, "micro_batch_tokens": 100_000}
    every = {"entropy": 0.01}  # the loss says something about every trajectory: all are passed through the model
    large = {**spec, "method": {"name": "luffy", "folder": str(METHODS), "settings": every}, "train": shared}
    small = {**large, "train": {**shared, "micro_batch_tokens": 512, "sample_batch_tokens": 4096}}
    whole, out = tmp_path / "whole", tmp_path / "out"
    finish(start(large, whole))
    told = finish(start(large, out, BOUNDED), 1)
    assert re.search(r"error: out of memory with train.micro_batch_tokens 100000 \(.*alloc.*\); lower it", told), told
    assert "Traceback" not in told and [path.name for path in (out / "state").iterdir()] == ["step-000002"]
    assert "resuming after update 2" in finish(start(small, out, BOUNDED))

    first, last = (weights(tmp_path / "base" / "model"), weights(whole / "model"))
    assert (last - first).norm() > 0.1
    assert (weights(out / "model") - last).norm() < 1e-3 * (last - first).norm()
    rows, others = record.read_rows(whole / "metrics.jsonl"), record.read_rows(out / "metrics.jsonl")
    assert len(rows) == 4 and rows[:2] == others[:2]
    assert [row["sampled_tokens"] for row in rows] == [row["sampled_tokens"] for row in others]
    done = record.read_json(out / "done.json")
    assert done["resized"] == [
        {"since_update": 0, "micro_batch_tokens": 100_000, "sample_batch_tokens": 8192},
        {"since_update": 2, "micro_batch_tokens": 512, "sample_batch_tokens": 4096},
    ]
    assert "resized" not in record.read_json(whole / "done.json")
    assert not (out / "state").exists() and outcome(out) != outcome(whole)


def test_what_changes_no_result_is_no_part_of_a_stage(spec: dict) -> None:
    from engine.stage import identity

    other = {"micro_batch_tokens": 256, "sample_batch_tokens": 32, "checkpoint_every": 1}
    assert all(spec["train"][name] != value for name, value in other.items())
    assert identity({**spec, "train": {**spec["train"], **other}}) == identity(spec)
    assert identity({**spec, "train": {**spec["train"], "packed": True}}) != identity(spec)


def test_the_base_stage_does_not_depend_on_training_settings(spec: dict, tmp_path: Path) -> None:
    """Or smaller micro-batches for all runs would change the parent of every checkpoint."""
    from engine.stage import identity

    base = record.read_json(tmp_path / "base" / "done.json")
    again = {**spec, "run": "base", "stage": "base", "method": None, "parent": None}
    again["train"] = {**TRAIN, "micro_batch_tokens": 64}
    assert record.digest(identity(again)) == base["digest"]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore."),
        RuntimeError("[enforce fail at alloc_cpu.cpp:124] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    ],
)
def test_what_allocators_say_becomes_the_setting(error: Exception) -> None:
    said = r"out of memory with train.x 8 \((MemoryError|CUDA.* GiB\.|.*tried to \.\.\.)\); lower it"
    with pytest.raises(ValueError, match=said), memory.bounded("train.x", 8):
        raise error


def test_another_error_stays_what_it_is() -> None:
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"), memory.bounded("train.x", 8):
        torch.mm(torch.ones(2, 3), torch.ones(2, 3))


def test_sampling_names_its_own_setting() -> None:
    """A batch whose cache no machine has: a row of 2^40 numbers per token."""

    class Model(torch.nn.Module):
        config = type("Config", (), {"max_position_embeddings": 1 << 20})
        device = torch.device("cpu")

        def forward(self, **_: object) -> object:
            return torch.empty(1 << 60)

    sampler = TransformersSampler(Model(), Sampling(0, 1, 8, 8, 1.0, 4096))
    sampler.submit(0, Request(Problem("p", (5, 6), "1"), Sample(1), (1,)))
    with pytest.raises(ValueError, match="out of memory with sample_batch_tokens 4096"):
        sampler.step()


def test_resized_says_nothing_of_a_run_that_was_not() -> None:
    row = {"micro_batch_tokens": 512, "sample_batch_tokens": 64}
    assert checkpoint.resized([]) == checkpoint.resized([row, row]) == {}
    found = checkpoint.resized([row, row, {**row, "micro_batch_tokens": 256}, row])
    assert [one["since_update"] for one in found["resized"]] == [0, 2, 3]


FAULTS = """
import resource, sys, torch
from engine import memory
memory.keep(sys.argv[1])
faults = []
for _ in range(24):
    torch.ones(1 << 24)
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(faults[23] - faults[15])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_what_an_update_frees_is_kept_for_the_next_one() -> None:
    """64 MiB are 16,384 pages, which the system hands out each time; or 32 where it deals in pages of 2 MiB. Kept, they are
    handed out a few times, until the heap has a place for them."""
    kept, given_back = (
        int(subprocess.run([sys.executable, "-c", FAULTS, device], cwd=ROOT, capture_output=True, text=True, check=True).stdout)
        for device in ("cpu", "cuda")
    )
    assert kept < 16 < given_back
