"""What methods may ask of the engine: steps of a demonstration, ranks of entropies, whole distributions, a reference, and
optimizer states of their own. Which problems are explored: tests/test_supply.py."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import forward, ranking
from engine.reduce import mean_over_tokens
from engine.reference import Reference
from engine.tokens import collate
from engine.train import Trainer
from engine.words import Problem, Rollout, Term, Trajectory, expert, own, replay
from tests.test_train import SETTINGS, small_model, trajectories, weights


def test_steps_are_paragraphs_joined_evenly_or_equal_stretches(problem: Problem) -> None:
    """Blank lines after tokens 4 and 7 of ten; the second demonstration has none."""
    assert problem.steps(5) == (4, 7, 10)
    assert problem.steps(2) == (4, 10)
    assert problem.steps(1) == (10,)
    assert problem.steps(4, demonstration=1) == (2, 5, 7, 10)
    assert problem.steps(99, demonstration=1) == tuple(range(1, 11))
    assert Problem("p", (1,), "", ((5, 6, 20),), ((2,),)).steps(2) == (1, 3)  # a blank line at the very end divides nothing


def test_a_replayed_segment_keeps_its_log_probs_and_is_marked() -> None:
    """predicted 12 21 31 32: an expert token, then two that were sampled earlier."""
    t = collate([Trajectory(Problem("p", (11, 12), ""), (expert((21,)), replay((31, 32), (-0.5, -0.25), 2.0)))], 0).tokens
    assert t.replay is not None and t.replay.tolist() == [[False, False, True, True]]
    assert t.old_logp.tolist() == [[0, 0, -0.5, -0.25]] and t.advantage.tolist() == [[0, 1, 2, 2]]
    assert not t.expert[0, 2:].any() and t.trained[0, 2:].all()


def test_ranks_count_the_higher_entropies_of_their_scope() -> None:
    """Two micro-batches; x is not masked:  [3 1 2 x] [x x 5 x] | [4 4 0 x]."""
    entropies = [torch.tensor([[3.0, 1, 2, 9], [9, 9, 5, 9]]), torch.tensor([[4.0, 4, 0, 9]])]
    masks = [torch.tensor([[1, 1, 1, 0], [0, 0, 1, 0]]).bool(), torch.tensor([[1, 1, 1, 0]]).bool()]
    alone = ranking.shares_above(entropies, masks, "trajectory")
    torch.testing.assert_close(alone[0], torch.tensor([[0, 2 / 3, 1 / 3, 0], [0, 0, 0, 0]]))
    torch.testing.assert_close(alone[1], torch.tensor([[0, 0, 2 / 3, 0]]))  # equal ones share a rank
    together = ranking.shares_above(entropies, masks, "step")  # 5 4 4 3 2 1 0
    torch.testing.assert_close(together[0], torch.tensor([[3 / 7, 5 / 7, 4 / 7, 0], [0, 0, 0, 0]]))
    torch.testing.assert_close(together[1], torch.tensor([[1 / 7, 1 / 7, 6 / 7, 0]]))
    (none,) = ranking.shares_above([torch.ones(1, 2)], [torch.zeros(1, 2).bool()], "step")
    assert none.tolist() == [[0, 0]]


class Uncertain:
    """Weighs the uncertain tokens of demonstrations."""

    needs: tuple[str, ...] = ("entropy_rank:step", "reference_logp")
    reduce = mean_over_tokens

    def loss(self, t: Any) -> torch.Tensor:
        return -t.logp * t.entropy_rank


def test_an_update_without_trajectories_has_no_ranks() -> None:
    found = Trainer(small_model(), Uncertain(), SETTINGS, pad=0).update([])
    assert found["trained_tokens"] == {"own": 0, "expert": 0} and found["grad_norm"] == 0


def test_the_pass_for_ranks_asks_neither_the_reference_nor_the_method() -> None:
    trainer, passes = Trainer(small_model(), Uncertain(), SETTINGS, pad=0), []
    assert trainer.reference
    trainer.reference.model.register_forward_hook(lambda *_: passes.append(1))
    trainer.update(trajectories())
    assert len(passes) == len(trainer._cut(trajectories()))


def test_distributions_are_read_padded_as_packed_with_the_reference_beside() -> None:
    batch = collate(trajectories()[:3], 0)
    real = torch.arange(batch.input_ids.shape[1])[None] < batch.lengths[:, None]

    def read(d: forward.Distribution) -> dict[str, torch.Tensor]:
        assert d.reference is not None and d.logp.exp().sum(-1).allclose(torch.ones(len(d.token)))
        at = torch.arange(len(d.token))
        return {"same": d.logp[at, d.token], "kl": (d.reference.exp() * (d.reference - d.logp)).sum(-1)}

    model, other = small_model(), small_model()
    with torch.no_grad():
        other.lm_head.weight.mul_(3)
    found = [forward.score(model, batch.input_ids, batch.lengths, 0.7, True, packed, other, read) for packed in (False, True)]
    reference = forward.score(other, batch.input_ids, batch.lengths, 0.7).logp
    for one in found:
        mask = real[:, 1:]
        torch.testing.assert_close(one.read["same"][mask], one.logp[mask])
        assert one.reference_logp is not None and not one.reference_logp.requires_grad
        torch.testing.assert_close(one.reference_logp[mask], reference[mask])
        assert (one.read["kl"][mask] > 0).all()
        torch.testing.assert_close(one.read["kl"][mask], found[0].read["kl"][mask])
        assert [values.shape for values in forward.inputs(one)] == [one.logp.shape] * 4
    with pytest.raises(ValueError, match=r"'kl' of shape \(1,\); one value per position"):
        forward.score(model, batch.input_ids, batch.lengths, 1.0, read=lambda d: {"kl": d.logp.sum()[None]})


@dataclasses.dataclass(frozen=True)
class Away:
    """Pulls the policy from its reference: the loss says how far it is."""

    reference_every: int | None = None
    needs = ("reference_logp",)
    reduce = mean_over_tokens

    def loss(self, t: Any) -> torch.Tensor:
        return (t.logp - t.reference_logp) + 0 * t.old_logp


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_the_reference_is_the_start_or_what_the_policy_was_some_updates_ago(zero: int) -> None:
    """Five updates that lower every log-prob: the distance grows from 0, and with `every` 2 starts again at updates 2 and 4."""
    settings = dataclasses.replace(SETTINGS, zero_stage=zero, learning_rate=1e-3)
    distances = {}
    for every in (None, 2):
        trainer = Trainer(small_model(), Away(every), settings, pad=0)
        distances[every] = [trainer.update(trajectories())["loss"]["loss"] for _ in range(5)]
    assert distances[None][0] == pytest.approx(0, abs=1e-6) and distances[None][1] < -1e-3
    assert sorted(distances[None], reverse=True) == distances[None]
    assert trainer.passes == 1
    assert [abs(d) < 1e-6 for d in distances[2]] == [True, False, True, False, True]
    assert distances[2][1] == pytest.approx(distances[None][1], rel=1e-4)


def test_a_saved_reference_comes_back_by_way_of_the_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file says which GPU wrote it, the first rank's; every rank reads it."""
    reference, asked, read = Reference(small_model(), 2), [], torch.load
    with torch.no_grad():
        reference.model.lm_head.weight.mul_(3)
    Trainer(small_model(), Away(), SETTINGS, pad=0)  # a process group
    reference.save(tmp_path)
    other = Reference(small_model(), 2)
    monkeypatch.setattr(torch, "load", lambda *a, **chosen: asked.append(chosen["map_location"]) or read(*a, **chosen))
    other.load(tmp_path)
    assert asked == ["cpu"] and torch.equal(other.model.lm_head.weight, reference.model.lm_head.weight)


