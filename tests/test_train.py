"""The update on real DeepSpeed against one plain torch backward pass: however it is cut up, it is the same gradient."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import Qwen2Config, Qwen2ForCausalLM

from engine import methods
from engine.curves import Drift
from engine.forward import Distribution
from engine.reduce import mean_over_tokens
from engine.settings import Settings
from engine.tokens import collate
from engine.train import Trainer
from engine.words import Problem, Rollout, Term, Trajectory, expert, own
from tests.conftest import METHODS, ROOT, on_two_ranks

SETTINGS = Settings(learning_rate=1e-2, updates=4, clip_gradient=1e9, response_tokens=16, term_norms_every=0)


def small_model() -> Qwen2ForCausalLM:
    torch.manual_seed(1)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=False,
    )
    return Qwen2ForCausalLM(config)


def trajectories() -> list[Trajectory]:
    """Unequal lengths; guided, unguided and wholly expert ones; a group with zero advantages."""
    generator = torch.Generator().manual_seed(5)

    def draw(n: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, 64, (n,), generator=generator).tolist())

    found = []
    for i, (prompt, shown, written, advantage) in enumerate(
        [
            (4, 0, 9, 0.5),
            (6, 3, 5, -0.5),
            (5, 12, 0, 0.0),
            (3, 0, 2, 0.0),
            (7, 0, 14, -0.25),
            (4, 6, 1, 0.75),
            (9, 0, 3, 0.0),
        ]
    ):
        rollout = Rollout(draw(shown), draw(written), (-4.1,) * written, 0.0, "stop")
        problem = Problem(str(i), draw(prompt), "5")
        found.append(Trajectory(problem, (expert(rollout.prefix, advantage=0.5), own(rollout, advantage))))
    return found


def weights(trainer: Trainer) -> torch.Tensor:
    import deepspeed

    parameters = list(trainer.model.parameters())
    with deepspeed.zero.GatheredParameters(parameters if trainer.settings.zero_stage == 3 else []):
        return torch.cat([p.detach().flatten().double() for p in parameters])


def assert_same_step(a: torch.Tensor, b: torch.Tensor) -> None:
    """Two weights reached by the same step, up to 0.1 % of its length: Adam divides rounding noise by tiny gradients."""
    start = torch.cat([p.detach().flatten().double() for p in small_model().parameters()])
    assert (b - start).norm() > 0.1
    assert (a - b).norm() < 1e-3 * (b - start).norm()


def plain_gradient(method, given: list[Trajectory]) -> tuple[float, torch.Tensor]:
    """Loss and gradient of the whole update in one padded batch, without DeepSpeed and without the engine's counting."""
    model, batch = small_model(), collate(given, 0)
    logits = model(input_ids=batch.input_ids, attention_mask=(batch.input_ids != 0).long()).logits[:, :-1]
    logp_all = torch.log_softmax(logits, dim=-1)
    logp = logp_all.gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
    entropy, mask = -(logp_all.exp() * logp_all).sum(-1), batch.tokens.trained & batch.tokens.expert
    higher = (entropy[mask][None] > entropy[..., None]).float().mean(-1).where(mask, 0.0)
    read = {}
    if hasattr(method, "read"):  # the reference is the model itself
        flat = logp_all.flatten(0, 1)
        read = method.read(Distribution(flat, flat.detach(), batch.input_ids[:, 1:].flatten()))
    seen = {"entropy_rank": higher.detach(), "read": {name: values.view_as(logp) for name, values in read.items()}}
    t = dataclasses.replace(batch.tokens, logp=logp, entropy=entropy, reference_logp=logp.detach(), **seen)
    value = method.loss(t)
    terms = value if isinstance(value, dict) else {"loss": Term(value, method.reduce)}
    loss = torch.zeros(())
    for term in terms.values():
        mask = t.trained if term.mask is None else term.mask
        count = term.reduce.count(mask, len(given))
        loss = loss + term.coefficient * term.reduce.numerator(term.values, mask, 16) / count
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


CASES = [("sft", "matched"), ("grpo", "matched"), ("luffy", "as_paper"), ("trapo", "matched"), ("trapo", "as_released")]


def build(name: str, preset: str):
    return methods.build(name, methods.preset(name, preset, METHODS), METHODS)


