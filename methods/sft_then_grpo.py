"""SFT, then GRPO: imitate first, reinforce the result. The recipe every hybrid has to beat.

Paper        the standard pipeline; corrected it reaches 62.5 on the five benchmarks where TRAPO prints 56.6
             (arXiv:2604.23747, three seeds)
Stages       `sft` is the very checkpoint of the method sft, trained once and shared; `grpo` starts from it with a fresh
             optimizer and the settings of the method grpo
Paper and code disagree on the data of the second stage: LUFFY runs it on 49k other problems. Here both stages see the
             problems of the run, because a comparison needs one data view, unless the configuration gives the second stage
             its own (`data`).
"""

from engine.words import Stage

stages = (Stage("sft", method="sft"), Stage("grpo", method="grpo", parent="sft"))
