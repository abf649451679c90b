"""What need not be passed through the model: only what the loss says nothing about, and never all of it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine import bugs, forward
from engine.reduce import mean_over_tokens
from engine.silence import apart
from engine.train import Trainer
from engine.words import Problem, Term, Trajectory
from tests.test_train import SETTINGS, build, small_model, trajectories

SILENT = {"3", "6"}  # of the seven those without a demonstration and without an advantage: 2 and 3 tokens


def policy(t: Any) -> torch.Tensor:
    return -t.advantage * t.logp


def passed(loss: Callable[[Any], Any], given: list[Trajectory]) -> tuple[set[str], list[str]]:
    """Ids of (what is passed, what is not)."""

    def terms(view: Any) -> dict[str, Term]:
        found = loss(view)
        return found if isinstance(found, dict) else {"loss": Term(found, mean_over_tokens)}

    through, rest = apart(given, terms, 0)
    return {t.problem.id for t in through}, [t.problem.id for t in rest]


def surer(logp: float) -> list[Trajectory]:
    """Sampled with that log-prob, every token."""
    found = []
    for t in trajectories():
        shown, written = t.segments
        found.append(dataclasses.replace(t, segments=(shown, dataclasses.replace(written, logp=(logp,) * len(written.tokens)))))
    return found


LOSSES: dict[str, Callable[[Any], Any]] = {
    "a KL term": lambda t: policy(t) + 0.1 * ((t.reference_logp - t.logp).exp() - (t.reference_logp - t.logp) - 1),
    "an entropy bonus": lambda t: policy(t) - 0.01 * t.entropy,
    "the value 0 with a gradient": lambda t: policy(t) - 0.5 * (t.logp - t.logp.detach()),
    "what rose above what sampled it": lambda t: policy(t) + (t.logp - t.old_logp).clamp(min=0),
    "what fell below it": lambda t: policy(t) + (t.old_logp - t.logp - 1).clamp(min=0),
    "little entropy": lambda t: policy(t) + (0.5 - t.entropy).clamp(min=0),
    "much entropy": lambda t: policy(t) + (t.entropy - 2).clamp(min=0),
    "what is read": lambda t: policy(t) + t.read["kl"].where(t.expert.logical_not(), 0.0),
    "a term of its own": lambda t: {"a": Term(policy(t), mean_over_tokens), "b": Term(-t.logp, mean_over_tokens, 0.1)},
}


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("logp", [-4.1, -0.05])
def test_a_loss_that_says_anything_about_a_trajectory_has_it_passed(name: str, logp: float) -> None:
    assert passed(LOSSES[name], surer(logp)) == ({"0", "1", "2", "3", "4", "5", "6"}, [])


@pytest.mark.parametrize("logp", [-4.1, -0.05])
def test_what_has_no_advantage_is_not_passed_where_only_advantages_count(logp: float) -> None:
    """But for the first of them, which the sampler's log-probs are compared on."""
    assert passed(policy, surer(logp)) == ({"0", "1", "2", "3", "4", "5"}, ["6"])
    assert passed(lambda t: -torch.min(t.advantage * t.logp.exp(), t.advantage), surer(logp))[1] == ["6"]

    def two_terms(t: Any) -> dict[str, Term]:
        imitate = Term(-t.logp, mean_over_tokens, mask=t.trained & t.expert)
        return {"imitate": imitate, "reinforce": Term(policy(t), mean_over_tokens)}

    assert passed(two_terms, surer(logp))[1] == ["6"]


def test_where_nothing_says_anything_one_is_passed() -> None:
    silent = [t for t in trajectories() if t.problem.id in SILENT] * 2
    assert passed(policy, silent) == ({"3"}, ["6", "3", "6"])  # also the same trajectory twice
    twice = [dataclasses.replace(t, problem=Problem(f"{i}", t.problem.prompt, "")) for i, t in enumerate(silent)]
    assert passed(policy, twice) == ({"0"}, ["1", "2", "3"])


def rows_passed(method: Any, trainer: type[Trainer] = Trainer) -> tuple[int, dict]:
    """How many rows go through the model in an update, and what the update says."""
    made, rows = trainer(small_model(), method, SETTINGS, pad=0), []
    made.model.model.register_forward_pre_hook(lambda _, args, given: rows.append(len(given["input_ids"])), with_kwargs=True)
    found = made.update(trajectories())
    return sum(rows), found


@pytest.mark.parametrize(
    ("name", "preset", "through"),
    [
        ("grpo", "matched", 6),
        ("luffy", "matched", 6),
        ("trapo", "matched", 6),
        ("luffy", "as_paper", 7),  # entropy
        ("sft", "matched", 7),  # every token
        ("prefix_rft", "matched", 14),  # ranks of entropies are among all tokens, by a pass of their own
    ],
)
def test_updates_of_methods(name: str, preset: str, through: int) -> None:
    rows, found = rows_passed(build(name, preset))
    assert (rows, found["skipped_tokens"]) == (through, 3 if through == 6 else 0)
    assert found["grad_norm"] > 0 and found["trained_tokens"]["own"] == 34


def test_a_bug_is_trained_with_everything() -> None:
    assert rows_passed(build("grpo", "matched"), bugs.trainer("mean_of_means"))[0] == 7


def test_log_probs_of_what_is_not_passed_are_those_it_was_sampled_with() -> None:
    """The curve `logp_own` is over all own tokens: as if the sampler had said what the trainer says."""
    model, found = small_model(), []
    for t in trajectories():
        row = [*t.problem.prompt, *(token for s in t.segments for token in s.tokens)]
        shown, written = t.segments
        logp = forward.plain(model, row, "cpu").tolist()[len(row) - 1 - len(written.tokens) :]
        found.append(dataclasses.replace(t, segments=(shown, dataclasses.replace(written, logp=tuple(logp)))))
    told = [value for t in found for value in t.segments[1].logp]
    update = Trainer(small_model(), build("grpo", "matched"), SETTINGS, pad=0).update(found)
    assert update["skipped_tokens"] == 3 and len(told) == 34
    assert update["logp_own"] == pytest.approx(sum(told) / len(told), abs=1e-5)
