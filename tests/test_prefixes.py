"""Rows that begin alike: what they share is passed once, and log-probs and gradient are those of every row by itself."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from transformers import Gemma2Config, Gemma2ForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from engine import forward, layout, methods, prefixes
from engine.tokens import collate
from engine.train import Trainer
from engine.words import Problem, Rollout, Trajectory, expert, own
from tests.conftest import METHODS
from tests.test_forward import gradient
from tests.test_train import SETTINGS, assert_same_step, small_model, weights

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
    found = prefixes.split(ids, batch.lengths, wanted)
    assert found and found.prefix.numel() + found.rest.numel() <= prefixes.WORTH * ids.numel()
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
    found = prefixes.split(batch.input_ids, batch.lengths, batch.tokens.response)
    assert found and found.prefix.tolist() == [list(LONG)] and found.rest.shape == (8, 3)
    assert found.positions[0].tolist() == [12, 13, 14]
    apart = collate([trajectory((k, *LONG), (3, 4, 2)) for k in range(30, 38)], 0)
    assert prefixes.split(apart.input_ids, apart.lengths, apart.tokens.response) is None
    one = collate([trajectory(LONG, (3, 4, 2))], 0)
    assert prefixes.split(one.input_ids, one.lengths, one.tokens.response) is None


@pytest.mark.parametrize(("prompt", "written", "shared"), [(4, 12, True), (4, 13, False)])
def test_two_passes_from_an_eighth_of_the_tokens_on(prompt: int, written: int, shared: bool) -> None:
    """Two rows of P + W: P + 2 W tokens are left of 2 (P + W), 28 of 32, and 30 of 34."""
    rows = [trajectory(LONG[:prompt], tuple(range(first, first + written))) for first in (20, 40)]
    batch = collate(rows, 0)
    assert (prefixes.split(batch.input_ids, batch.lengths, batch.tokens.response) is not None) == shared


def test_the_layout_check_of_every_stage_shares() -> None:
    batch = collate(layout._trajectories(1024), 0)
    assert prefixes.split(batch.input_ids, batch.lengths, batch.tokens.response)


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


SIZES: dict[str, Any] = {"vocab_size": 64, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
SIZES |= {"intermediate_size": 16, "num_key_value_heads": 2, "head_dim": 8}


def test_only_where_keys_and_values_say_all() -> None:
    assert prefixes.can_share(small_model())
    assert prefixes.can_share(LlamaForCausalLM(LlamaConfig(**SIZES)))
    assert not prefixes.can_share(Gemma2ForCausalLM(Gemma2Config(**SIZES, sliding_window=8)))
    again = small_model()
    again.gradient_checkpointing_enable({"use_reentrant": False})
    assert not prefixes.can_share(again)


def test_positions_that_are_learned_are_those_of_the_row() -> None:
    """GPT-2 adds an embedding of the position, of which there are no more than the longest row has."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=64, n_positions=16, n_embd=16, n_layer=2, n_head=2)).eval()
    batch = collate(GROUPS["a prompt and one alone"], 0)
    ids, wanted = batch.input_ids, batch.tokens.response
    assert prefixes.split(ids, batch.lengths, wanted) and prefixes.can_share(model)
    logp = model(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None])[..., 0]
    found = forward.score(model, ids, batch.lengths, 1.0, wanted=wanted).logp
    torch.testing.assert_close(found, logp * wanted, rtol=1e-5, atol=1e-5)
