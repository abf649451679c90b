"""ReLIFT's queue by a scripted conversation, its two kinds of update by hand, and a whole stage of both on the miniature."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import methods, record
from engine.explain import Scripted
from engine.explore import context, explore
from engine.tokens import Tokens
from engine.training import Training
from engine.words import Problem, Trajectory
from tests.conftest import METHODS, TRAIN


def build(name: str = "relift", preset: str = methods.MATCHED, **settings):
    return methods.build(name, {**methods.preset(name, preset, METHODS), **settings}, METHODS)


def problem(name: str) -> Problem:
    number = int(name[1:])
    return Problem(name, (11, number), str(number), ((20 + number, 21 + number, 2),))


class Talk:
    """A run of updates: each explores the problems named; those in capitals have one right rollout, the others none."""

    def __init__(self, **settings: Any) -> None:
        self.method, self.memory, self.step = build(**settings), {}, 0

    def update(self, *names: str) -> list[Trajectory]:
        found = self.explore(*names)
        learned = self.method.update(found, context(self.step, 20, 0, "", self.memory))
        self.memory = json.loads(json.dumps(self.memory))  # as a resume would restore it
        self.step += 1
        return learned

    def explore(self, *names: str) -> list[Trajectory]:
        self.sampler, before = Scripted(lambda i: False), copy.deepcopy(self.memory)

        def reward(pairs: Any) -> list[float]:
            return [float(p.id.isupper() and i == 2) for i, (p, _) in enumerate(pairs)]

        problems = [problem(name) for name in names]
        found = explore(self.method, problems, self.sampler, reward, self.step, 20, 0, self.memory).trajectories
        assert self.memory == before  # or several ranks would refuse it
        return found


def imitated(learned: list[Trajectory]) -> list[str]:
    """Ids of an imitation update, whose every trajectory is the problem's whole demonstration."""
    for t in learned:
        (segment,) = t.segments
        assert segment.expert and segment.trained and segment.advantage == 1.0
        assert (t.problem.prompt, segment.tokens) == (problem(t.problem.id).prompt, problem(t.problem.id).demonstrations[0])
    return [t.problem.id for t in learned]


def test_it_reinforces_its_eight_and_keeps_the_problems_without_a_right_one() -> None:
    talk = Talk()
    learned = talk.update("A1", "b2", "C3", "d4")
    assert [request.sample.n for request in talk.sampler.asked] == [8] * 4
    assert [t.problem.id for t in learned] == ["A1"] * 8 + ["b2"] * 8 + ["C3"] * 8 + ["d4"] * 8
    assert not any(s.expert for t in learned for s in t.segments)
    assert [t.segments[0].advantage for t in learned[:16]] == [-1 / 8] * 2 + [7 / 8] + [-1 / 8] * 5 + [0.0] * 8
    assert [kept[0] for kept in talk.memory["queue"]] == ["b2", "d4"] and "due" not in talk.memory


def test_the_newest_batch_is_imitated_once_and_the_rest_stays() -> None:
    talk = Talk(batch=3)
    assert len(talk.update("b1", "c2")) == 16  # one short
    assert len(talk.update("A3", "B4")) == 16  # nothing new: still one short
    assert talk.explore("d5") and "due" not in talk.memory
    assert len(talk.update("d5", "e6")) == 16  # four: due, the newest in front
    assert imitated(talk.update("f7", "g8")) == ["d5", "e6", "b1"]
    assert talk.sampler.asked == []  # f7 and g8 were passed by
    assert [kept[0] for kept in talk.memory["queue"]] == ["c2"]
    assert len(talk.update("f7", "A3")) == 16  # two: one short again
    assert len(talk.update("A3", "g8")) == 16  # exactly full
    assert talk.memory["queue"] == []
    assert imitated(talk.update("A3")) == ["g8", "f7", "c2"]


def test_more_than_two_batches_are_imitated_in_turn_with_reinforcement() -> None:
    """One imitation after each update by reinforcement, as in the code: the oldest stay while new ones come."""
    talk = Talk(batch=2)
    talk.update("a1", "b2", "c3", "d4", "e5")
    assert imitated(talk.update("f6")) == ["a1", "b2"]
    assert [t.problem.id for t in talk.update("f6")] == ["f6"] * 8
    assert imitated(talk.update("g7")) == ["f6", "c3"]
    assert [kept[0] for kept in talk.memory["queue"]] == ["d4", "e5"]


def test_a_batch_is_as_many_as_an_update_has_problems() -> None:
    talk = Talk()
    talk.update("A1", "b2", "c3", "d4")
    talk.update("A1", "B2", "C3", "D4")
    assert "due" not in talk.memory and len(talk.memory["queue"]) == 3
    talk.update("a5", "B2", "C3", "D4")
    assert imitated(talk.update("A1", "B2", "C3", "D4")) == ["a5", "b2", "c3", "d4"]


def test_a_failed_problem_without_a_demonstration_is_an_error() -> None:
    bare = Problem("bare", (11,), "1")

    def learned(right: bool) -> list[Trajectory]:
        sampler, method = Scripted(lambda i: right), build()
        found = explore(method, [bare], sampler, lambda pairs: [r.reward for _, r in pairs], 0, 1, 0, {}).trajectories
        return method.update(found, context(0, 1, 0, "", {}))

    assert len(learned(True)) == 8  # one that succeeds needs none
    with pytest.raises(ValueError, match="problem 'bare' has 0 demonstration"):
        learned(False)


