"""One stage: load, (explore, update) x N, save; resumed where it was killed; finished when `done.json` is there.

    python -m engine.stage --out results/miniature/RUN/seed0/STAGE --spec '{...}'

The workflow writes the specification (workflow/plan.py); its digest, with those of the engine, the method file and the parent,
identifies the result. In the output folder:

    model/           the checkpoint as a Hugging Face folder
    metrics.jsonl    one line per update
    done.json        written last: digest, costs, settings, sha256 of the weights
    state/           resumable checkpoints while training; removed at the end
"""

import argparse
import json
import logging
import math
import platform
import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tqdm import tqdm

from engine import checkpoint, data, explore, methods, metrics, record, seeds
from engine.grade import Grader, grader_version
from engine.words import Problem

log = logging.getLogger("assay")
PACKAGES = ("torch", "transformers", "deepspeed", "math-verify")


def identity(spec: dict) -> dict[str, Any]:
    """Everything that determines a stage's result, by name: its digest is the stage's name tag."""
    parts = {
        "spec": {key: value for key, value in spec.items() if key != "run"},  # two runs may share a stage
        "engine": record.fingerprint(Path(__file__).parent),
        "data": record.file_sha256(Path(spec["data"])),
        "template": record.file_sha256(Path(spec["template"])),
        "grader": grader_version(),
        "packages": {name: version(name) for name in PACKAGES},
    }
    if spec["method"]:
        parts["method"] = record.file_sha256(Path(spec["method"]["folder"]) / f"{spec['method']['name']}.py")
    else:
        parts["model"] = record.fingerprint(Path(spec["model"]["path"]), "*")
    if spec["parent"]:
        parts["parent"] = json.loads((Path(spec["parent"]) / "done.json").read_text())["digest"]
    return parts


def run(spec: dict, out: Path) -> None:
    """Carry the stage out, or find that it has been. Raises ValueError for anything a user can mend."""
    with record.claimed(out):
        parts = identity(spec)
        done = out / "done.json"
        if done.exists() and json.loads(done.read_text())["digest"] == record.digest(parts):
            log.info("%s is up to date", out)
            return
        done.unlink(missing_ok=True)
        if spec["method"] is None:
            shutil.rmtree(out / "model", ignore_errors=True)
            shutil.copytree(checked_base(spec["model"]), out / "model")
            rows: list[dict] = []
        else:
            rows = Training(spec, out, parts).run()
        finish(spec, out, parts, rows)


def checked_base(model: dict) -> Path:
    """The base model's folder, its weights checked against the configured sha256."""
    path = Path(model["path"])
    weights = path / "model.safetensors"
    if not weights.is_file():
        raise ValueError(f"model.path {path} holds no model.safetensors; `snakemake pretrain` makes the miniature's")
    found = record.file_sha256(weights)
    if model.get("sha256") and found != model["sha256"]:
        raise ValueError(
            f"base model {weights} has sha256 {found}, the configuration says {model['sha256']}; restore the file "
            "(git checkout) or, if the change is intended, put the new digest into model.sha256"
        )
    return path


