"""One gradient, however it is computed: ranks x micro-batches, ZeRO stage, offload, packing. Real DeepSpeed, real gloo.

Every case is compared with one plain autograd pass over all trajectories, padded into one batch, without DeepSpeed and without
the engine's counting. TOLERANCE bounds the length of the difference of the two gradients relative to the gradient (float32).
"""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import methods, tokens
from engine.reduce import mean_over_tokens, mean_over_trajectories
from engine.settings import Settings
from engine.train import Trainer
from engine.words import Term, Trajectory
from tests.conftest import METHODS, on_two_ranks
from tests.test_train import SETTINGS, plain_gradient, small_model, trajectories

TOLERANCE = 1e-5
CASES = ("sft", "grpo", "luffy-as_paper", "trapo", "trapo-as_released", "streams", "asking")
ENGINES = [(zero, offload) for zero in (0, 1, 2, 3) for offload in (False, True) if zero or not offload]
LAYOUTS = {1: {"1x8": 8, "1x1": 1}, 2: {"2x4": 8, "2+1": 3}}  # ranks -> name -> micro-batches of all ranks together


class Streams:
    """Expert and own tokens as two terms with denominators of their own; most micro-batches lack one of them."""

    def loss(self, t):
        return {
            "imitate": Term(-t.logp, mean_over_tokens, 0.5, mask=t.trained & t.expert),
            "reinforce": Term(-t.advantage * t.logp, mean_over_trajectories, mask=t.trained & ~t.expert),
        }


class Asking:
    """All that a method may ask the engine for: ranks over the whole update, a reference, whole distributions, entropies."""

    reduce = mean_over_tokens
    needs = ("entropy", "reference_logp", "entropy_rank:step")

    def read(self, d):
        tempered = (d.logp.detach() / 1.3).log_softmax(-1).exp()
        return {"cross": -(tempered * d.logp).sum(-1), "kl": (d.reference.exp() * (d.reference - d.logp)).sum(-1)}

    def loss(self, t):
        uncertain = (t.entropy_rank < 0.4) & t.expert
        ratio = (t.logp - t.reference_logp).exp()
        return -ratio * t.entropy.detach() + 0.3 * t.read["cross"] + t.read["kl"] - 2 * t.logp.where(uncertain, 0.0)


class Recording(Trainer):
    """Keeps the gradient that the optimizer is about to step with."""

    gradient: torch.Tensor

    def _step(self) -> float:
        from deepspeed.utils import safe_get_full_grad

        found: list[Any] = [p.grad if self.settings.zero_stage == 0 else safe_get_full_grad(p) for p in self.model.parameters()]
        self.gradient = torch.cat([gradient.flatten().double() for gradient in found])
        return super()._step()


def build(case: str):
    if case in ("streams", "asking"):
        return Streams() if case == "streams" else Asking()
    name, _, preset = case.partition("-")
    return methods.build(name, methods.preset(name, preset or methods.MATCHED, METHODS), METHODS)


def eight() -> list[Trajectory]:
    """Unequal lengths; rows without an expert token, rows without an own one, and a group without advantages."""
    found = [*trajectories(), trajectories()[0]]
    authors = [{s.expert for s in t.segments if s.tokens} for t in found]
    assert {True} in authors and {False} in authors and {True, False} in authors
    return found


def budget(micro_batches: int) -> int:
    """The largest token budget that cuts the eight trajectories into so many micro-batches; a loss that says nothing about one
    of them may have one less."""
    return next(size for size in range(400, 0, -1) if len(tokens.micro_batches(eight(), size, 0)) == micro_batches)


def differences(ranks: int) -> dict[str, float]:
    """For every case, layout, engine and packing: the gradient's difference from autograd's, relative to its length."""
    found = {}
    references = {case: plain_gradient(build(case), eight())[1].double() for case in CASES}
    for case, (name, count), (zero, offload), packed in itertools.product(
        CASES, LAYOUTS[ranks].items(), ENGINES, (False, True)
    ):
        settings = dataclasses.replace(
            SETTINGS, micro_batch_tokens=budget(count), zero_stage=zero, offload=offload, packed=packed
        )
        trainer = Recording(small_model(), build(case), settings, pad=0)
        update = trainer.update(eight())
        assert all(map(torch.isfinite, map(torch.tensor, update["loss"].values())))
        reference = references[case]
        assert reference.norm() > 1e-3
        key = f"{case} {name} ZeRO-{zero}{' offload' * offload} {'packed' if packed else 'padded'}"
        found[key] = float((trainer.gradient - reference).norm() / reference.norm())
    return found


def assert_all_agree(found: dict[str, float], ranks: int) -> None:
    assert len(found) == len(CASES) * len(LAYOUTS[ranks]) * len(ENGINES) * 2
    wrong = {key: value for key, value in found.items() if not value <= TOLERANCE}
    assert not wrong, f"{len(wrong)} of {len(found)}: {dict(list(wrong.items())[:8])}"


def test_one_rank_eight_micro_batches_or_one() -> None:
    assert_all_agree(differences(1), 1)


def test_two_ranks_four_micro_batches_each_or_two_and_one(tmp_path: Path) -> None:
    script = f"""
import json
from engine.distributed import start_distributed
start_distributed("cpu")
from tests.test_equivalence import *
found = differences(2)
if torch.distributed.get_rank() == 0:
    open({str(tmp_path / "found.json")!r}, "w").write(json.dumps(found))
torch.distributed.barrier()
"""
    on_two_ranks(script)
    assert_all_agree(json.loads((tmp_path / "found.json").read_text()), 2)


@pytest.mark.parametrize("bug", ["mean_of_means", "dropped_microbatch"])
def test_the_suite_sees_what_depends_on_the_layout(bug: str) -> None:
    """The same comparison finds each injected bug as soon as there is more than one micro-batch."""
    from engine import bugs

    class Buggy(Recording, bugs.trainer(bug)):
        pass

    settings: Settings = bugs.settings(bug, dataclasses.replace(SETTINGS, micro_batch_tokens=budget(4)))
    reference = plain_gradient(build("sft"), eight())[1].double()
    trainer = Buggy(small_model(), build("sft"), settings, pad=0)
    trainer.update(eight())
    assert float((trainer.gradient - reference).norm() / reference.norm()) > 100 * TOLERANCE
