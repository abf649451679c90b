"""One stage: checked parent in, weights, metrics, certificate and `done.json` out; what is done is not done again.

    python -m engine.stage --out results/miniature/RUN/seed0/STAGE --spec '{...}'

The workflow writes the specification (workflow/plan.py); its digest, with those of the engine, the method file and the parent,
identifies the result. In the output folder:

    model/            the checkpoint as a Hugging Face folder
    metrics.jsonl     one line per update, the same in every repetition; timings.jsonl: its seconds
    certificate.json  what was checked before and during training (engine/integrity.py)
    selection.json    which problems the method chose to train on, if it chooses
    done.json         written last: digest, costs, settings, sha256 of every file above, provenance; sealed by its own digest
    state/            resumable checkpoints while training; removed at the end
    tensorboard/, wandb/  metrics once more, where the configuration's log_to asks for it; no part of the result
"""

import argparse
import json
import logging
import os
import shutil
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from engine import checkpoint, metrics, model, provenance, record
from engine.certificate import Check, certificate
from engine.data import Template
from engine.grade import grader_version
from engine.ranks import FAILURES, RankError, train
from engine.sampler import packages
from engine.supply import SELECTION

log = logging.getLogger("assay")
PACKAGES = ("torch", "transformers", "deepspeed", "math-verify")
OUTPUTS = ("model", "metrics.jsonl", "timings.jsonl", "certificate.json")


def identity(spec: dict) -> dict[str, Any]:
    """Everything that determines a stage's result, by name: its digest is the stage's name tag."""
    # Two runs may share a stage; what is published is not trained.
    unused = ("run",) if spec["method"] else ("run", "train", "data")
    kept = {key: value for key, value in spec.items() if key not in unused}
    if spec["method"]:
        kept["train"] = {key: value for key, value in spec["train"].items() if key not in checkpoint.NO_RESULT}
    parts = {
        "spec": kept,
        "engine": record.fingerprint(Path(__file__).parent),
        "template": record.file_sha256(Path(spec["template"])),
        "packages": {name: version(name) for name in PACKAGES} | packages(spec["sampler"]),
    }
    if spec["method"]:
        parts["data"] = record.file_sha256(Path(spec["data"]))
        parts["grader"] = grader_version()
        parts["method"] = record.file_sha256(Path(spec["method"]["folder"]) / f"{spec['method']['name']}.py")
    else:
        parts["model"] = model.digests(model.source(spec["model"]))
        if newest := model.commit(spec["model"]):
            parts["commit"] = newest
    if spec["parent"]:
        parts["parent"] = record.read_json(Path(spec["parent"]) / "done.json")["digest"]
    return parts


def run(spec: dict, out: Path, log_to: Sequence[str] = ()) -> None:
    """Carry the stage out, or find that it has been. `log_to`: loggers that are told each update (engine/logs.py).

    Raises ValueError for anything a user can mend, IntegrityError if a check failed.
    """
    started = time.time()
    if (ranks := int(os.environ.get("WORLD_SIZE", "1"))) > 1:
        raise ValueError(f"WORLD_SIZE is {ranks}: start a stage without a launcher; train.ranks says how many processes it has")
    provenance.git()  # asked now: a commit made while a stage runs is not what it runs
    with record.claimed(out):
        parts = identity(spec)
        done = out / "done.json"
        if done.exists():
            shutil.rmtree(out / "state", ignore_errors=True)  # of no more use to a finished stage
            if record.read_json(done)["digest"] == record.digest(parts):
                log.info("%s is up to date", out)
                return
            done.unlink()
        if spec["method"] is None:
            found = publish(spec, out, parts["model"])
        else:
            checked_model(Path(spec["parent"]))
            found = train(spec, out, parts, log_to)
        finish(spec, out, parts, found, started)


def publish(spec: dict, out: Path, digests: dict[str, str]) -> dict[str, Any]:
    """Copy the base model, its weights checked against the configured sha256, and set it right (engine/model.py); returns its
    certificate. `digests` are those of its files.

    Raises ValueError if the weights are not there, not readable, or not the configured ones.
    """
    folder, wanted = model.source(spec["model"]), spec["model"].get("sha256")
    if wanted:
        model.confirm(folder, digests, wanted)
    model.parameter_count(folder)
    shutil.rmtree(out / "model", ignore_errors=True)
    model.copy(folder, out / "model")
    model.prepare(out / "model", spec["model"], Template.read(Path(spec["template"])))
    for name in ("metrics.jsonl", "timings.jsonl"):
        record.write_rows(out / name, [])
    weights = [digests[path.name] for path in model.weight_files(folder)]
    found = f"sha256 {weights[0][:12]}" if len(weights) == 1 else f"sha256 of {len(weights)} files"
    limit = "the sha256 of the configuration"
    check = Check("base weights", "passed" if wanted else "not applicable", found if wanted else "none given", limit)
    written = certificate(spec, {}, [check], [])
    record.write_json(out / "certificate.json", written)
    return written


def checked_model(stage: Path) -> Path:
    """The model folder of a finished stage. Raises ValueError if a file in it is no longer the one the stage wrote."""
    for name, wanted in record.read_json(stage / "done.json")["outputs"].items():
        path = stage / name
        if name.startswith("model/") and not (path.is_file() and record.file_sha256(path) == wanted):
            raise ValueError(
                f"{path} is damaged or replaced: {stage / 'done.json'} says sha256 {wanted[:12]}...; delete {stage} and run "
                "its stage again"
            )
    return stage / "model"


def finish(spec: dict, out: Path, parts: dict, found: dict[str, Any], started: float) -> None:
    """Sum up the costs and write `done.json`, last and atomically; then the checkpoints for resuming can go."""
    rows, timings = record.read_rows(out / "metrics.jsonl"), record.read_rows(out / "timings.jsonl")
    chosen = [SELECTION] if rows and "kept_problems" in rows[0] else []
    parameters = model.parameter_count(out / "model")
    gpus = 0 if spec["train"]["device"] == "cpu" else spec["train"]["ranks"]
    done = {
        "run": spec["run"],
        "seed": spec["seed"],
        "stage": spec["stage"],
        "digest": record.digest(parts),
        "parents": [spec["parent"]] if spec["parent"] else [],
        "updates": len(rows),
        "parameters": parameters,
        "costs": metrics.costs(rows, timings, parameters, gpus),
        **checkpoint.resized(timings[: len(rows)]),
        "certificate": found["digest"],
        "identity": parts,
        "outputs": provenance.digests([out / name for name in (*OUTPUTS, *chosen)], out),
        "provenance": provenance.made(started),
    }
    record.write_json(out / "done.json", {**done, "seal": record.digest(done)})
    shutil.rmtree(out / "state", ignore_errors=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Train one stage, or publish the base model as one.")
    parser.add_argument("--spec", required=True, type=json.loads, help="the stage as JSON, as workflow/plan.py writes it")
    parser.add_argument("--out", required=True, type=Path, help="the stage's folder; done.json appears in it last")
    parser.add_argument("--sizes", type=json.loads, default={}, help="{run: settings of memory}, added to the stage's training")
    parser.add_argument("--log-to", nargs="*", default=[], help="tensorboard, wandb: told each update besides metrics.jsonl")
    args = parser.parse_args()
    record.start_logging()
    try:
        args.spec["train"] |= args.sizes.get(args.spec["run"].partition("+")[0], {})
        run(args.spec, args.out, args.log_to)
    except (*FAILURES, RankError) as error:
        log.error("error: %s", error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
