"""What methods may ask of the engine: steps of a demonstration, ranks of entropies, whole distributions, a reference, a second
stream, further problems, a selection, and optimizer states of their own."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import forward, ranking
from engine.explain import Scripted
from engine.explore import Limits, context
from engine.reduce import mean_over_tokens
from engine.reference import Reference
from engine.supply import MOST, Supply, explored, selected
from engine.tokens import collate
from engine.train import Trainer
from engine.words import Problem, Rollout, Sample, Term, Trajectory, expert, own, replay
from tests.test_train import SETTINGS, small_model, trajectories, weights

PROBLEMS = [Problem(f"p{i}", (11, i), str(i), ((20 + i, 21 + i, 2),)) for i in range(12)]


def reward(pairs: Sequence[tuple[Problem, Rollout]]) -> list[float]:
    return [rollout.reward for _, rollout in pairs]


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


def test_problems_of_the_streams_come_in_orders_of_their_own() -> None:
    supply = Supply(PROBLEMS, run=3, size=4, second=0.5)
    ids = [problem.id for step in range(3) for problem in supply.batch(step)]
    assert sorted(ids) == sorted(p.id for p in PROBLEMS) != ids  # one epoch, shuffled
    assert [p.id for p in Supply(PROBLEMS, 3, 4).batch(1)] == ids[4:8]  # whatever else a method asks for
    second = [p.id for step in range(6) for p in supply.second(step)]
    assert sorted(second) == sorted(ids) and second != ids
    assert not Supply(PROBLEMS, 3, 4).second(0)
    further = [p.id for p in supply.further(0, 4, 6)]
    assert [p.id for p in supply.further(0, 6, 4)] == further[2:] and further != ids[4:10]
    assert [p.id for p in supply.further(1, 4, 6)] != further


def test_what_is_kept_is_trained_on_in_the_runs_order_and_again_from_the_start() -> None:
    supply = Supply(PROBLEMS, run=3, size=4)
    order = [p.id for step in range(3) for p in supply.batch(step)]
    assert [p.id for p in supply.pool(2)] == order[:8]
    kept = [order[6], order[1], order[3]]
    supply.keep(kept)
    expected = [order[1], order[3], order[6]]
    assert [p.id for p in supply.batch(0)] == [*expected, expected[0]]
    assert [p.id for p in supply.batch(1)] == [*expected[1:], *expected[:2]]
    other = Supply(PROBLEMS, 3, 4, second=1.0)
    other.keep(kept)
    assert {p.id for p in other.second(0)} <= {*kept} >= {p.id for p in other.further(0, 4, 6)}  # nor from elsewhere
    with pytest.raises(ValueError, match="kept none of the problems"):
        Supply(PROBLEMS, 3, 4).keep([])


class Even:
    """Keeps problems with an even number after sampling each twice."""

    def keep(self, problem: Problem, context: Any):
        rollouts = yield Sample(2)
        return len(rollouts) == 2 and int(problem.answer) % 2 == 0


def test_selection_asks_once_of_every_problem_the_run_would_see() -> None:
    supply = Supply(PROBLEMS, 3, 4)
    found = selected(Even(), supply, Scripted(lambda i: True), reward, updates=2)
    pool = [p.id for p in supply.pool(2)]
    assert found["of"] == 8 and found["graded_rollouts"] == 16 and found["sampled_tokens"] == 48 and found["rounds"] == 1
    assert found["kept"] == [i for i in pool if int(i[1:]) % 2 == 0] and 0 < len(found["kept"]) < 8


def test_a_selection_is_not_made_with_the_rollouts_of_the_first_update() -> None:
    supply, chosen, trained = Supply(PROBLEMS, 3, 4), Scripted(lambda i: True), Scripted(lambda i: True)
    selected(Even(), supply, chosen, reward, updates=1)
    explored(Filling(batches=1), supply, trained, reward, 0, 1, {})
    both = [{(r.problem.id, seed) for r in one.asked for seed in r.seeds} for one in (chosen, trained)]
    assert {i for i, _ in both[0]} == {i for i, _ in both[1]} and not both[0] & both[1]


def test_what_a_method_draws_is_explored_instead() -> None:
    class Drawing(Filling):
        def draw(self, problems: list[Problem], context: Any) -> list[Problem]:
            draws.append(context.rng.random())
            return [*problems[2:], PROBLEMS[0]]

    draws: list[float] = []
    method, supply = Drawing(batches=0), Supply(PROBLEMS, 3, 4)
    explored(method, supply, Scripted(lambda i: True), reward, 0, 1, {})
    assert [problem for problem, *_ in method.seen] == [*(p.id for p in supply.batch(0)[2:]), "p0"]
    assert draws != [context(0, 1, 3, "", {}).rng.random()]  # what its `update` would draw


@dataclasses.dataclass(frozen=True)
class Filling:
    """Keeps problems on which its one rollout is right, and wants others for those it drops, at most `batches` of them."""

    batches: int = 3
    second: float = 0.0
    seen: list = dataclasses.field(default_factory=list)

    def explore(self, problem: Problem, context: Any):
        self.seen.append((problem.id, context.second, context.rng.random()))
        (rollout,) = yield Sample(1)
        return [Trajectory(problem, (own(rollout, 1.0),), note=rollout.reward)] if rollout.reward else []

    def wanting(self, found: list[Trajectory], context: Any) -> int:
        return 4 - len(found) if context.explored < 4 * self.batches else 0


def test_further_problems_are_explored_until_the_method_has_enough() -> None:
    method, supply = Filling(), Supply(PROBLEMS, 3, 4)
    found = explored(method, supply, Scripted(lambda i: i % 2 == 1), reward, 0, 1, {})
    assert [t.note for t in found.trajectories] == [1.0] * 4
    ids = [p.id for p in supply.batch(0)] + [p.id for p in supply.further(0, 4, len(method.seen) - 4)]
    assert [seen[0] for seen in method.seen] == ids and len(ids) == 8 == len(found.rollouts)
    assert found.sampled_tokens == 3 * 8 and found.rounds == 4  # 4 problems, 2 more, 1 more, 1 more
    assert len({draw for *_, draw in method.seen}) == 8  # also of a problem that is drawn twice


def test_problems_explored_again_in_an_update_are_sampled_anew_and_nothing_is_prepared_twice() -> None:
    """Twelve explorations of five problems: repetitions within and across the batches of one update."""
    method, sampler, calls = Filling(), Scripted(lambda i: False), []
    explored(method, Supply(PROBLEMS[:5], 3, 4), sampler, reward, 0, 1, {}, prepare=lambda: calls.append(1))
    assert len(method.seen) == 12 and len({problem for problem, *_ in method.seen}) == 5
    assert len({draw for *_, draw in method.seen}) == 12 == len({request.seeds for request in sampler.asked})
    assert calls == [1]


def test_no_update_explores_what_another_may_want_further() -> None:
    supply = Supply(PROBLEMS, run=3, size=4)
    assert supply.further(0, 4 * MOST, 6) == supply.further(1, 0, 6)


def test_a_budget_ends_it_and_a_method_that_never_has_enough_is_stopped() -> None:
    hopeless = Scripted(lambda i: False)
    method = Filling()
    assert not explored(method, Supply(PROBLEMS, 3, 4), hopeless, reward, 0, 1, {}).trajectories
    assert len(method.seen) == 12
    with pytest.raises(ValueError, match=r"wants 4 problems more than .* does its wanting\(\) ever return 0"):
        explored(Filling(batches=MOST + 1), Supply(PROBLEMS, 3, 4), hopeless, reward, 0, 1, {})


def test_the_second_stream_is_explored_with_the_first_and_says_so() -> None:
    method, supply = Filling(second=0.5), Supply(PROBLEMS, 3, 4, second=0.5)
    calls: list[int] = []
    explored(method, supply, Scripted(lambda i: True), reward, 0, 1, {}, prepare=lambda: calls.append(1))
    assert [(i, second) for i, second, _ in method.seen] == [
        *((p.id, False) for p in supply.batch(0)),
        *((p.id, True) for p in supply.second(0)),
    ]
    assert calls == [1]
    here = context(1, 4, 0, "", {}, limits=Limits(7, 3, spent=0.5))
    assert (here.response_tokens, here.problems, here.progress) == (7, 3, 0.5) and not here.second and here.explored == 0
    assert context(3, 4, 0, "", {}, limits=Limits(spent=0.5)).progress == 0.75


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
    again = Trajectory(PROBLEMS[0], (replay((31, 32), (-0.5, -0.25), 2.0),))
    found = Trainer(small_model(), Weighed(), settings, pad=0).update([again, *kind("imitate")])
    assert found["logp_drift"] is None
    assert min(found["grad_norm_by_term"].values()) > 0
