"""ExGRPO by scripted conversations: what enters the pool and leaves it, what is replayed and when; its two losses by hand."""

import copy
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import methods, record
from engine.explain import Scripted
from engine.explore import context, explore
from engine.tokens import Tokens
from engine.words import Problem, Rollout, Trajectory, own
from tests.conftest import METHODS, TRAIN
from tests.test_relift import assert_resumed_after_every_update


def build(name: str = "exgrpo", preset: str = methods.MATCHED, **settings: Any) -> Any:
    return methods.build(name, {**methods.preset(name, preset, METHODS), **settings}, METHODS)


def problem(name: str) -> Problem:
    return Problem(name, (11, ord(name[0])), name)


class Talk:
    """A run of updates of the problems named; of the rollouts of each the given number is right (`replayed`: of those that are
    asked for beside a stored success). `replays`: it has been switched to replay before."""

    def __init__(self, replays: bool = True, **settings: Any) -> None:
        self.method, self.step = build(**settings), 0
        self.memory: dict[str, Any] = {"replays": True} if replays else {}

    def update(self, replayed: int = 0, **right: int) -> list[Trajectory]:
        here, self.sampler = context(self.step, 20, 0, "", self.memory), Scripted(lambda i: False)
        drawn = self.method.draw([problem(name) for name in right], here)
        assert len({p.id for p in drawn}) == len(drawn) <= len(right)
        self.due = [p.id for p in drawn if p.id in self.memory["due"]]
        self.new = [p.id for p in drawn if p.id not in self.due]
        before = copy.deepcopy(self.memory)

        def reward(pairs: Any) -> list[float]:
            return [float(i < (replayed if p.id in self.due else right[p.id])) for i, (p, _) in enumerate(pairs)]

        found = explore(self.method, drawn, self.sampler, reward, self.step, 20, 0, self.memory).trajectories
        assert self.memory == before  # explorations only read it
        return self.learn(found)

    def learn(self, found: list[Trajectory]) -> list[Trajectory]:
        learned = self.method.update(found, context(self.step, 20, 0, "", self.memory))
        assert learned == found
        assert json.loads(json.dumps(self.memory)) == self.memory
        self.memory = json.loads(json.dumps(self.memory, sort_keys=True))  # as a resume would restore it, whatever the order
        self.step += 1
        return learned


def counts(talk: Talk) -> dict[str, int]:
    """How many of its rollouts were right: problem -> count, for the whole pool."""
    return {name: entry[2] for name, entry in talk.memory["pool"].items()}


def test_one_to_seven_right_enter_the_pool_and_eight_retire() -> None:
    talk = Talk(share=0.0)
    talk.update(a=0, b=1, c=7, d=8)
    assert [request.sample.n for request in talk.sampler.asked] == [8] * 4
    assert counts(talk) == {"b": 1, "c": 7} and talk.memory["retired"] == ["d"]
    talk.update(b=2, c=8, d=8)
    assert talk.new == ["b", "c"]  # the retired one is passed by
    assert counts(talk) == {"b": 2} and talk.memory["retired"] == ["d", "c"]
    kept = talk.memory["pool"]["b"]
    talk.update(b=0)
    assert talk.new == ["b"] and talk.memory["pool"] == {"b": kept}  # none right this time: it stays as it was


def test_replay_begins_above_its_threshold_and_stays() -> None:
    """35 % of the 40 rollouts of five problems are 14. What was right before the switch is not stored, but retires."""
    talk = Talk(replays=False)
    talk.update(a=4, b=8, c=2, d=0, e=0)
    assert talk.memory["retired"] == ["b"]
    talk.update(f=4, g=4, h=4, i=3, j=0)  # 15: above, from the next update on
    assert talk.due == [] and counts(talk) == {}
    talk.update(k=2, l=1, m=0, n=0)
    assert talk.due == [] and counts(talk) == {"k": 2, "l": 1}
    for _ in range(2):
        talk.update(o=0, p=0, q=0, r=0)
        assert sorted(talk.due) == ["k", "l"]
    below = Talk(replays=False)
    for _ in range(3):
        below.update(a=4, b=4, c=4, d=2, e=0)
        assert below.due == [] and counts(below) == {}


@pytest.mark.parametrize("problems", [5, 45, 85])
def test_a_threshold_met_to_the_rollout_does_not_begin_replay(problems: int) -> None:
    """35 % of 40, 360 and 680 rollouts are 14, 126 and 238 right ones, though .35 * 360 is 125.99999999999999."""
    right = round(0.35 * 8 * problems)
    for more, replays in ((0, False), (1, True)):
        talk = Talk(replays=False)
        full, rest = divmod(right + more, 8)
        groups = [written(str(i), [(float(8 * i + k < 8 * full + rest), (-1.0,)) for k in range(8)]) for i in range(problems)]
        talk.learn([trajectory for group in groups for trajectory in group])
        assert talk.memory["replays"] is replays


