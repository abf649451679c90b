"""A finished stage as a Hugging Face folder: weights, tokenizer, certificate, and a model card written from the records alone.

The card says what the records know and nothing else: a licence and the Hub's names of base model and data come from the base
model's own card and path, or from whoever exports. Scores are those of the stage's profile that name its certificate.
"""

import ast
import csv
import json
import math
import re
import shutil
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from engine import record, verify
from engine.card import TEMPLATE

SCORES = "scores.csv"
Z = 1.959964  # of a 95 % interval


def export(
    stage: Path,
    out: Path,
    licence: str | None = None,
    base_model: str | None = None,
    datasets: Sequence[str] = (),
    flawed: bool = False,
) -> None:
    """Write the folder `out` from a stage's folder. Run it in the repository's root, where stages find their parents.

    Raises ValueError if the stage is not finished, if one of its files is not what it wrote, if it or a stage it starts from
    failed a check or had a bug injected (unless `flawed`: then the card begins with that), or if `out` holds something.
    """
    if not (stage / "done.json").is_file():
        raise ValueError(
            f"{stage} holds no done.json; give the folder of a finished stage, as in results/<profile>/<run>/seed0"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} exists and is not an empty folder; choose another place, or remove it first")
    line = lineage(stage)
    for one in line:
        intact(one)
    flaws = [flaw for one in line for flaw in faults(one)]
    if flaws and not flawed:
        raise ValueError(
            f"{'; '.join(flaws)}: such weights are no result. Run the stage again without, or export with --flawed: the card "
            "then begins with it"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as folder:
        whole = Path(folder) / "whole"
        shutil.copytree(stage / "model", whole)
        for file in (line[-1] / "model").glob("LICENSE*"):
            shutil.copy(file, whole)
        shutil.copy(stage / "certificate.json", whole)
        record.write_text(whole / "README.md", card(line, flaws, licence, base_model, datasets))
        whole.replace(out)


def lineage(stage: Path) -> list[Path]:
    """A stage and the ones it starts from, down to the base model. A parent is looked for where its child says, and where the
    child's results folder lies now."""
    found = [stage]
    while parents := record.read_json(found[-1] / "done.json")["parents"]:
        (parent,) = parents
        places = [Path(parent), stage.resolve().parents[2].joinpath(*Path(parent).parts[-3:])]
        there = [place for place in places if (place / "done.json").is_file()]
        if not there:
            raise ValueError(f"{found[-1]} starts from {parent}, which is not there; export in the repository's root")
        found.append(there[0])
    return found


def intact(stage: Path) -> None:
    """Raise ValueError if a file of a stage, or its record, is no longer what the stage wrote."""
    report = verify.Report()
    report.check(stage / "done.json")
    changed = [str(finding) for finding in report.findings if finding.kind == "result"]
    if changed:
        raise ValueError(f"{stage} is no longer what its stage wrote ({'; '.join(changed)}); run the stage again")


def faults(stage: Path) -> list[str]:
    certificate = record.read_json(stage / "certificate.json")
    failed = [check["name"] for check in certificate["checks"] if check["status"] == "failed"]
    bug = [f"{stage} was trained with the bug {certificate['inject']} on purpose"] if certificate["inject"] else []
    return bug + ([f"{stage} failed {', '.join(failed)}"] if failed or not certificate["passed"] else [])


def card(
    line: Sequence[Path], flaws: Sequence[str], licence: str | None, base_model: str | None, datasets: Sequence[str]
) -> str:
    """The model card of the first stage of a lineage."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData

    stage, done = line[0], record.read_json(line[0] / "done.json")
    certificate, spec = record.read_json(stage / "certificate.json"), done["identity"]["spec"]
    method, scores = spec["method"], scores_of(stage, certificate["digest"])
    name = f"{done['run']}-seed{done['seed']}" + (f"-{done['stage']}" if done["stage"] != done["run"] else "")
    base = record.read_json(line[-1] / "done.json")["identity"]["spec"]["model"]
    results = [
        EvalResult(
            task_type="text-generation",
            task_name="Problem solving",
            dataset_type=row["benchmark"],
            dataset_name=row["benchmark"],
            metric_type="accuracy",
            metric_name=metric(row),
            metric_value=round(float(row["accuracy"]), 2),
            metric_args={"problems": int(row["problems"]), "interval_95": list(interval(row))},
        )
        for row in scores
    ]
    data = ModelCardData(
        license=licence or _licence(line[-1]),
        base_model=base_model or hub_name(base),
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["assay", "post-training", *([method["name"]] if method else []), *(["not-a-result"] if flaws else [])],
        datasets=list(datasets) or None,
        model_name=name,
        eval_results=results or None,
    )
    costs = [record.read_json(one / "done.json")["costs"] for one in line]
    made = done["provenance"]
    text = ModelCard.from_template(
        data,
        template_str=TEMPLATE,
        name=name,
        done=done,
        spec=spec,
        flaws=flaws,
        base=_base(base),
        claim=_claim(method, done["identity"]["method"]) if method else "",
        settings=_rows(method["settings"].items()) if method else "",
        train=_rows(spec["train"].items()) if method else "",
        scores=[{**row, "metric": metric(row), "interval": "{} to {}".format(*interval(row))} for row in scores],
        protocol=sorted({(row["template"], row["grader"]) for row in scores}),
        sampling=_sampling(stage) if scores else None,
        certificate=certificate,
        checks=[{key: _cell(value) for key, value in check.items()} for check in certificate["checks"]],
        costs=_rows((key, f"{value:,}", f"{sum(one[key] for one in costs):,}") for key, value in costs[0].items()),
        stages=len(line),
        made=made,
        packages=_rows((made["packages"] | done["identity"]["packages"]).items()),
        command=made["command"]["typed"] or made["command"]["process"],
    )
    return f"{text}\n"


def scores_of(stage: Path, certificate: str) -> list[dict[str, str]]:
    """The rows of the profile's scores that carry this certificate; of one run, if several share the stage."""
    path = stage.resolve().parents[2] / SCORES
    if not path.is_file():
        return []
    with path.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["certificate"] == certificate]
    return [row for row in rows if row["run"] == rows[0]["run"]]


