"""What metrics.jsonl says about an update, against plain torch however it is cut up; measuring changes nothing."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import metrics
from engine.curves import Parts, Weights
from engine.distributed import start_distributed
from engine.reduce import mean_over_tokens, mean_over_trajectories
from engine.tokens import Tokens, collate
from engine.train import Trainer
from engine.words import Problem, Rollout, Term, Trajectory, expert, own
from tests.conftest import on_two_ranks
from tests.test_train import SETTINGS, build, small_model, trajectories, weights

MEASURED = dataclasses.replace(SETTINGS, term_norms_every=1)


class Streams:
    """Own and expert tokens in two terms and a third on all response tokens, two of them with a coefficient."""

    needs = ("entropy",)

    def loss(self, t):
        return {
            "imitate": Term(-t.logp.exp(), mean_over_tokens, 0.5, mask=t.trained & t.expert),
            "reinforce": Term(-t.advantage * t.logp, mean_over_trajectories),
            "explore": Term(-t.entropy, mean_over_tokens, 0.01, mask=t.response),
        }


METHODS: dict[str, Any] = {
    "streams": Streams(),
    **{name: build(name, preset) for name, preset in (("sft", "matched"), ("grpo", "matched"), ("luffy", "matched"))},
    "trapo": build("trapo", "matched"),
    "released": build("trapo", "as_released"),
}
SPARED = ("grpo", "luffy", "trapo")  # whose loss says nothing about the last trajectory, own text without an advantage


def plain(case: str) -> dict[str, Any]:
    """The curves of an update of all trajectories in one padded batch, with a backward pass for each part of the loss. Without
    a pass, log-probs are those of the sampler."""
    method = METHODS[case]
    model, batch = small_model(), collate(trajectories(), 0)
    logp_all = torch.log_softmax(model(input_ids=batch.input_ids).logits[:, :-1], dim=-1)
    logp = logp_all.gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
    t = dataclasses.replace(batch.tokens, logp=logp, entropy=-(logp_all.exp() * logp_all).sum(-1))
    value = method.loss(t)
    terms = value if isinstance(value, dict) else {"loss": Term(value, method.reduce)}
    by_author = {"own": torch.zeros(()), "expert": torch.zeros(())}
    losses: dict[str, torch.Tensor] = {}
    for name, term in terms.items():
        mask = t.trained if term.mask is None else term.mask
        tokens = mask.sum(dim=1, keepdim=True).clamp(min=1) * mask.any(dim=1).sum()
        denominators = {"mean_over_tokens": mask.sum(), "mean_over_trajectories": tokens}
        shares = term.coefficient * term.values * mask / denominators.get(term.reduce.name, torch.tensor(16.0 * len(mask)))
        losses[name] = shares.sum()
        by_author = {"own": by_author["own"] + shares[~t.expert].sum(), "expert": by_author["expert"] + shares[t.expert].sum()}
    parts = by_author | (losses if len(losses) > 1 else {})
    norms = {}
    for name, loss in parts.items():
        found = torch.autograd.grad(loss, list(model.parameters()), retain_graph=True, materialize_grads=True)
        norms[name] = float(torch.cat([gradient.flatten() for gradient in found]).norm())
    told = logp.clone()
    if case in SPARED:
        told[6] = t.old_logp[6]
    means = {"logp_own": told[t.trained & ~t.expert].mean().item(), "logp_expert": logp[t.trained & t.expert].mean().item()}
    return {**means, "grad_norm_by_term": norms}


def assert_agree(found: dict, expected: dict) -> None:
    assert found["grad_norm_by_term"].keys() == expected["grad_norm_by_term"].keys()
    for key in ("logp_own", "logp_expert", "grad_norm_by_term"):
        assert found[key] == pytest.approx(expected[key], rel=1e-5), key


@pytest.mark.parametrize("name", METHODS)
def test_curves_are_plain_torchs_however_the_update_is_cut(name: str) -> None:
    """Packed or padded, in one micro-batch, a few or one per trajectory; tokens of both authors are among them."""
    expected = plain(name)
    norms = expected["grad_norm_by_term"]
    assert max(norms.values()) > 1e-3 and expected["logp_own"] != expected["logp_expert"]
    histograms = []
    for budget, packed in ((10_000, False), (40, False), (40, True), (1, False)):
        settings = dataclasses.replace(MEASURED, micro_batch_tokens=budget, packed=packed)
        found = Trainer(small_model(), METHODS[name], settings, pad=0).update(trajectories())
        assert_agree(found, expected)
        histograms.append(found["expert_weights"])
    assert sum(histograms[0]) == 21 and histograms == [histograms[0]] * len(histograms)


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_measuring_changes_no_bit_of_the_update(zero: int) -> None:
    ends, rows, state = [], [], torch.get_rng_state()
    for every in (0, 1):
        settings = dataclasses.replace(MEASURED, zero_stage=zero, micro_batch_tokens=40, term_norms_every=every)
        trainer = Trainer(small_model(), METHODS["released"], settings, pad=0)
        torch.set_rng_state(state)
        rows.append([trainer.update(trajectories()) for _ in range(3)])
        assert torch.equal(torch.get_rng_state(), state)
        ends.append(weights(trainer))
    measured = [row.pop("grad_norm_by_term") for row in rows[1]]
    assert len({one["own"] for one in measured}) == 3 and min(one["own"] for one in measured) > 1e-3
    assert rows[0] == rows[1] and torch.equal(*ends)


def test_measured_at_the_updates_asked_for_and_never_with_partitioned_weights() -> None:
    for zero, every, updates in ((2, 2, [0, 2]), (2, 0, []), (3, 1, [])):
        settings = dataclasses.replace(MEASURED, zero_stage=zero, term_norms_every=every)
        trainer = Trainer(small_model(), METHODS["trapo"], settings, pad=0)
        rows = [trainer.update(trajectories()) for _ in range(4)]
        assert [i for i, row in enumerate(rows) if "grad_norm_by_term" in row] == updates
        assert all(row["logp_expert"] < 0 and sum(row["expert_weights"]) == 21 for row in rows)


def test_one_author_and_one_term_is_the_whole_gradient() -> None:
    """Without a second look at the model; a second look finds the same."""
    given = [t for t in trajectories() if not t.segments[0].tokens]
    trainer = Trainer(small_model(), METHODS["grpo"], MEASURED, pad=0)
    found = trainer.update(given)
    assert found["grad_norm"] > 1e-3 and found["grad_norm_by_term"] == {"own": found["grad_norm"]}
    assert found["logp_expert"] is None and "expert_weights" not in found

    class Looking(Parts):
        """Measures what needs no measuring."""

        def norms(self, score, parameters):
            return {"own": self._norm(("author", "own"), score, parameters)}

    import engine.train

    trainer = Trainer(small_model(), METHODS["grpo"], MEASURED, pad=0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(engine.train, "Parts", Looking)
        again = trainer.update(given)
    assert again["grad_norm_by_term"] != found["grad_norm_by_term"]
    assert again["grad_norm_by_term"]["own"] == pytest.approx(found["grad_norm"], rel=1e-5)


def test_a_part_that_pulls_nowhere_has_norm_zero() -> None:
    """Own tokens without an advantage: the gradient is the expert's alone."""
    rollout = Rollout((5, 6), (7, 8), (-1.0, -1.0), 1.0, "stop")
    given = [Trajectory(Problem("p", (3, 4), "5"), (expert(rollout.prefix), own(rollout, 0.0)))]
    found = Trainer(small_model(), METHODS["trapo"], MEASURED, pad=0).update(given)
    assert found["grad_norm"] > 1e-3 and found["grad_norm_by_term"] == {"own": 0.0, "expert": found["grad_norm"]}


