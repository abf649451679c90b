"""TRL's trainer as a process that makes one optimizer step per line of its input and says how long it took.

Run by tests/bench_update.py in an environment that holds TRL instead of Assay: python tests/trl_worker.py JOB.json

JOB.json: {"kind": "grpo" or "sft", "model": folder, "rows": [[prompt, completion, advantage], ...], "batch": rows or packs of
one forward pass, "packing": whether, to "length" tokens, "steps": at most, "recompute": activations in the backward pass}.
The first line of the output is the versions, each further one the seconds of one step, from the moment the batch lies ready:
TRL's own loop, of which only the rollouts are replaced (they are given).
"""

import json
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path

import torch
from datasets import Dataset  # pyright: ignore[reportMissingImports]
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer, SFTConfig, SFTTrainer  # pyright: ignore[reportMissingImports]

JOB = json.loads(Path(sys.argv[1]).read_text())
TOLD = sys.stdout
sys.stdout = sys.stderr  # what else is printed


class OneByOne(TrainerCallback):
    """Waits for a line before each step and answers with its seconds."""

    def on_step_begin(self, args, state, control, **_):
        if not sys.stdin.readline().strip():
            sys.exit()
        self.began = time.perf_counter()

    def on_step_end(self, args, state, control, **_):
        TOLD.write(f"{time.perf_counter() - self.began}\n")
        TOLD.flush()


class Given(GRPOTrainer):
    """With the rollouts of the job in the place of generated ones."""

    def _generate_and_score_completions(self, inputs):
        prompts, completions, advantages = zip(*JOB["rows"], strict=True)
        tokens = torch.tensor(completions)
        return {
            "prompt_ids": torch.tensor(prompts),
            "prompt_mask": torch.ones((len(prompts), len(prompts[0])), dtype=torch.long),
            "completion_ids": tokens,
            "completion_mask": torch.ones_like(tokens),
            "advantages": torch.tensor(advantages),
            "num_items_in_batch": torch.tensor(tokens.numel()),
        }


def trainer(folder: str):
    rows, shared = JOB["rows"], {"output_dir": folder, "max_steps": JOB["steps"], "report_to": [], "use_cpu": True}
    shared |= {"learning_rate": 1e-6, "bf16": False, "logging_strategy": "no", "save_strategy": "no", "disable_tqdm": True}
    shared |= {"per_device_train_batch_size": JOB["batch"], "lr_scheduler_type": "constant"}
    shared |= {"gradient_checkpointing": JOB.get("recompute", False)}
    model = AutoModelForCausalLM.from_pretrained(JOB["model"], dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(JOB["model"])
    if JOB["kind"] == "grpo":
        config = GRPOConfig(
            **shared,
            gradient_accumulation_steps=len(rows) // JOB["batch"],
            num_generations=8,
            max_completion_length=len(rows[0][1]),
            beta=0.0,
        )
        prompts = Dataset.from_dict({"prompt": ["1"] * len(rows)})
        made = Given(model, lambda completions, **_: [0.0] * len(completions), config, prompts, processing_class=tokenizer)
    else:
        data = {"input_ids": [p + c for p, c, _ in rows] * JOB["steps"]}
        data["completion_mask"] = [[0] * len(p) + [1] * len(c) for p, c, _ in rows] * JOB["steps"]
        config = SFTConfig(**shared, packing=JOB["packing"], max_length=JOB["length"], completion_only_loss=True)
        made = SFTTrainer(model, config, train_dataset=Dataset.from_dict(data), processing_class=tokenizer)
    made.add_callback(OneByOne())
    return made


with tempfile.TemporaryDirectory() as folder:
    made = trainer(folder)
    TOLD.write(json.dumps({name: version(name) for name in ("trl", "torch", "transformers")}) + "\n")
    TOLD.flush()
    made.train()