class Kinds:
    """Imitation and reinforcement in turn, each with moments of its own."""

    reduce = mean_over_tokens
    optimizers = ("reinforce", "imitate")

    def optimizer(self, given: Sequence[Trajectory]) -> str:
        return "imitate" if given[0].segments[0].expert else "reinforce"

    def loss(self, t: Any) -> torch.Tensor:
        return -t.logp


def kind(which: str) -> list[Trajectory]:
    tokens = (5, 6, 7, 2) if which == "imitate" else (9, 3, 2)
    segment = expert(tokens) if which == "imitate" else own(Rollout((), tokens, (-1.0,) * len(tokens), 1.0, "stop"), 1.0)
    return [Trajectory(Problem(which, (11, 12), ""), (segment,))]


@pytest.mark.parametrize("zero", [0, 1, 2, 3])
@pytest.mark.parametrize("offload", [False, True])
def test_kinds_of_updates_have_moments_of_their_own(zero: int, offload: bool) -> None:
    """The weights are those of two AdamWs that take turns on them, as in published code; one AdamW leads elsewhere."""
    if offload and not zero:
        pytest.skip("without ZeRO there is nothing to offload")
    settings = dataclasses.replace(SETTINGS, zero_stage=zero, offload=offload, learning_rate=1e-3, clip_gradient=1e9)
    turns = ("imitate", "imitate", "reinforce", "imitate", "reinforce")
    trainer = Trainer(small_model(), Kinds(), settings, pad=0)
    for which in turns:
        trainer.update(kind(which))
    found = weights(trainer)

    def taking_turns(shared: bool) -> torch.Tensor:
        """Plain torch, one optimizer for both kinds or one for each."""
        model = small_model()
        names = ["all"] if shared else ["imitate", "reinforce"]
        adams = {
            name: torch.optim.AdamW(model.parameters(), lr=1e-3, betas=settings.betas, weight_decay=settings.weight_decay)
            for name in names
        }
        for which in turns:
            batch = collate(kind(which), 0)
            logits = model(input_ids=batch.input_ids).logits[:, :-1]
            logp = torch.log_softmax(logits, -1).gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
            model.zero_grad()
            (-logp[batch.tokens.trained].mean()).backward()
            adams["all" if shared else which].step()
        return torch.cat([p.detach().flatten() for p in model.parameters()])

    start = torch.cat([p.detach().flatten() for p in small_model().parameters()])
    apart, together = taking_turns(False), taking_turns(True)
    assert (apart - start).norm() > 0.1 and (apart - together).norm() > 0.05 * (apart - start).norm()
    assert (found - apart).norm() < 1e-3 * (apart - start).norm()


