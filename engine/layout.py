"""The layout check: a method's gradient is the one plain autograd gives, however an update is cut up."""

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from transformers import Qwen2Config, Qwen2ForCausalLM

from engine import integrity
from engine.certificate import Check
from engine.forward import Distribution
from engine.settings import Settings
from engine.tokens import Tokens, collate, length
from engine.words import Problem, Rollout, Term, Trajectory, expert, own, replay

REPLAYED = 6  # which of the made-up trajectories was sampled at an earlier update
# Relative difference allowed in gradient norm and in the step. Adam divides rounding noise by tiny gradients.
LAYOUT = {"float32": (1e-4, 1e-3), "bfloat16": (0.01, 0.1)}


def check(trainer_class: type, method: Any, settings: Settings, dtype: str) -> Check:
    """Whether this method's update is that of plain autograd, as one micro-batch, as a few of unequal numbers of trajectories,
    as one per trajectory, and packed.

    Eight made-up trajectories of unequal length after three prompts (guided, unguided, expert, one without advantage) on a
    two-layer model of a few thousand weights, in the live configuration. As one micro-batch they share prompts, as a few they
    do not. Compared: the gradient's norm with that of one padded batch without DeepSpeed and without the engine's counting,
    and the weights after one step with one another.
    """
    trajectories = _trajectories(settings.response_tokens)
    largest = max(map(length, trajectories))
    live = replace(settings, learning_rate=1e-2, warmup_updates=0, clip_gradient=1e9, schedule="constant", temperature=1.0)
    cuts = {"one": 8 * largest, "few": 3 * largest, "eight": 1}
    variants = {name: replace(live, micro_batch_tokens=tokens) for name, tokens in cuts.items()}
    other = "padded" if settings.packed else "packed"
    variants[other] = replace(live, packed=not settings.packed, micro_batch_tokens=cuts["few"])
    start = torch.cat([p.detach().flatten().float() for p in _small_model(dtype).parameters()])
    norm = _plain_norm(method, trajectories, settings, dtype)
    norms, ends = {}, {}
    for name, variant in variants.items():
        trainer = trainer_class(_small_model(dtype), method, variant, pad=0, reference=_small_model(dtype, seed=2))
        trainer.step = 1  # at update 0 a reference that follows is no other model
        norms[name] = trainer.update(trajectories)["grad_norm"]
        ends[name] = integrity.weights(trainer.engine, variant)
        trainer.engine.destroy()  # or its buffers stay for the whole stage
    step = float((ends["one"] - start).norm())
    off_norm = max(abs(found - norm) for found in norms.values()) / norm if norm else math.inf
    off_step = max(float((end - ends["one"]).norm()) for end in ends.values()) / step if step else math.inf
    limits = LAYOUT[dtype]
    failed = not (off_norm <= limits[0] and off_step <= limits[1])
    listed = ", ".join(f"{name} {found:.4g}" for name, found in norms.items())
    remedy = (
        "the engine's counting, this DeepSpeed configuration or the method's masks depend on how an update is cut: compare "
        "the norms above"
    )
    return Check(
        "layout",
        "failed" if failed else "passed",
        f"norm within {off_norm:.0e}, step within {off_step:.0e}" + (f" (autograd {norm:.4g}; {listed})" if failed else ""),
        f"gradient norm within {limits[0]:g} of autograd's, steps within {limits[1]:g} of one another",
        remedy if failed else "",
    )


def _small_model(dtype: str, seed: int = 1) -> Any:
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=False,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen2ForCausalLM(config).to(getattr(torch, dtype))


