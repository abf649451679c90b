"""DAPO by hand: what a score is, which groups are kept and how many are asked for, and where its two clips act."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import methods, record
from engine.explain import example
from engine.explore import Limits, context
from engine.tokens import Tokens
from engine.words import Context, Rollout, Trajectory
from tests.conftest import METHODS, TRAIN
from tests.test_relift import assert_resumed_after_every_update

LIMIT = 20  # of the response, in tokens


def build(preset: str = methods.MATCHED, **settings: Any) -> Any:
    return methods.build("dapo", {**methods.preset("dapo", preset, METHODS), **settings}, METHODS)


def here(explored: int = 0) -> Context:
    return dataclasses.replace(context(0, 20, 0, "", {}, 0, Limits(LIMIT, 3)), explored=explored)


def explored(method: Any, rollouts: list[tuple[float, int]]) -> list[Trajectory]:
    """What a problem whose rollouts are (reward, length) is answered with."""
    talk = method.explore(example(), here())
    sample = next(talk)
    assert (sample.n, sample.prefix) == (len(rollouts), ())
    with pytest.raises(StopIteration) as stop:
        talk.send([Rollout((), (5,) * length, (-1.0,) * length, reward, "stop") for reward, length in rollouts])
    return stop.value.value


def advantages(found: list[Trajectory]) -> list[float]:
    assert all(len(t.segments) == 1 and t.segments[0].trained and not t.segments[0].expert for t in found)
    return [t.segments[0].advantage for t in found]


def test_the_score_falls_in_the_last_fifth_of_the_limit() -> None:
    """Of 20 tokens the last 4 are the buffer. Scores 1, -1 - 0 / 4, 1 - 1 / 4 and -1 - 4 / 4: mean -.3125, standard deviation
    sqrt((1.3125^2 + .6875^2 + 1.0625^2 + 1.6875^2) / 3) = 1.434326."""
    found = advantages(explored(build(group=4), [(1.0, 3), (0.0, 16), (1.0, 17), (0.0, 20)]))
    assert found == pytest.approx([0.915064, -0.479319, 0.740766, -1.176511], abs=1e-5)
    without = advantages(explored(build(group=4, buffer=0.0), [(1.0, 3), (0.0, 16), (1.0, 17), (0.0, 20)]))
    assert without == pytest.approx([0.866025, -0.866025] * 2, abs=1e-5)  # 1 and -1 over sqrt(4 / 3)


@pytest.mark.parametrize(
    ("preset", "free"),
    [(methods.MATCHED, 16), ("seven_b", 10)],  # a fifth of 20 and half of it
)
def test_the_overlong_penalty_starts_behind_the_edge_of_its_buffer(preset: str, free: int) -> None:
    method = build(preset)
    assert [method.penalty(length, LIMIT) for length in (0, free - 1, free)] == [0, 0, 0]
    assert method.penalty(free + 1, LIMIT) == pytest.approx(-1 / (LIMIT - free))
    assert method.penalty(LIMIT, LIMIT) == pytest.approx(-1)


def test_groups_of_one_kind_are_dropped_and_one_other_rollout_keeps_a_group() -> None:
    """Right and wrong decide, not the score: an overlong rollout among right ones does not keep its group."""
    for reward in (0.0, 1.0):
        assert explored(build(), [(reward, 3)] * 15 + [(reward, 20)]) == []
        kept = explored(build(), [(reward, 3)] * 15 + [(1 - reward, 3)])
        assert len(kept) == 16 and advantages(kept)[15] == pytest.approx(15 / 4 * (1 - 2 * reward), abs=1e-4)
    assert advantages(explored(build("seven_b"), [(0.0, 3)] * 16)) == [0.0] * 16
    shaped = advantages(explored(build("seven_b"), [(1.0, 3)] * 15 + [(1.0, 20)]))
    assert shaped[0] == pytest.approx(1 / 4, abs=1e-4) and shaped[15] == pytest.approx(-15 / 4, abs=1e-4)


class Talk:
    """Updates of three problems, in batches that keep as many groups as the script says."""

    def __init__(self, **settings: Any) -> None:
        self.method = build(group=2, **settings)

    def update(self, *kept: int) -> tuple[list[int], int]:
        """What was asked for after each batch, and how many trajectories the update trains on; every batch has to be used."""
        found, asked, count = [], [], 3
        script = iter(kept)
        total = 0
        while count:
            total += count
            for i in range(next(script)):
                rollouts = [(1.0, 1), (0.0, total + i)]  # lengths tell the groups apart
                found += explored(self.method, rollouts)
            count = self.method.wanting(found, here(total))
            asked.append(count)
        assert not list(script)
        learned = self.method.update(found, here(total))
        assert learned == found[: len(learned)]  # in order of arrival
        return asked, len(learned)


def test_batches_are_asked_for_until_enough_groups_are_kept() -> None:
    talk = Talk(buffer=0.0)
    assert talk.update(3) == ([0], 6)
    assert talk.update(2, 1) == ([3, 0], 6)  # one short, then exactly enough
    assert talk.update(2, 3) == ([3, 0], 6)  # the two groups too many are dropped
    assert talk.update(0, 0, 1, 0, 2) == ([3, 3, 3, 3, 0], 6)


def test_after_ten_batches_the_update_trains_on_what_was_found() -> None:
    talk = Talk(buffer=0.0)
    assert talk.update(*[0] * 9, 3) == ([3] * 9 + [0], 6)
    assert talk.update(*[0] * 9, 1) == ([3] * 9 + [0], 2)
    assert talk.update(*[0] * 10) == ([3] * 9 + [0], 0)
    assert Talk(buffer=0.0, batches=2).update(1, 1) == ([3, 0], 4)


def test_without_dynamic_sampling_nothing_is_asked_for_or_dropped() -> None:
    method = build("seven_b", group=2)
    found = explored(method, [(1.0, 1), (0.0, 1)]) + explored(method, [(0.0, 1), (0.0, 1)])
    assert len(found) == 4 and method.wanting(found, here(3)) == 0
    assert method.update(found, here(3)) == found


# (advantage, ratio, loss, its slope in log p): -min(A r, A clip(r, .8, 1.28)), and at most -10 A where A < 0
CLIPS = [
    (1.0, 0.5, -0.5, -0.5),
    (1.0, 0.79, -0.79, -0.79),  # below .8 a rewarded token is pulled up all the same
    (1.0, 1.27, -1.27, -1.27),
    (1.0, 1.29, -1.28, 0.0),
    (-1.0, 0.79, 0.8, 0.0),
    (-1.0, 0.81, 0.81, 0.81),
    (-1.0, 1.29, 1.29, 1.29),  # above 1.28 a punished token is pushed down all the same
    (-1.0, 9.9, 9.9, 9.9),
    (-1.0, 10.1, 10.0, 0.0),
    (-0.5, 10.1, 5.0, 0.0),
    (1.0, 10.1, -1.28, 0.0),
    (0.0, 10.1, 0.0, 0.0),
]


def view(rows: list[tuple[float, float, float, float]]) -> Tokens:
    advantage, ratio = torch.tensor([row[:2] for row in rows], dtype=torch.float64).T[:, None]
    yes = torch.ones_like(advantage, dtype=torch.bool)
    logp = (ratio.log() - 3).requires_grad_()
    return Tokens(logp, torch.full_like(ratio, -3.0), advantage, ~yes, yes, yes)


def test_both_clips_by_hand() -> None:
    t = view(CLIPS)
    loss = build().loss(t)
    loss.sum().backward()
    torch.testing.assert_close(loss, torch.tensor([[row[2] for row in CLIPS]], dtype=torch.float64))
    torch.testing.assert_close(t.logp.grad, torch.tensor([[row[3] for row in CLIPS]], dtype=torch.float64))


def test_below_the_dual_clip_it_is_the_corrected_grpo() -> None:
    t = view([row for row in CLIPS if row[1] < 10])
    corrected = methods.build("grpo", methods.preset("grpo", "corrected", METHODS), METHODS)
    loss = build().loss(t)
    assert loss.norm() > 0 and build().reduce == corrected.reduce
    torch.testing.assert_close(loss, corrected.loss(t))


@pytest.mark.parametrize("settings", [{"group": 1}, {"buffer": 1.5}, {"buffer": -0.1}])
def test_settings_that_cannot_be_are_refused(settings: dict) -> None:
    with pytest.raises(ValueError, match="choose"):
        build(**settings)


def test_a_stage_samples_until_groups_are_mixed_and_resumes_from_any_update(
    spec: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four updates of three problems, in a row and stopped after every single one."""
    from engine.stage import run

    shared = {**TRAIN, "checkpoint_every": 1}
    method = {"name": "dapo", "folder": str(METHODS), "settings": {"group": 4}}
    spec = {**spec, "run": "dapo", "stage": "dapo", "method": method, "train": shared}
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(spec, whole)
    rows = record.read_rows(whole / "metrics.jsonl")
    assert max(row["graded_rollouts"] for row in rows) > 3 * 4  # more than one batch
    assert all(row["graded_rollouts"] % (3 * 4) == 0 and row["graded_rollouts"] <= 10 * 3 * 4 for row in rows)
    assert all(row["sampled_tokens"] >= row["trained_tokens_own"] > 0 and row["grad_norm"] > 0 for row in rows)
    assert record.read_json(whole / "certificate.json")["passed"]
    assert_resumed_after_every_update(spec, whole, cut, monkeypatch)