@pytest.mark.parametrize(("name", "preset"), CASES)
def test_loss_and_gradient_norm_equal_a_plain_backward_however_the_update_is_cut(name: str, preset: str) -> None:
    method = build(name, preset)
    loss, gradient = plain_gradient(method, trajectories())
    assert gradient.norm() > 1e-3
    after = []
    for budget in (10_000, 40, 1):  # one micro-batch, a few, one per trajectory
        trainer = Trainer(small_model(), method, dataclasses.replace(SETTINGS, micro_batch_tokens=budget), pad=0)
        found = trainer.update(trajectories())
        total = sum(v * {"entropy": getattr(method, "entropy", 0)}.get(k, 1) for k, v in found["loss"].items())
        assert total == pytest.approx(loss, rel=1e-5)
        assert found["grad_norm"] == pytest.approx(float(gradient.norm()), rel=1e-5)
        assert found["trained_tokens"] == {"own": 34, "expert": 21}
        after.append(weights(trainer))
    for other in after[1:]:
        assert_same_step(other, after[0])


@pytest.mark.parametrize("stage", [0, 1, 3])
def test_zero_stages_agree(stage: int) -> None:
    method = build("trapo", "matched")
    results = {}
    for zero in (2, stage):
        trainer = Trainer(small_model(), method, dataclasses.replace(SETTINGS, micro_batch_tokens=40, zero_stage=zero), pad=0)
        norms = [trainer.update(trajectories())["grad_norm"] for _ in range(2)]
        assert min(norms) > 1e-3
        results[zero] = weights(trainer)
    assert_same_step(results[stage], results[2])


def test_activations_computed_again_make_the_same_update() -> None:
    """And they are computed again: each layer runs twice in an update."""
    method, updated, calls = build("trapo", "matched"), {}, {}
    for again in (False, True):
        trainer = Trainer(small_model(), method, dataclasses.replace(SETTINGS, gradient_checkpointing=again), pad=0)
        count = []
        trainer.model.model.layers[0].self_attn.register_forward_hook(lambda *_, count=count: count.append(1))
        assert trainer.update(trajectories())["grad_norm"] > 0
        updated[again], calls[again] = weights(trainer), len(count)
    assert calls[True] == 2 * calls[False] > 0
    assert_same_step(updated[True], updated[False])