def _trajectories(limit: int) -> list[Trajectory]:
    """Eight trajectories; (prompt, prefix, written, advantage) say how long they are: one that is longer than two others has
    another prompt than these. `limit` bounds the response."""
    sizes = [(13, 0, 9, 0.5), (12, 3, 5, -0.5), (12, 12, 0, 0.25), (12, 0, 2, 0.0)]
    sizes += [(13, 0, 14, -0.25), (11, 6, 1, 0.75), (13, 0, 3, -0.75), (11, 8, 4, 0.125)]
    found = []
    for i, (begun, shown, written, advantage) in enumerate(sizes):
        prompt = tuple(3 + (5 * begun + 11 * k + k * k) % 61 for k in range(begun))
        tokens = tuple(3 + (7 * i + 11 * k + k * k) % 61 for k in range(4, 4 + shown + written))
        prefix, text = tokens[:shown][:limit], tokens[shown:][:limit]
        rollout = Rollout(prefix, text, (-4.1,) * len(text), 0.0, "stop")
        written_then = replay(text, rollout.logp, advantage) if i == REPLAYED else own(rollout, advantage)
        segments = (expert(prefix, advantage=0.5), written_then)
        found.append(Trajectory(Problem(str(i), prompt, ""), segments))
    return found


def _plain_norm(method: Any, trajectories: list[Trajectory], settings: Settings, dtype: str) -> float:
    """Norm of the gradient of the whole update in one padded batch: an independent reference, so the loss is written out here
    once more instead of asking the trainer for it."""
    model, batch = _small_model(dtype).to(settings.device), collate(trajectories, pad=0)
    moved = {name: v.to(settings.device) for name, v in vars(batch.tokens).items() if isinstance(v, Tensor)}
    t = replace(batch.tokens, **moved)
    input_ids = batch.input_ids.to(settings.device)
    mask = (torch.arange(input_ids.shape[1]) < batch.lengths[:, None]).long().to(settings.device)
    logp_all = torch.log_softmax(model(input_ids=input_ids, attention_mask=mask).logits[:, :-1].float(), dim=-1)
    follows = getattr(method, "reference_every", None) == 1  # then the reference has taken over the weights
    with torch.no_grad():
        reference = _small_model(dtype, seed=1 if follows else 2).to(settings.device)
        reference_logits = reference(input_ids=input_ids, attention_mask=mask).logits[:, :-1]
        reference_all = torch.log_softmax(reference_logits.float(), dim=-1)
    following = input_ids[:, 1:]
    logp, reference_logp = (one.gather(-1, following[..., None]).squeeze(-1) for one in (logp_all, reference_all))
    entropy, read = -(logp_all.exp() * logp_all).sum(-1), {}
    if hasattr(method, "read"):
        found = method.read(Distribution(logp_all.flatten(0, 1), reference_all.flatten(0, 1), following.flatten()))
        read = {name: values.view_as(logp) for name, values in found.items()}
    seen = {"entropy": entropy, "reference_logp": reference_logp, "read": read, "entropy_rank": _ranks(method, entropy, t)}
    t = replace(t, logp=logp, **seen)
    value = method.loss(t)
    loss = logp.sum() * 0.0
    for term in value.values() if isinstance(value, dict) else [Term(value, method.reduce)]:
        counted = t.trained if term.mask is None else term.mask
        count = max(1, term.reduce.count(counted, len(trajectories)))
        loss = loss + term.coefficient * term.reduce.numerator(term.values, counted, settings.response_tokens) / count
    loss.backward()
    return float(torch.nn.utils.get_total_norm([p.grad.float() for p in model.parameters() if p.grad is not None]))


def _ranks(method: Any, entropy: Tensor, t: Tokens) -> Tensor:
    """`entropy_rank` by counting, for each trained expert token, those of its scope with a higher entropy."""
    mask, ranks = t.trained & t.expert, torch.zeros_like(entropy)
    whole = "entropy_rank:step" in getattr(method, "needs", ())
    for row, column in mask.nonzero().tolist():
        among = entropy[mask] if whole else entropy[row, mask[row]]
        ranks[row, column] = (among > entropy[row, column]).float().mean()
    return ranks.detach()