class Training:
    """The loop of one training stage, with its model, sampler, grader and data."""

    def __init__(self, spec: dict, out: Path, parts: dict) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        from engine.sampler.transformers import TransformersSampler
        from engine.train import Settings, Trainer

        self.spec, self.out, self.parts, self.shared = spec, out, parts, spec["train"]
        transformers_logging.disable_progress_bar()  # loading a model is not the progress anybody waits for
        shared = self.shared
        chosen = spec["method"]
        self.method = methods.build(chosen["name"], chosen["settings"], Path(chosen["folder"]))
        source = Path(spec["parent"]) / "model"
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.problems = data.problems(
            data.read_rows(Path(spec["data"])),
            self.tokenizer,
            data.Template.read(Path(spec["template"])),
            shared["max_prompt_tokens"],
            shared["max_response_tokens"],
        )
        torch.manual_seed(seeds.seed(run=spec["seed"], axis="torch"))  # nothing draws from it; set so that nothing can
        model = AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, shared["dtype"]))
        names = Settings.__dataclass_fields__.keys() & shared.keys()
        settings = Settings(**{name: shared[name] for name in names}, response_tokens=shared["max_response_tokens"])
        self.trainer = Trainer(model, self.method, settings, self.tokenizer.pad_token_id)
        self.sampler = TransformersSampler(
            self.trainer.model,
            self.tokenizer.pad_token_id,
            self.tokenizer.eos_token_id,
            shared["max_response_tokens"],
            shared["temperature"],
            shared["sample_batch_tokens"],
        )
        self.memory: dict[str, Any] = {}
        self.undecided = 0
        window = model.config.max_position_embeddings
        if shared["max_prompt_tokens"] + shared["max_response_tokens"] > window:
            raise ValueError(
                f"max_prompt_tokens {shared['max_prompt_tokens']} and max_response_tokens {shared['max_response_tokens']} are "
                f"more than the model's window of {window} tokens; lower one of them"
            )

    def run(self) -> list[dict]:
        """All updates, from the newest checkpoint on; returns the metrics of every one of them."""
        shared, seed = self.shared, self.spec["seed"]
        rows = self.resume()
        record.write_rows(self.out / "metrics.jsonl", rows)
        steps = range(len(rows), shared["updates"])
        bar = tqdm(steps, initial=len(rows), total=shared["updates"], desc=f"{self.spec['run']} seed {seed}", mininterval=10)
        with Grader() as grader, (self.out / "metrics.jsonl").open("a") as lines:
            self.grader = grader
            for step in bar:
                size = shared["prompts_per_update"]
                batch = [self.problems[i] for i in seeds.problem_order(seed, len(self.problems), step * size, size)]
                row = self.step(step, batch)
                rows.append(row)
                lines.write(json.dumps(row) + "\n")
                lines.flush()
                bar.set_postfix(reward=row["reward"], tokens=row["response_tokens"], refresh=False)
                if (step + 1) % shared["checkpoint_every"] == 0 and step + 1 < shared["updates"]:
                    checkpoint.save(self.trainer, self.out / "state", step + 1, self.parts, self.memory)
        shutil.rmtree(self.out / "model", ignore_errors=True)
        self.trainer.save_model(self.out / "model")
        self.tokenizer.save_pretrained(self.out / "model")
        return rows

    def step(self, step: int, batch: list[Problem]) -> dict:
        """Explore one batch of problems and make one update; returns its line of metrics."""
        total, seed = self.shared["updates"], self.spec["seed"]
        start = time.perf_counter()
        self.undecided = 0
        self.trainer.model.eval()
        found = explore.explore(self.method, batch, self.sampler, self.reward, step, total, seed, self.memory)
        trajectories = found.trajectories
        if hasattr(self.method, "update"):
            trajectories = self.method.update(trajectories, explore.context(step, total, seed, "", self.memory))
        explored = time.perf_counter()
        update = self.trainer.update(trajectories)
        ended = time.perf_counter()
        trained = update.pop("trained_tokens")
        return {
            "step": step,
            **metrics.summary(found),
            **update,
            "sampled_tokens": found.sampled_tokens,
            "graded_rollouts": len(found.rollouts),
            "undecided": self.undecided,
            "rounds": found.rounds,
            "trained_tokens_own": trained["own"],
            "trained_tokens_expert": trained["expert"],
            "seconds_explore": round(explored - start, 3),
            "seconds_update": round(ended - explored, 3),
        }

    def reward(self, pairs: Any) -> list[float]:
        """1 for a correct response, prefix and completion read together, else 0."""
        texts = [self.tokenizer.decode(r.prefix + r.tokens, skip_special_tokens=True) for _, r in pairs]
        grades = self.grader.grade([(text, problem.answer) for text, (problem, _) in zip(texts, pairs, strict=True)])
        self.undecided += sum(grade.status == "undecided" for grade in grades)
        return [float(grade.correct) for grade in grades]

    def resume(self) -> list[dict]:
        """Load the newest usable checkpoint and return the metrics up to it; none: start from the parent."""
        rows = record.whole_rows(self.out / "metrics.jsonl")
        found = checkpoint.newest(self.out / "state", self.parts, len(rows))
        if found is None:
            shutil.rmtree(self.out / "state", ignore_errors=True)  # what is in it is of no use to this stage
            return []
        folder, about = found
        self.trainer.load(folder)
        self.memory = about["memory"]
        log.info("resuming after update %d", about["step"])
        return rows[: about["step"]]


def finish(spec: dict, out: Path, parts: dict, rows: list[dict]) -> None:
    """Sum up the costs and write `done.json`, last and atomically; then the checkpoints for resuming can go."""
    from safetensors import safe_open

    weights = out / "model" / "model.safetensors"
    with safe_open(weights, framework="numpy") as tensors:
        sizes = [tensors.get_slice(name).get_shape() for name in tensors.keys()]  # noqa: SIM118 (not a dict)
    parameters = sum(math.prod(size) for size in sizes)
    done = {
        "run": spec["run"],
        "seed": spec["seed"],
        "stage": spec["stage"],
        "digest": record.digest(parts),
        "parents": [spec["parent"]] if spec["parent"] else [],
        "updates": len(rows),
        "parameters": parameters,
        "costs": metrics.costs(rows, parameters, spec["train"]["device"]),
        "weights_sha256": record.file_sha256(weights),
        "identity": parts,
        "machine": {
            "processor": platform.machine(),
            "system": platform.platform(),
            "python": platform.python_version(),
        },
    }
    record.write_json(out / "done.json", done)
    shutil.rmtree(out / "state", ignore_errors=True)


def start_logging() -> None:
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)


def main() -> int:
    parser = argparse.ArgumentParser(description="Train one stage, or publish the base model as one.")
    parser.add_argument("--spec", required=True, type=json.loads, help="the stage as JSON, as workflow/plan.py writes it")
    parser.add_argument("--out", required=True, type=Path, help="the stage's folder; done.json appears in it last")
    args = parser.parse_args()
    start_logging()
    try:
        run(args.spec, args.out)
    except (ValueError, FloatingPointError, OSError) as error:
        log.error("error: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
