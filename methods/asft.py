"""ASFT: DFT, anchored by a divergence over the whole vocabulary to the model it started from.

Paper        arXiv:2509.23753 (ICLR 2026), v1, eq. 6; the text of its v3 was not read
Code         zhuchichi56/ASFT@6f6f51c, train_v2.py (mode "asft"); LLaMA-Factory@ff6d4d1 is said to have the same. Lines as of
             zhuchichi56/ASFT@42e2560, train_v2.py:146-150 (DFT), train_v2.py:162-176 (reference, KL, sum, mean), train_v2.py:62
             (weight)
Sampling     none; one demonstration per problem
Loss         -sg(p) log p + weight * KL on every expert token, end of sequence included. The gradient of
             KL(reference || policy) on the logits is policy - reference
Denominator  mean over all expert tokens of the update, for both terms; the code's mean is over those of a micro-batch

Paper and code disagree on (fields; `as_paper`, `as_released`):
  anchor       KL(policy || reference), and the other one is said to be worse | KL(reference || policy) in every version
  weight       .05 for mathematics | .1 in the code, .05 in its README
By default the code's direction, which every version of the authors' trainer computes, and the paper's weight. Of v3 others say
that it has come over to the code's direction (unverified). With weight 0 this is DFT, and no reference model is kept. The
authors' README warns that DeepSpeed's numerics can undo such weights; here every stage first compares this loss's gradient
with plain autograd's. Left out: the version for LoRA, which the paper finds weaker.
"""

from dataclasses import dataclass
from typing import ClassVar

from engine.reduce import Denominator, mean_over_tokens
from engine.words import Term, Trajectory, expert


@dataclass(frozen=True)
class Method:
    weight: float = 0.05
    anchor: str = "kl_reference_policy"  # or kl_policy_reference
    reduce: Denominator = mean_over_tokens

    presets: ClassVar = {"as_paper": {"anchor": "kl_policy_reference"}, "as_released": {"weight": 0.1}}

    def __post_init__(self):
        if self.anchor not in ("kl_reference_policy", "kl_policy_reference"):
            raise ValueError(f"anchor {self.anchor!r} is no divergence; use kl_reference_policy or kl_policy_reference")
        if self.weight < 0:
            raise ValueError(f"weight {self.weight} drives the policy away from the reference; use 0 (DFT) or more")

    @property
    def needs(self):
        return ("reference_logp",) if self.weight else ()

    def explore(self, problem, context):
        return [Trajectory(problem, (expert(problem.demonstration()),))]

    def read(self, d):
        if not self.weight:
            return {}
        gap = d.logp - d.reference
        ahead = self.anchor == "kl_policy_reference"
        return {"kl": (d.logp.exp() * gap if ahead else -d.reference.exp() * gap).sum(-1)}

    def loss(self, t):
        terms = {"imitation": Term(-t.logp.detach().exp() * t.logp, self.reduce)}
        if self.weight:
            terms["anchor"] = Term(t.read["kl"], self.reduce, self.weight)
        return terms