def metric(row: dict[str, str]) -> str:
    return "pass@1" if int(row["samples"]) == 1 else f"avg@{row['samples']}"


def interval(row: dict[str, str]) -> tuple[float, float]:
    """Wilson's 95 % interval of an accuracy, in points, over the drawing of problems; with several samples of each the true
    one is narrower. (Wilson 1927; Brown, Cai and DasGupta 2001.)"""
    p, n = float(row["accuracy"]) / 100, int(row["problems"])
    centre, half = p + Z * Z / (2 * n), Z * math.sqrt(p * (1 - p) / n + Z * Z / (4 * n * n))
    return tuple(round(100 * (centre + sign * half) / (1 + Z * Z / n), 1) for sign in (-1, 1))  # type: ignore[return-value]


def hub_name(model: dict[str, Any]) -> str:
    """The Hub's name of a configured model that comes from it; otherwise its path, without folders of this machine."""
    if "hub" in model:
        return model["hub"]["id"]
    path = model["path"]
    if found := re.search(r"models--(.+?)--(.+?)/snapshots/", f"{path}/"):
        return f"{found[1]}/{found[2]}"
    return Path(path).name if Path(path).is_absolute() else path


def _base(model: dict[str, Any]) -> str:
    """The base model with the digests of its weights and what was set in its config.json."""
    sha256 = model.get("sha256") or {}
    named = {"sha256": sha256} if isinstance(sha256, str) else {f"sha256 of {name}": one for name, one in sha256.items()}
    about = [f"{name} `{one}`" for name, one in named.items()]
    about += [f"{name} set to {model[name]}" for name in ("rope_theta", "window") if model.get(name) is not None]
    return f"`{hub_name(model)}`" + (f" ({', '.join(about)})" if about else "")


def _licence(base: Path) -> str | None:
    """What the base model's own card states."""
    from huggingface_hub import ModelCard

    path = base / "model" / "README.md"
    return ModelCard.load(path).data.to_dict().get("license") if path.is_file() else None


def _claim(method: dict[str, Any], sha256: str) -> str:
    """The header of the method file, if it still is the file that was trained with."""
    path = Path(method["folder"]) / f"{method['name']}.py"
    if not path.is_file() or record.file_sha256(path) != sha256:
        return f"(the file {path} of sha256 {sha256[:12]} is not in this checkout)"
    return ast.get_docstring(ast.parse(path.read_text())) or "(the file has no header)"


def _sampling(stage: Path) -> str | None:
    """What the provenance of the samples says about how they were drawn."""
    path = stage.parent / "eval" / "samples.provenance.json"
    return record.read_json(path)["about"].get("sampling") if path.is_file() else None


def _rows(rows: Iterable[tuple[Any, ...]]) -> str:
    """Rows of a Markdown table."""
    return "\n".join("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in rows)


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|").replace("\n", " ")