def test_a_policy_that_is_always_right_or_always_wrong_has_nothing_to_replay() -> None:
    for right in (0, 8):
        talk = Talk()
        for names in ("abcd", "efgh", "abcd"):
            talk.update(**dict.fromkeys(names, right))
            assert talk.due == []
        assert counts(talk) == {}
        assert len(talk.sampler.asked) == (0 if right else 4)  # the last problems came a second time


def test_half_of_an_update_is_replayed_and_the_first_others_are_new() -> None:
    talk = Talk()
    talk.update(a=4, b=4, c=4)
    talk.update(**dict.fromkeys("defghijk", 0))
    assert sorted(talk.due) == ["a", "b", "c"] and talk.new == ["d", "e", "f", "g", "h"]  # four wanted, three there
    talk.update(d=0, e=0, f=0)
    assert len(talk.due) == 1 and talk.new == ["d", "e"]  # half of three
    talk.update(a=0, b=0, c=0, d=0, e=0, f=0)
    assert sorted(talk.due) == ["a", "b", "c"] and talk.new == ["d", "e", "f"]  # none as both
    talk.update(d=0)
    assert talk.due == []


def test_a_replayed_problem_is_seven_new_rollouts_and_its_stored_success() -> None:
    """2 of the 7 new ones are right: with the stored one 3 of 8."""
    talk = Talk()
    talk.update(a=4)
    learned = talk.update(replayed=2, b=1, c=0)
    assert [(request.problem.id, request.sample.n) for request in talk.sampler.asked] == [("b", 8), ("a", 7)]
    group = learned[8:]
    assert {t.problem for t in group} == {Problem("a", (11, ord("a")), "a")} and len(group) == 8
    segments = [t.segments[0] for t in group]
    assert [s.replay for s in segments] == [False] * 7 + [True]
    assert [s.advantage for s in segments] == [5 / 8] * 2 + [-3 / 8] * 5 + [5 / 8]
    assert (segments[7].tokens, segments[7].logp) == ((91, 92, 2), (-1.0, -1.0, -1.0))
    assert segments[7].trained and not segments[7].expert
    assert not any(t.segments[0].replay for t in learned[:8])
    assert counts(talk) == {"a": 3, "b": 1}


@pytest.mark.parametrize(("replayed", "left", "retired"), [(0, {"a": 1}, []), (6, {"a": 7}, []), (7, {}, ["a"])])
def test_a_replayed_problem_is_counted_with_its_stored_success(replayed: int, left: dict, retired: list) -> None:
    talk = Talk()
    talk.update(a=4)
    talk.update(replayed=replayed, b=0, c=0)
    assert talk.due == ["a"] and counts(talk) == left and talk.memory["retired"] == retired


def written(name: str, rollouts: list[tuple[float, tuple[float, ...]]]) -> list[Trajectory]:
    """Trajectories of rollouts with the given rewards and log-probs; each token is its number among the rollouts."""
    made = [Rollout((), (i,) * len(logp), logp, reward, "stop") for i, (reward, logp) in enumerate(rollouts)]
    return [Trajectory(problem(name), (own(r, 0.0),), note=r.reward) for r in made]


def test_the_success_of_highest_mean_logp_is_kept_also_beside_older_ones() -> None:
    talk = Talk(rollouts=4)
    talk.learn(written("a", [(0.0, (-0.1,)), (1.0, (-0.9,)), (1.0, (-0.4, -0.6, -0.5)), (1.0, (-0.8, -0.8))]))
    assert talk.memory["pool"]["a"][2:] == [3, [2, 2, 2], [-0.4, -0.6, -0.5]]  # in the mean, not in the sum
    talk.learn(written("a", [(1.0, (-0.7,)), (0.0, (-0.1,)), (0.0, (-0.1,)), (0.0, (-0.1,))]))
    assert talk.memory["pool"]["a"][2:] == [1, [2, 2, 2], [-0.4, -0.6, -0.5]]
    talk.learn(written("a", [(1.0, (-0.3,)), (0.0, (-0.1,)), (0.0, (-0.1,)), (0.0, (-0.1,))]))
    assert talk.memory["pool"]["a"][2:] == [1, [0], [-0.3]]


def pool(**sizes: int) -> dict[str, list]:
    """So many problems in the bucket k1 ... k7."""
    return {f"{k}-{i}": [[11], "5", int(k[1:]), [2], [-1.0]] for k, size in sizes.items() for i in range(size)}


