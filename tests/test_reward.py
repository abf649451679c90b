"""A noisy reward: how many verdicts are turned, that a text is always judged alike, and that evaluation is not touched."""

import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from engine import data, record
from engine.grade import Grader
from engine.reward import Reward
from engine.settings import Settings
from engine.stage import run
from engine.words import Problem, Rollout
from tests.conftest import METHODS, ROOT, TRAIN

TEMPLATE = data.Template.read(ROOT / "config" / "templates" / "miniature.txt")


@pytest.fixture(scope="module")
def pairs() -> list[tuple[Problem, Rollout]]:
    """600 different responses to twenty problems, half of them correct; some have an expert's prefix."""
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "miniature" / "base")
    found = []
    for i in range(600):
        tokens = tuple(tokenizer.encode(f"{i} so \\boxed{{{5 if i % 2 else 6}}}"))
        cut = i % 3
        found.append((Problem(f"p{i % 20}", (), "5"), Rollout(tokens[:cut], tokens[cut:], (), 0.0, "stop")))
    return found


def rewards(pairs: list[tuple[Problem, Rollout]], noise: float, run: int = 0) -> tuple[list[float], int]:
    tokenizer = AutoTokenizer.from_pretrained(ROOT / "miniature" / "base")
    with Grader() as grader:
        reward = Reward(grader, tokenizer, TEMPLATE, noise, run)
        return reward(pairs), reward.flipped


def test_a_share_of_verdicts_is_turned_either_way(pairs) -> None:
    clean, none = rewards(pairs, 0.0)
    assert clean == [float(i % 2) for i in range(600)] and none == 0
    for noise in (0.1, 0.4):
        noisy, flipped = rewards(pairs, noise)
        wrong = [i for i in range(600) if noisy[i] != clean[i]]
        assert flipped == len(wrong) == pytest.approx(600 * noise, abs=4 * (600 * noise * (1 - noise)) ** 0.5)
        assert 0.35 < sum(clean[i] for i in wrong) / len(wrong) < 0.65


def test_the_same_text_is_judged_alike_whatever_it_comes_with(pairs) -> None:
    noisy, _ = rewards(pairs, 0.3)
    order = random.Random(1).sample(range(600), 600)
    shuffled, _ = rewards([pairs[i] for i in order], 0.3)
    assert shuffled == [noisy[i] for i in order]
    whole = [(problem, Rollout((), r.prefix + r.tokens, (), 0.0, "stop")) for problem, r in pairs]
    assert rewards(whole, 0.3)[0] == noisy
    assert rewards(pairs, 0.3, run=1)[0] != noisy
    elsewhere = [(Problem(f"{problem.id}b", (), "5"), rollout) for problem, rollout in pairs]
    assert rewards(elsewhere, 0.3)[0] != noisy


def test_a_stage_counts_what_was_turned_and_one_without_noise_says_nothing(spec: dict, tmp_path: Path) -> None:
    method = {"name": "grpo", "folder": str(METHODS), "settings": {}}
    found = {}
    for noise in (0.0, 0.3):
        run({**spec, "method": method, "train": {**TRAIN, "updates": 2, "reward_noise": noise}}, tmp_path / str(noise))
        found[noise] = record.read_rows(tmp_path / str(noise) / "metrics.jsonl")
    assert len(found[0.0]) == 2 and not any("flipped" in row for row in found[0.0])
    assert all(0 < row["flipped"] < row["graded_rollouts"] for row in found[0.3])
    first, noisy = found[0.0][0], found[0.3][0]
    assert noisy["sampled_tokens"] == first["sampled_tokens"] > 0 and noisy["reward"] != first["reward"]


@pytest.mark.parametrize("noise", [-0.1, 1.0, 1.5])
def test_a_share_that_is_none_is_refused(noise: float) -> None:
    with pytest.raises(ValueError, match=rf"train.reward_noise {noise} is no share of verdicts"):
        Settings(1e-3, 4, reward_noise=noise)