def test_an_optimizer_state_that_was_not_declared_is_named() -> None:
    class Other(Kinds):
        def optimizer(self, given: Sequence[Trajectory]) -> str:
            return "other"

    trainer = Trainer(small_model(), Other(), SETTINGS, pad=0)
    with pytest.raises(ValueError, match="returned 'other', which is none of its `optimizers`: reinforce, imitate"):
        trainer.update(kind("imitate"))


@pytest.mark.parametrize("scope", ["trajectory", "step"])
def test_an_update_without_anything_to_rank_leaves_the_weights_alone(scope: str) -> None:
    class Ranking(Away):
        needs = ("reference_logp", f"entropy_rank:{scope}")

        def loss(self, t: Any) -> torch.Tensor:
            return -t.logp.where(t.entropy_rank < 0.5, 0.0)

    trainer = Trainer(small_model(), Ranking(), SETTINGS, pad=0)
    before = weights(trainer)
    assert trainer.update([])["trained_tokens"] == {"own": 0, "expert": 0} and weights(trainer).equal(before)
    assert trainer.update(kind("reinforce"))["grad_norm"] > 0  # no expert token among them
    assert trainer.update(trajectories())["grad_norm"] > 0


def test_what_the_engine_cannot_provide_is_named() -> None:
    class Wanting(Away):
        needs = ("logits",)

    with pytest.raises(ValueError, match=r"needs \['logits'\]; the engine can provide: entropy, reference_logp, entropy_rank"):
        Trainer(small_model(), Wanting(), SETTINGS, pad=0)

    class Twice(Uncertain):
        needs = ("entropy_rank:step", "entropy_rank:trajectory")

    with pytest.raises(ValueError, match="entropies have ranks of one scope, keep one of them"):
        Trainer(small_model(), Twice(), SETTINGS, pad=0)


def test_terms_may_use_what_is_read_before_anything_is_known() -> None:
    """Counting asks for a method's terms before any forward pass."""

    class Reads(Away):
        def read(self, d: Any) -> dict[str, torch.Tensor]:
            return {"surprise": -d.logp.sum(-1)}

        def loss(self, t: Any) -> dict[str, Term]:
            return {"all": Term(t.read["surprise"] + t.reference_logp, mean_over_tokens, mask=t.trained & ~t.replay)}

    found = Trainer(small_model(), Reads(), SETTINGS, pad=0).update(trajectories())
    assert found["grad_norm"] > 0


def test_what_is_read_and_detached_is_a_weight_and_a_replayed_rollout_does_not_drift() -> None:
    class Weighed(Away):
        def read(self, d: Any) -> dict[str, torch.Tensor]:
            return {"weight": d.logp.detach().exp().amax(-1)}

        def loss(self, t: Any) -> torch.Tensor:
            return -t.read["weight"] * t.logp

    settings = dataclasses.replace(SETTINGS, term_norms_every=1)
    again = Trajectory(Problem("p", (11, 12), ""), (replay((31, 32), (-0.5, -0.25), 2.0),))
    found = Trainer(small_model(), Weighed(), settings, pad=0).update([again, *kind("imitate")])
    assert found["logp_drift"] is None
    assert min(found["grad_norm_by_term"].values()) > 0