def test_buckets_are_drawn_by_a_gaussian_however_full_they_are() -> None:
    """Densities exp(-(k - 4)^2 / 2) of 1 to 7, over their sum 2.505950: 4 has .399050, 3 and 5 .242036, 2 and 6 .054005, ..."""
    rng, given = random.Random(0), pool(k1=1, k2=9, k3=1, k4=2, k5=30, k6=1, k7=50)
    drawn = Counter(given[name][2] for _ in range(20_000) for name in build().due(given, 1, rng))
    shares = [drawn[k] / 20_000 for k in range(1, 8)]
    assert shares == pytest.approx([0.004433, 0.054005, 0.242036, 0.399050, 0.242036, 0.054005, 0.004433], abs=0.01)
    assert drawn[1] > 0 and drawn[7] > 0


def test_an_empty_bucket_leaves_its_share_to_the_others() -> None:
    given = pool(k3=2, k4=1)
    for seed in range(20):
        found = build().due(given, 3, random.Random(seed))
        assert sorted(found) == sorted(given)
        assert sorted(build().due(given, 9, random.Random(seed))) == sorted(given)
    firsts = {build().due(given, 1, random.Random(seed))[0] for seed in range(50)}
    assert firsts == set(given)
    assert build().due({}, 3, random.Random(0)) == [] == build().due(given, 0, random.Random(0))


def test_what_is_drawn_does_not_depend_on_the_order_of_the_pool() -> None:
    given = pool(k2=5, k4=5, k5=5)
    other = dict(reversed(given.items()))
    assert list(other) != list(given)
    for seed in range(20):
        assert build().due(given, 4, random.Random(seed)) == build().due(other, 4, random.Random(seed))


# p / recorded p: .4/.5  .6/.4 (own)   .1/.2  .3/.3  .8/.1 (replayed); advantages .5 and .25
def view() -> Tokens:
    logp = torch.tensor([[0.4, 0.6, 1.0], [0.1, 0.3, 0.8]], dtype=torch.float64).log().requires_grad_()
    old = torch.tensor([[0.5, 0.4, 1.0], [0.2, 0.3, 0.1]], dtype=torch.float64).log()
    advantage = torch.tensor([[0.5] * 3, [0.25] * 3], dtype=torch.float64)
    trained = torch.tensor([[True, True, False], [True] * 3])
    replayed = torch.tensor([[False] * 3, [True] * 3])
    nothing = torch.zeros_like(trained)
    return Tokens(logp, old, advantage, nothing, trained, trained, entropy=torch.full_like(advantage, 2.0), replay=replayed)


def test_the_two_losses_by_hand() -> None:
    """Own: -A r with slope -A r, r = .8, 1.5. Replayed: -A w / (w + .1) with slope -A .1 w / (w + .1)^2, w = .5, 1, 8."""
    t = view()
    loss = build().loss(t)
    loss.where(t.trained, 0.0).sum().backward()
    values = [[-0.4, -0.75], [-0.25 * 0.5 / 0.6, -0.25 / 1.1, -0.25 * 8 / 8.1]]
    slopes = [[-0.4, -0.75, 0.0], [-0.25 * 0.05 / 0.36, -0.25 * 0.1 / 1.21, -0.25 * 0.8 / 65.61]]
    torch.testing.assert_close(loss[0, :2], torch.tensor(values[0], dtype=torch.float64))
    torch.testing.assert_close(loss[1], torch.tensor(values[1], dtype=torch.float64))
    torch.testing.assert_close(t.logp.grad, torch.tensor(slopes, dtype=torch.float64))
    released = build(preset="as_released").loss(view())
    torch.testing.assert_close(released["policy"].values, loss)
    entropy = released["entropy"]
    assert entropy.coefficient == 0.001 / 64 and torch.equal(entropy.mask, view().response)
    assert entropy.values.unique().tolist() == [-2.0]


def test_without_replay_it_is_grpo() -> None:
    t, grpo = view(), build("grpo")
    fresh = Tokens(**{**vars(t), "replay": torch.zeros_like(t.expert)})
    assert build().loss(fresh).norm() > 0 and build().reduce == grpo.reduce
    torch.testing.assert_close(build().loss(fresh), grpo.loss(fresh))
    torch.testing.assert_close(build().loss(t)[0], grpo.loss(t)[0])  # own tokens beside a replayed success


def test_a_stage_replays_is_certified_and_resumes_from_any_update(
    spec: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five updates, in a row and stopped after every single one; with `threshold` 0 the first right rollout starts replay."""
    from engine.stage import run

    settings = {"rollouts": 4, "threshold": 0.0}
    shared = {**TRAIN, "updates": 5, "prompts_per_update": 4, "checkpoint_every": 1}
    method = {"name": "exgrpo", "folder": str(METHODS), "settings": settings}
    spec = {**spec, "run": "exgrpo", "stage": "exgrpo", "method": method, "train": shared}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(spec, whole)
    rows = record.read_rows(whole / "metrics.jsonl")
    assert any(row["trained_tokens_own"] > row["sampled_tokens"] for row in rows)  # the stored successes come on top
    assert record.read_json(whole / "certificate.json")["passed"]
    assert_resumed_after_every_update(spec, whole, cut, monkeypatch)