def test_imitation_has_an_optimizer_of_its_own() -> None:
    talk = Talk(batch=1)
    reinforced = talk.update("A1", "b2")
    imitated = talk.update("A1")
    assert len(reinforced) == 16 and len(imitated) == 1
    names = [talk.method.optimizer(learned) for learned in (reinforced, imitated, talk.update("A1"))]
    assert names[0] == names[2] != names[1]


def terms(method, own: bool) -> dict[str, tuple[float, torch.Tensor]]:
    """Two rows of two tokens, all own or all expert, p = .5 .25 / .8 .1, p_old = .25, A = .5 and -1: term -> loss, slopes."""
    logp = torch.tensor([[0.5, 0.25], [0.8, 0.1]], dtype=torch.float64).log().requires_grad_()
    old, advantage = torch.full_like(logp, 0.25).detach().log(), torch.tensor([[0.5] * 2, [-1.0] * 2], dtype=torch.float64)
    yes = torch.ones(2, 2, dtype=torch.bool)
    t = Tokens(logp, old, advantage, ~yes if own else yes, yes, yes, 0 * logp + 3)
    found = {}
    for name, term in method.loss(t).items():
        count = max(1, term.reduce.count(term.mask, 2))
        value = term.coefficient * term.reduce.numerator(term.values, term.mask, 10) / count
        found[name] = value.item(), torch.autograd.grad(value, logp, retain_graph=True, materialize_grads=True)[0]
    return found


def test_reinforcing_is_grpo_and_imitating_is_sft() -> None:
    """policy = -(.5 * 2 + .5 * 1 - 1 * 3.2 - 1 * .4) / 10 tokens / 2; imitation = -mean(log p) of four tokens."""
    own, expert = terms(build(), True), terms(build(), False)
    assert own["policy"][0] == pytest.approx(2.1 / 20) and own["imitation"][0] == 0
    torch.testing.assert_close(own["policy"][1], torch.tensor([[-1.0, -0.5], [3.2, 0.4]], dtype=torch.float64) / 20)
    assert expert["policy"][0] == 0 and expert["imitation"][0] == pytest.approx(-torch.tensor(0.5 * 0.25 * 0.8 * 0.1).log() / 4)
    torch.testing.assert_close(expert["imitation"][1], torch.full((2, 2), -0.25, dtype=torch.float64))
    released = terms(build(preset="as_released"), False)
    assert released["imitation"][0] == pytest.approx(expert["imitation"][0] / 8)
    assert released["imitation_entropy"][0] == pytest.approx(-0.001 / 8 * 3) and released["entropy"][0] == 0
    reinforced = terms(build(preset="as_released"), True)
    assert reinforced["entropy"][0] == pytest.approx(-0.001 / 64 * 3) and reinforced["imitation_entropy"][0] == 0


class Stopped(Exception):
    """Instead of a kill."""


def assert_resumed_after_every_update(spec: dict, whole: Path, cut: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that ran to its end in `whole`, stopped after every single update in `cut`, ends with the same bits."""
    from engine.stage import run

    step, made = Training.step, []

    def one(self: Training, *given: Any) -> dict[str, Any]:
        if made:
            raise Stopped
        made.append(step(self, *given))
        return made[-1]

    monkeypatch.setattr(Training, "step", one)
    for _ in range(spec["train"]["updates"] - 1):
        with pytest.raises(Stopped):
            run(spec, cut)
        made.clear()
    run(spec, cut)
    for name in ("model/model.safetensors", "metrics.jsonl", "certificate.json"):
        assert record.file_sha256(cut / name) == record.file_sha256(whole / name), name


def test_a_stage_of_both_kinds_is_certified_and_resumes_from_any_update(
    spec: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six updates, once in a row and once stopped after every single one."""
    from engine.stage import run

    method = {"name": "relift", "folder": str(METHODS), "settings": {"rollouts": 2, "batch": 2}}
    shared = {**TRAIN, "updates": 6, "checkpoint_every": 1}
    spec = {**spec, "run": "relift", "stage": "relift", "method": method, "train": shared}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(spec, whole)
    rows = record.read_rows(whole / "metrics.jsonl")
    kinds = ["imitates" if row["trained_tokens_expert"] else "reinforces" for row in rows]
    assert {"imitates", "reinforces"} == set(kinds) and kinds[0] == "reinforces" and len(rows) == 6
    for row, kind in zip(rows, kinds, strict=True):
        samples = kind == "reinforces"
        assert bool(row["sampled_tokens"]) == bool(row["trained_tokens_own"]) == (row["canary"] is not None) == samples
        assert (row["reward"] is None) == (row["ended"] is None) == (row["logp_own"] is None) == (not samples)
        assert samples or row["grad_norm"] > 0
    assert max(row["grad_norm"] for row in rows if row["trained_tokens_own"]) > 0
    certificate = record.read_json(whole / "certificate.json")
    assert certificate["passed"] and {check["status"] for check in certificate["checks"]} == {"passed"}
    assert_resumed_after_every_update(spec, whole, cut, monkeypatch)