def test_two_ranks_measure_what_one_does(tmp_path: Path) -> None:
    """Seven micro-batches over two gloo ranks, the last one filling."""
    script = f"""
import dataclasses, json
from tests.test_metrics import *
settings = dataclasses.replace(MEASURED, micro_batch_tokens=1)
found = {{name: Trainer(small_model(), METHODS[name], settings, pad=0).update(trajectories()) for name in METHODS}}
if torch.distributed.get_rank() == 0:
    open({str(tmp_path / "found.json")!r}, "w").write(json.dumps(found))
torch.distributed.barrier()
"""
    on_two_ranks(script)
    together = json.loads((tmp_path / "found.json").read_text())
    assert together.keys() == METHODS.keys()
    for name, found in together.items():
        assert_agree(found, plain(name))
        alone = Trainer(small_model(), METHODS[name], MEASURED, pad=0).update(trajectories())
        assert found["expert_weights"] == alone["expert_weights"]


def view(logp: list[float], **changes: Any) -> Tokens:
    """One row of expert tokens with these log-probs, which carry a gradient."""
    values = torch.tensor([logp], requires_grad=True)
    yes, zeros = torch.ones_like(values, dtype=torch.bool), torch.zeros_like(values)
    fields = {"logp": values * 1.0, "old_logp": zeros, "advantage": zeros + 1, "expert": yes, "trained": yes, "response": yes}
    return Tokens(**{**fields, **changes})


