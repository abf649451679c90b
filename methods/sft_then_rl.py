"""SFT, then RL as arXiv:2604.23747 corrected it: the pipeline whose second stage is not LUFFY's GRPO but that paper's own.

Paper        arXiv:2604.23747, as transcribed by others: 62.5 on the five benchmarks where TRAPO prints 56.6 (three seeds)
Stages       `sft` is the very checkpoint of the method sft, which the bugs found in that paper no longer reach; `rl` is GRPO
             with its preset `corrected`: clip .2 below and .28 above, mean over all tokens, no KL, no standard deviation, no
             entropy bonus
Batch 64 and lr 5e-5 cosine (sft), 500 updates of 128 problems and lr 1e-6 (rl) are the run's. Two steps per batch of rollouts
are one here, so the clip never acts.
"""

from engine.reduce import mean_over_tokens
from engine.words import Stage

RL = {"clip": 0.2, "clip_high": 0.28, "reduce": mean_over_tokens}

stages = (Stage("sft", method="sft"), Stage("rl", method="grpo", parent="sft", settings=RL))
