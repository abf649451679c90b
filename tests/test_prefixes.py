"""Rows that begin alike: what they share is passed once, and log-probs and gradient are those of every row by itself."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from engine import forward, layout, methods, prefixes
from engine.integrity import rows_apart
from engine.tokens import collate, length, micro_batches
from engine.train import Trainer
from engine.words import Problem, Rollout, Trajectory, expert, own
from tests.conftest import METHODS
from tests.test_forward import gradient
from tests.test_train import SETTINGS, assert_same_step, small_model, weights

WIDE = 1 << 20  # of a model so wide that attention costs nothing beside its weights
LONG, SHORT = tuple(range(3, 15)), tuple(range(20, 28))


def trajectory(
    prompt: tuple[int, ...], written: tuple[int, ...], shown: tuple[int, ...] = (), advantage: float = 0.5
) -> Trajectory:
    rollout = Rollout(shown, written, (-4.1,) * len(written), 0.0, "stop")
    return Trajectory(Problem(str(prompt), prompt, "5"), (expert(shown, advantage=0.5), own(rollout, advantage)))


GROUPS = {
    "a prompt": [trajectory(LONG, (k, k + 1, 2)[: 1 + k % 3], advantage=k - 31.5) for k in range(30, 34)],
    "two prompts": [trajectory(LONG if k % 2 else SHORT, (k, k + 1, 2)[: 1 + k % 3]) for k in range(30, 38)],
    "a prompt and one alone": [*(trajectory(LONG, (k, 2)) for k in range(30, 34)), trajectory(SHORT, (8, 9, 10, 2))],
    "a longer one alone": [*(trajectory(SHORT, (k, 2)) for k in range(30, 36)), trajectory(LONG, (8, 9, 10, 2))],
    "what an expert wrote": [trajectory(SHORT, (k, 5), shown=(9, 8, 7, 6, 5, 4)) for k in range(30, 34)],
    "all they have": [trajectory(LONG, (5, 6, 2)) for _ in range(3)],
    "one the beginning of another": [trajectory(LONG, (5, 6, 7, 8)[:n]) for n in (1, 2, 4)],
}


@pytest.mark.parametrize("name", GROUPS)
def test_log_probs_and_gradient_are_plain_autograds(name: str) -> None:
    model, batch = small_model(), collate(GROUPS[name], 0)
    ids, wanted = batch.input_ids, batch.tokens.response
    found = prefixes.split(ids, batch.lengths, wanted, WIDE)
    assert found and found.prefix.numel() + found.rest.numel() < ids.numel()
    logp = model(input_ids=ids).logits[:, :-1].log_softmax(-1)
    expected = [logp.gather(-1, ids[:, 1:, None])[..., 0] * wanted, -(logp.exp() * logp).sum(-1) * wanted]
    scored = forward.score(model, ids, batch.lengths, 1.0, entropy=True, wanted=wanted, reference=small_model())
    assert scored.reference_logp is not None
    for one, other in zip([scored.logp, scored.entropy, scored.reference_logp], [*expected, expected[0]], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    pull = torch.randn((2, *wanted.shape), generator=torch.Generator().manual_seed(3))
    gradients = [gradient(model, (pull * torch.stack(one)).sum()) for one in (expected, forward.inputs(scored))]
    assert gradients[0].norm() > 1
    assert (gradients[1] - gradients[0]).norm() < 2e-6 * gradients[0].norm()


def test_tokens_are_passed_once() -> None:
    """Eight rows of a prompt of 12 and 1 to 3 tokens more: 12 and 8 x 3, not 8 x 15; nothing to gain leaves one pass."""
    batch = collate([trajectory(LONG, (k, k + 1, 2)[: 1 + k % 3]) for k in range(30, 38)], 0)
    found = prefixes.split(batch.input_ids, batch.lengths, batch.tokens.response, WIDE)
    assert found and found.prefix.tolist() == [list(LONG)] and found.rest.shape == (8, 3)
    assert found.positions[0].tolist() == [12, 13, 14]
    apart = collate([trajectory((k, *LONG), (3, 4, 2)) for k in range(30, 38)], 0)
    assert prefixes.split(apart.input_ids, apart.lengths, apart.tokens.response, WIDE) is None
    one = collate([trajectory(LONG, (3, 4, 2))], 0)
    assert prefixes.split(one.input_ids, one.lengths, one.tokens.response, WIDE) is None


@pytest.mark.parametrize(("prompt", "written", "shared"), [(4, 11, True), (4, 13, False)])
def test_two_passes_from_an_eighth_of_the_tokens_on(prompt: int, written: int, shared: bool) -> None:
    """Two rows of P + W: P + 2 W tokens are left of 2 (P + W), 26 of 30, and 30 of 34."""
    rows = [trajectory(LONG[:prompt], tuple(range(first, first + written))) for first in (20, 40)]
    batch = collate(rows, 0)
    assert (prefixes.split(batch.input_ids, batch.lengths, batch.tokens.response, WIDE) is not None) == shared


@pytest.mark.parametrize(("width", "shared"), [(12, False), (13, True)])
def test_attention_costs_too(width: int, shared: bool) -> None:
    """Four rows of 100 + 100: 800 (12 w + 200) in one pass; 100 (12 w + 100) + 400 (12 w + 400) in two, .876 and .874 of it."""
    rows = [trajectory(tuple(range(100)), tuple(range(first, first + 100))) for first in (200, 300, 400, 500)]
    batch = collate(rows, 0)
    assert (prefixes.split(batch.input_ids, batch.lengths, batch.tokens.response, width) is not None) == shared


def test_the_layout_check_shares_as_one_micro_batch_and_not_as_a_few() -> None:
    given = layout._trajectories(1024)
    width = layout._small_model("float32").config.hidden_size
    few = micro_batches(given, 3 * max(map(length, given)), 0)
    assert [len(batch.trajectories) for batch in few] == [3, 3, 2]
    splits = [prefixes.split(b.input_ids, b.lengths, b.tokens.response, width) for b in (collate(given, 0), *few)]
    assert [one is not None for one in splits] == [True, False, False, False]


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_an_update_is_the_one_of_rows_by_themselves(monkeypatch: pytest.MonkeyPatch, stage: int) -> None:
    ends, shares = {}, []
    split = prefixes.split
    for worth in (prefixes.WORTH, 0):
        monkeypatch.setattr(prefixes, "WORTH", worth)
        monkeypatch.setattr(prefixes, "split", lambda *given: shares.append(split(*given)) or shares[-1])
        trainer = Trainer(small_model(), methods.build("grpo", {}, METHODS), replace(SETTINGS, zero_stage=stage), pad=0)
        found = trainer.update(GROUPS["two prompts"][:5] + GROUPS["a prompt"])
        assert found["grad_norm"] > 0.01
        ends[worth] = (found["grad_norm"], weights(trainer))
    assert shares[0] and shares[-1] is None
    assert ends[0][0] == pytest.approx(ends[prefixes.WORTH][0], rel=1e-5)
    assert_same_step(ends[0][1], ends[prefixes.WORTH][1])


def tiny(kind: str, **changed: Any) -> Any:
    """Two layers, two heads that share keys where the architecture can, and dropout nowhere."""
    chosen: dict[str, Any] = {
        "vocab_size": 64,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "head_dim": 8,
    }
    chosen |= {"intermediate_size": 16, "num_key_value_heads": 1, "max_position_embeddings": 64, "pad_token_id": 0}
    chosen |= {"attn_pdrop": 0.0, "embd_pdrop": 0.0, "resid_pdrop": 0.0, "sliding_window": None} if kind == "gpt2" else {}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**chosen, **changed})
    return AutoModelForCausalLM.from_config(config)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", sorted(prefixes.KNOWN))
def test_architectures_that_may_share(kind: str, attention: str) -> None:
    model = tiny(kind, **({"sliding_window": None} if kind in ("mistral", "phi3") else {}), attn_implementation=attention)
    assert prefixes.can_share(model)
    batch = collate(GROUPS["two prompts"], 0)
    ids, wanted = batch.input_ids, batch.tokens.response
    assert prefixes.split(ids, batch.lengths, wanted, model.config.hidden_size)
    logp = model(input_ids=ids).logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    found = forward.score(model, ids, batch.lengths, 1.0, wanted=wanted).logp
    assert found.abs().max() > 1
    torch.testing.assert_close(found, logp * wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "changed"), [("gemma2", {"sliding_window": 8}), ("mistral", {"sliding_window": 8}), ("gpt_neox", {})]
)
def test_windows_and_what_is_not_known_may_not(kind: str, changed: dict[str, Any]) -> None:
    assert not prefixes.can_share(tiny(kind, **changed))


def test_layers_computed_again_and_gathered_weights_may_not() -> None:
    again, gathered = small_model(), small_model()
    again.gradient_checkpointing_enable({"use_reentrant": False})
    next(gathered.parameters()).ds_id = 1  # pyright: ignore[reportAttributeAccessIssue]
    assert prefixes.can_share(small_model()) and not prefixes.can_share(again) and not prefixes.can_share(gathered)


def test_a_model_that_counts_places_in_its_cache_is_refused_before_training(monkeypatch: pytest.MonkeyPatch) -> None:
    """GPT-Neo takes positions as given and masks by place in the cache; were it known, its own texts would give it away."""
    model = tiny("gpt_neo", num_layers=2, num_heads=2, attention_types=[[["global", "local"], 1]], window_size=8)
    texts = [tuple(range(3, 3 + n)) for n in (60, 48, 32)]
    trainer = Trainer(model, methods.build("sft", {}, METHODS), SETTINGS, pad=0)
    assert rows_apart(trainer, texts, "float32").status == "passed"
    monkeypatch.setattr(prefixes, "KNOWN", {"gpt_neo"})
    assert rows_apart(trainer, texts, "float32").status == "failed"