def test_two_ranks_make_the_update_of_one(tmp_path: Path) -> None:
    """Seven trajectories in seven micro-batches over two gloo ranks: the last rank's last micro-batch is filling."""
    script = f"""
import dataclasses, json, sys
from tests.test_train import *
trainer = Trainer(small_model(), build("trapo", "as_released"), dataclasses.replace(SETTINGS, micro_batch_tokens=1), pad=0)
found = trainer.update(trajectories())
if torch.distributed.get_rank() == 0:
    torch.save(weights(trainer), {str(tmp_path / "weights.pt")!r})
    open({str(tmp_path / "found.json")!r}, "w").write(json.dumps(found))
torch.distributed.barrier()
"""
    on_two_ranks(script)
    trainer = Trainer(small_model(), build("trapo", "as_released"), SETTINGS, pad=0)
    alone = trainer.update(trajectories())
    together = json.loads((tmp_path / "found.json").read_text())
    assert alone["grad_norm"] > 1e-3 and alone["skipped_tokens"] == 0
    assert together["grad_norm"] == pytest.approx(alone["grad_norm"], rel=1e-5)
    assert together["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert_same_step(torch.load(tmp_path / "weights.pt"), weights(trainer))


def test_an_update_without_trained_tokens_changes_nothing_and_says_so() -> None:
    trainer = Trainer(small_model(), build("sft", "matched"), SETTINGS, pad=0)
    before = weights(trainer)
    for nothing in ([], [Trajectory(Problem("p", (3, 4), "5"), (expert((5,), trained=False),))]):
        assert trainer.update(nothing)["trained_tokens"] == {"own": 0, "expert": 0}
    assert torch.equal(weights(trainer), before)
    assert trainer.update(trajectories())["grad_norm"] > 0


def test_a_device_that_is_not_there_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("a GPU is there")
    with pytest.raises(ValueError, match="no GPU is visible"):
        Trainer(small_model(), build("sft", "matched"), dataclasses.replace(SETTINGS, device="cuda"), pad=0)


def test_a_non_finite_loss_is_refused() -> None:
    class Broken:
        reduce = build("sft", "matched").reduce

        def loss(self, t):
            return t.logp * float("inf")

    with pytest.raises(FloatingPointError, match="not finite"):
        Trainer(small_model(), Broken(), SETTINGS, pad=0).update(trajectories())


def test_two_updates_are_those_of_plain_adamw_with_schedule_weight_decay_and_clipping() -> None:
    """Warm-up doubles the second rate; the gradient is clipped to a tenth of its norm."""
    method = build("sft", "matched")
    _, gradient = plain_gradient(method, trajectories())
    clip = float(gradient.norm()) / 10
    settings = dataclasses.replace(SETTINGS, warmup_updates=2, weight_decay=0.1, clip_gradient=clip, micro_batch_tokens=40)
    trainer = Trainer(small_model(), method, settings, pad=0)
    assert [trainer.update(trajectories())["lr"] for _ in range(2)] == [0.005, 0.01]

    model = small_model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=settings.betas, weight_decay=0.1)
    for rate in (0.005, 0.01):
        optimizer.zero_grad()
        batch = collate(trajectories(), 0)
        logp_all = torch.log_softmax(model(input_ids=batch.input_ids).logits[:, :-1], dim=-1)
        logp = logp_all.gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
        (-logp[batch.tokens.trained].sum() / batch.tokens.trained.sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
    assert_same_step(weights(trainer), torch.cat([p.detach().flatten().double() for p in model.parameters()]))


def test_a_mask_that_follows_the_policy_is_refused() -> None:
    class Chooser:
        def loss(self, t):
            return {"likely": Term(-t.logp, mean_over_tokens, mask=t.trained & (t.logp > -4.0))}

    with pytest.raises(ValueError, match="masks changed with the policy"):
        Trainer(small_model(), Chooser(), SETTINGS, pad=0).update(trajectories())


def test_drift_is_of_fresh_rollouts_at_the_sampling_temperature_and_keeps_a_nan() -> None:
    """`old_logp` is -4.1 everywhere: the drift is the largest and mean |logp + 4.1| over own tokens of the fresh rows."""
    settings = dataclasses.replace(SETTINGS, temperature=0.5, micro_batch_tokens=40)
    for fresh in (lambda t: True, lambda t: t.problem.id in ("0", "4")):
        trainer = Trainer(small_model(), build("grpo", "matched"), settings, pad=0)
        rows = [t for t in trajectories() if fresh(t) and t.problem.id != "6"]  # that one is not passed
        batch = collate(rows, 0)
        logits = small_model()(input_ids=batch.input_ids).logits[:, :-1] / 0.5
        logp = torch.log_softmax(logits, dim=-1).gather(-1, batch.input_ids[:, 1:, None]).squeeze(-1)
        own_tokens = batch.tokens.response & ~batch.tokens.expert
        apart = (logp.detach() + 4.1)[own_tokens].abs()
        found = trainer.update(trajectories(), fresh)["logp_drift"]
        assert apart.max() > 0.1
        assert found == pytest.approx({"largest": float(apart.max()), "mean": float(apart.mean())}, rel=1e-4)
    drift = Drift(lambda t: True)
    for value in (0.0, float("nan"), 0.0):
        view = dataclasses.replace(batch.tokens, logp=torch.full_like(batch.tokens.logp, value))
        drift.add(view, rows)
    found = drift.measured()
    assert found and found["largest"] != found["largest"]


def test_learning_rate_schedules() -> None:
    cosine = Settings(learning_rate=1.0, updates=10, schedule="cosine", warmup_updates=2)
    assert [round(cosine.rate(s), 3) for s in (0, 1, 2, 6, 9)] == [0.5, 1.0, 1.0, 0.55, 0.134]
    assert Settings(learning_rate=2.0, updates=10).rate(9) == 2.0


def test_a_trainer_starts_without_the_compiler() -> None:
    """It took a sixth of a stage's start (engine/distributed.py). In a process of its own, for others may have loaded it."""
    script = """
import sys, torch
compiling = torch.compile
from tests.test_train import *
Trainer(small_model(), build("sft", "matched"), SETTINGS, pad=0)
print("deepspeed" in sys.modules, "torch._inductor.compile_fx" in sys.modules, torch.compile is compiling)
"""
    found = subprocess.run([sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, text=True, capture_output=True, check=True)
    assert found.stdout.splitlines()[-1] == "True False True"