def histogram(loss: Any, t: Tokens) -> dict[int, int]:
    found, value = Weights(), loss(t)
    found.add(t, value if isinstance(value, dict) else {"loss": Term(value, mean_over_tokens)})
    bins = found.measured({"own": 0, "expert": int(t.trained.sum())})["expert_weights"]
    assert len(bins) == 21
    return {i: count for i, count in enumerate(bins) if count}


def test_the_weight_of_an_expert_token_in_its_own_loss() -> None:
    """Probabilities .001, .05, .101, .5, 1 and bins of .05: p / max(p, .1) is .01, .5, 1, 1, 1."""
    start_distributed("cpu")
    p = torch.tensor([0.001, 0.05, 0.101, 0.5, 1.0])
    logp = p.log().tolist()
    assert histogram(METHODS["sft"].loss, view(logp)) == {19: 5}
    assert histogram(METHODS["trapo"].loss, view(logp)) == {0: 1, 9: 1, 19: 3}
    assert (0.1 * p / (p + 0.1) ** 2).tolist() == pytest.approx([0.0098, 0.2222, 0.25, 0.1389, 0.0826], abs=1e-3)
    assert histogram(METHODS["luffy"].loss, view(logp)) == {0: 1, 4: 2, 2: 1, 1: 1}
    assert histogram(lambda t: -3.0 * t.logp, view(logp)) == {20: 5}
    assert histogram(lambda t: t.old_logp, view(logp)) == {0: 5}


def test_weights_add_terms_with_coefficients_and_leave_out_other_inputs_and_untrained_tokens() -> None:
    start_distributed("cpu")
    t = view(
        [-1.0, -1.0, -1.0], trained=torch.tensor([[True, True, False]]), entropy=torch.ones(1, 3, requires_grad=True) * 2.0
    )

    def loss(t):
        first = torch.tensor([[True, False, False]])
        return {
            "imitate": Term(-t.logp, mean_over_tokens, 0.5),
            "more": Term(-t.logp, mean_over_trajectories, 0.22, mask=first),
            "explore": Term(-t.entropy, mean_over_tokens, 7.0, mask=t.response),
        }

    assert histogram(loss, t) == {9: 1, 14: 1}  # .5 and .72


def test_tokens_that_are_not_passed_cost_no_flops() -> None:
    """N = 10: 2 N (50 sampled + 8 scored besides) + 6 N (50 own + 20 of demonstrations - 30 skipped)."""
    counted = {"sampled_tokens": 50, "graded_rollouts": 4, "rounds": 1, "trained_tokens_own": 50, "trained_tokens_expert": 20}
    row = {**counted, "skipped_tokens": 30, "scored_tokens": 8}
    timing = {f"seconds_{phase}": 0.0 for phase in metrics.PHASES}
    assert metrics.costs([row, row], [timing, timing], parameters=10, gpus=0)["flops"] == 2 * (20 * 58 + 60 * 40)
