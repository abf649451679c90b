"""`assay export`: a folder that transformers loads, a card that says what the records say, and what is refused."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import ModelCard
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine import record
from engine.export import _base, export, hub_name, interval
from tests.conftest import METHODS, ROOT, TRAIN
from tests.test_cli import assay

COLUMNS = "run,seed,benchmark,accuracy,majority,problems,samples,truncated,no_answer,undecided,mean_tokens,template,grader"


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """results/p with a base stage, an imitation stage of two updates, the same with a bug, and scores."""
    from engine.stage import run
    from miniature.world import training_rows

    home = tmp_path_factory.mktemp("results") / "p"
    record.write_rows(home / "data" / "train.jsonl", [row for row, _ in zip(training_rows(), range(12), strict=False)])
    shutil.copytree(ROOT / "miniature" / "base", home / "downloaded")
    (home / "downloaded" / "README.md").write_text("---\nlicense: apache-2.0\n---\n# Tiny\n")
    (home / "downloaded" / "LICENSE").write_text("Apache")
    base = {
        "run": "base",
        "seed": 0,
        "stage": "base",
        "inject": None,
        "sampler": "transformers",
        "method": None,
        "parent": None,
        "model": {"path": str(home / "downloaded")},
        "data": str(home / "data" / "train.jsonl"),
        "template": str(ROOT / "config" / "templates" / "miniature.txt"),
        "train": {**TRAIN, "updates": 2},
    }
    run(base, home / "base" / "seed0" / "base")
    method = {"name": "sft", "folder": str(METHODS), "settings": {}}
    trained = {**base, "run": "sft", "stage": "sft", "method": method, "parent": str(home / "base" / "seed0" / "base")}
    run(trained, home / "sft" / "seed0" / "sft")
    bug = "openrlhf_loss_mean"
    run({**trained, "run": f"sft+{bug}", "inject": bug}, home / f"sft+{bug}" / "seed0" / "sft")
    certificate = record.read_json(home / "sft" / "seed0" / "sft" / "certificate.json")["digest"]
    scores = [
        f"sft,0,mini_sums,80.5,81.0,200,1,2.5,1.0,0.0,20.1,plain 0123456789ab,assay-1,{certificate}",
        f"sft,0,aime,12.5,13.3,30,32,50.0,1.0,0.0,700.1,plain 0123456789ab,assay-1,{certificate}",
        "other,0,mini_sums,99.0,99.0,200,1,0.0,0.0,0.0,20.1,plain 0123456789ab,assay-1,0000",
    ]
    (home / "scores.csv").write_text("\n".join([f"{COLUMNS},certificate", *scores]) + "\n")
    return home


@pytest.fixture
def stage(results: Path, tmp_path: Path) -> Path:
    """A copy of the imitation stage in a copy of its results folder: a place its records do not name."""
    shutil.copytree(results, tmp_path / "moved" / "p")
    return tmp_path / "moved" / "p" / "sft" / "seed0" / "sft"


def test_the_exported_folder_loads_and_is_the_stages_model(stage: Path, tmp_path: Path) -> None:
    told = assay("export", str(stage), str(tmp_path / "out" / "hf"), "--dataset", "someone/sums")
    assert told.returncode == 0, told.stderr
    out = tmp_path / "out" / "hf"
    model: Any = AutoModelForCausalLM.from_pretrained(out)
    tokenizer = AutoTokenizer.from_pretrained(out)
    ours = AutoModelForCausalLM.from_pretrained(stage / "model").state_dict()
    theirs = model.state_dict()
    assert ours and ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert model.generate(**tokenizer("1 + 1", return_tensors="pt"), max_new_tokens=2).shape[0] == 1
    assert (out / "certificate.json").read_bytes() == (stage / "certificate.json").read_bytes()
    assert (out / "LICENSE").read_text() == "Apache"
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["hf"]


def test_the_card_says_what_the_records_say(stage: Path, tmp_path: Path) -> None:
    export(stage, tmp_path / "hf", datasets=["someone/sums"])
    card, done = ModelCard.load(tmp_path / "hf" / "README.md"), record.read_json(stage / "done.json")
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0" and data["base_model"] == "downloaded" and data["datasets"] == ["someone/sums"]
    assert data["library_name"] == "transformers" and data["tags"] == ["assay", "post-training", "sft"]
    results = {one.dataset_name: one for one in vars(card.data)["eval_results"]}
    assert results.keys() == {"mini_sums", "aime"}
    assert results["mini_sums"].metric_value == 80.5
    assert results["mini_sums"].metric_name == "pass@1" and results["aime"].metric_name == "avg@32"
    assert results["aime"].metric_args == {"problems": 30, "interval_95": [4.8, 28.7]}
    headings = [line for line in card.text.splitlines() if line.startswith("## ")]
    assert headings == [
        *("## Method", "## Data", "## Training settings", "## Evaluation"),
        *("## Certificate", "## Costs", "## Provenance", "## Limits"),
    ]
    for said in (
        "SFT: imitate the expert's solution token by token.",
        "| learning_rate | 0.001 |",
        f"digest `{done['certificate']}`",
        "| gradient probe | passed |",
        f"| trained_tokens_expert | {done['costs']['trained_tokens_expert']:,} |",
        "| deepspeed | ",
        "Template `plain 0123456789ab`; grader `assay-1`.",
        "| aime | avg@32 | 12.5 | 4.8 to 28.7 | 30 | 50.0 |",
        done["identity"]["data"],
        done["provenance"]["git"]["commit"],
    ):
        assert said in card.text, said
    assert "CAUTION" not in card.text and str(tmp_path) not in card.text.split("## Provenance")[0]


def test_a_method_file_that_has_changed_since_is_not_quoted(stage: Path, tmp_path: Path) -> None:
    folder = tmp_path / "methods"
    folder.mkdir()
    (folder / "sft.py").write_text('"""Something else."""\n')
    done = record.read_json(stage / "done.json")
    done["identity"]["spec"]["method"]["folder"] = str(folder)
    reseal(stage, done)
    export(stage, tmp_path / "hf")
    text = (tmp_path / "hf" / "README.md").read_text()
    assert "Something else" not in text and "is not in this checkout" in text


def reseal(stage: Path, done: dict) -> None:
    """The record as a stage with this content would have written it."""
    done = {key: value for key, value in done.items() if key != "seal"} | {"digest": record.digest(done["identity"])}
    record.write_json(stage / "done.json", {**done, "seal": record.digest(done)})


def test_without_scores_there_is_no_model_index(stage: Path, tmp_path: Path) -> None:
    (stage.parents[2] / "scores.csv").unlink()
    export(stage, tmp_path / "hf", licence="mit", base_model="org/tiny")
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    assert "model-index" not in card.data.to_dict() and card.data.to_dict()["base_model"] == "org/tiny"
    assert card.data.to_dict()["license"] == "mit" and "No scores of this checkpoint" in card.text


def test_the_base_model_can_be_exported(stage: Path, tmp_path: Path) -> None:
    export(stage.parents[2] / "base" / "seed0" / "base", tmp_path / "hf")
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    assert "this is the base model as it is" in card.text and card.data.to_dict()["tags"] == ["assay", "post-training"]


def test_an_injected_bug_is_refused_or_said_first(stage: Path, tmp_path: Path) -> None:
    flawed = stage.parents[2] / "sft+openrlhf_loss_mean" / "seed0" / "sft"
    with pytest.raises(ValueError, match=r"trained with the bug openrlhf_loss_mean on purpose.*no result.*--flawed"):
        export(flawed, tmp_path / "hf")
    assert not (tmp_path / "hf").exists()
    export(flawed, tmp_path / "hf", flawed=True)
    card = ModelCard.load(tmp_path / "hf" / "README.md")
    start = card.text[:400]
    assert "[!CAUTION]" in start and "NOT A RESULT" in start and "openrlhf_loss_mean" in start
    assert "not-a-result" in card.data.to_dict()["tags"] and "NOT EVERY CHECK PASSED" in card.text


def test_a_stage_that_starts_from_a_flawed_one_is_refused(stage: Path, tmp_path: Path) -> None:
    parent = stage.parents[2] / "sft+openrlhf_loss_mean" / "seed0" / "sft"
    done = record.read_json(stage / "done.json")
    done["parents"] = [str(parent)]
    reseal(stage, done)
    with pytest.raises(ValueError, match="openrlhf_loss_mean on purpose"):
        export(stage, tmp_path / "hf")


@pytest.mark.parametrize("name", ["model/model.safetensors", "model/tokenizer.json", "certificate.json"])
def test_a_changed_file_is_refused(stage: Path, tmp_path: Path, name: str) -> None:
    bits = bytearray((stage / name).read_bytes())
    bits[-3] ^= 1
    (stage / name).write_bytes(bits)
    told = assay("export", str(stage), str(tmp_path / "hf"))
    assert told.returncode == 1 and "is no longer what its stage wrote" in told.stderr and name in told.stderr
    assert "Traceback" not in told.stderr and not (tmp_path / "hf").exists()


def test_an_edited_record_is_refused(stage: Path, tmp_path: Path) -> None:
    done = record.read_json(stage / "done.json")
    done["costs"]["flops"] = 1
    record.write_json(stage / "done.json", done)
    with pytest.raises(ValueError, match="no longer what its stage wrote"):
        export(stage, tmp_path / "hf")


def test_what_is_not_finished_missing_or_in_the_way_is_refused(stage: Path, tmp_path: Path) -> None:
    full = tmp_path / "full"
    full.mkdir()
    (full / "kept").write_text("kept")
    for out in (full, full / "kept"):
        with pytest.raises(ValueError, match="is not an empty folder"):
            export(stage, out)
    assert (full / "kept").read_text() == "kept"
    (tmp_path / "empty").mkdir()
    export(stage, tmp_path / "empty")
    assert (tmp_path / "empty" / "model.safetensors").is_file()
    shutil.rmtree(stage.parents[2] / "base")
    done = record.read_json(stage / "done.json")
    done["parents"] = ["nowhere/base/seed0/base"]
    reseal(stage, done)
    with pytest.raises(ValueError, match="starts from nowhere/base/seed0/base, which is not there"):
        export(stage, tmp_path / "hf")
    (stage / "done.json").unlink()
    with pytest.raises(ValueError, match=r"holds no done\.json"):
        export(stage, tmp_path / "hf")


def test_intervals_are_wilsons() -> None:
    from scipy.stats import binomtest

    for correct, problems in ((0, 30), (15, 30), (161, 200)):
        ours = interval({"accuracy": str(100 * correct / problems), "problems": str(problems)})
        theirs = binomtest(correct, problems).proportion_ci(method="wilson")
        assert ours == pytest.approx((100 * theirs.low, 100 * theirs.high), abs=0.05)


def test_names_on_the_hub_come_from_the_configuration_or_the_path_of_a_download() -> None:
    download = "/home/me/.cache/huggingface/hub/models--Qwen--Qwen2.5-Math-7B/snapshots/abc"
    assert hub_name({"path": download}) == "Qwen/Qwen2.5-Math-7B"
    assert hub_name({"path": "/home/me/models/tiny"}) == "tiny" and hub_name({"path": "miniature/base"}) == "miniature/base"
    pinned = {"path": "models/tiny", "hub": {"id": "someone/tiny", "revision": "abc"}}
    assert hub_name(pinned) == "someone/tiny"
    prepared = {**pinned, "sha256": {"a": "12", "b": "34"}, "rope_theta": 40000, "window": None}
    assert _base(prepared) == "`someone/tiny` (sha256 of a `12`, sha256 of b `34`, rope_theta set to 40000)"


def test_the_example_in_the_help_is_there() -> None:
    told = assay("export", "--help")
    assert told.returncode == 0 and "Example: assay export results/miniature" in " ".join(told.stdout.split())
    assert "--flawed" in told.stdout
