"""From a configuration to runs: variants, checkpoints of others, other data and starts, studies; and every one shipped."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conftest import ROOT
from workflow.jobs import trainings
from workflow.layout import notes
from workflow.plan import Plan, checked

SHIPPED = sorted(path.name for path in (ROOT / "config").glob("*.yaml") if "profile" in yaml.safe_load(path.read_text()))
SHIPPED_PAPER = ["instruct.yaml", "paper.yaml", "qwen_0.5b_gsm8k.yaml", "qwen_1.5b.yaml"]


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config" / name).read_text())


def plan(**changes: Any) -> Plan:
    return checked({**read("miniature.yaml"), **changes})


def spec(made: Plan, label: str, stage: str | None = None) -> dict[str, Any]:
    return json.loads(made.stage_spec(label, 0, stage or made.stages(made.run(label))[-1].name))


RUNS = read("miniature.yaml")["runs"]
STUDY = {"title": "T", "about": "A", "runs": ["grpo"]}
OTHERS = {"other": {"path": "miniature/base", "template": "config/templates/chat.txt"}}


def test_a_variant_is_its_method_with_what_it_says_and_nothing_else() -> None:
    made = plan(variants={"trapo": {"mild": {"alpha": 0.3, "reward_noise": 0.1}}}, runs=[*RUNS, "trapo-mild"])
    of_method, of_variant = spec(made, "trapo"), spec(made, "trapo-mild")
    assert of_method["method"]["settings"]["alpha"] == 0.1 and of_variant["method"]["settings"]["alpha"] == 0.3
    assert of_variant["train"]["reward_noise"] == 0.1 and of_variant["train"]["learning_rate"] == 3e-5  # trapo's own override
    of_variant["method"]["settings"]["alpha"], of_variant["train"]["reward_noise"], of_variant["run"] = 0.1, 0, "trapo"
    assert of_variant == of_method
    assert notes(made)["runs"]["trapo-mild"] == "learning_rate 3e-05, alpha 0.3, reward_noise 0.1"


def test_a_variant_keeps_its_methods_own_settings_too() -> None:
    overrides = {"trapo": {"learning_rate": 0.5, "alpha": 0.7}}
    made = plan(overrides=overrides, variants={"trapo": {"noisy": {"reward_noise": 0.1}}}, runs=["trapo", "trapo-noisy"])
    assert spec(made, "trapo-noisy")["method"]["settings"]["alpha"] == 0.7


def test_a_preset_keeps_the_shared_settings_of_its_method_and_not_its_own_ones() -> None:
    overrides = {"trapo": {"learning_rate": 0.5, "alpha": 0.7}}
    made = plan(overrides=overrides, runs=["base", "trapo", "trapo-as_released"])
    assert spec(made, "trapo")["method"]["settings"]["alpha"] == 0.7
    released = spec(made, "trapo-as_released")
    assert released["method"]["settings"]["alpha"] == 0.1 and released["train"]["learning_rate"] == 0.5


def test_a_run_may_be_trained_on_other_data_and_a_shared_stage_stays_where_it_is() -> None:
    made = plan(other_data={"more": "rows.jsonl"}, overrides={"sft_then_grpo": {"data": "more"}})
    assert spec(made, "sft_then_grpo", "grpo")["data"] == "results/miniature/data/more.jsonl"
    assert spec(made, "sft")["data"] == "results/miniature/data/train.jsonl"
    assert str(made.parent("sft_then_grpo", 0, "grpo")) == "results/miniature/sft/seed0/sft"
    assert made.data_spec("more") == {"name": "more", "source": "rows.jsonl"}


def test_a_checkpoint_of_others_is_a_row_with_its_prompt_and_can_be_a_start() -> None:
    variants = {"grpo": {"on": {"start": "other"}}}
    made = plan(checkpoints=OTHERS, runs=["base", "other", "grpo", "grpo-on"], variants=variants, overrides={})
    assert spec(made, "other")["method"] is None and spec(made, "other")["model"]["path"] == "miniature/base"
    assert str(made.final("other", 0)) == str(made.parent("grpo-on", 0, "grpo")) == "results/miniature/other/seed0/base"
    assert str(made.parent("grpo", 0, "grpo")) == "results/miniature/base/seed0/base"
    for label, template in {"base": "miniature", "grpo": "miniature", "other": "chat", "grpo-on": "chat"}.items():
        path = f"config/templates/{template}.txt"
        assert spec(made, label)["template"] == path == json.loads(made.evaluation_spec(label, 0))["template"]
    assert set(made.evaluation.exceptions) == {"other", "grpo-on"}
    assert made.starts(made.runs) == ["base", "other"]
    assert "results/miniature/other/seed0/base" in made.stage_folders(made.runs, [0])
    assert made.stage_folders(made.runs, [0], trained=True) == [
        "results/miniature/grpo/seed0/grpo",
        "results/miniature/grpo-on/seed0/grpo",
    ]
    assert [run.label for run in made.bug_study() if not run.bug] == ["grpo", "grpo-on"]


def test_a_study_has_rows_seeds_and_an_axis_of_its_own() -> None:
    made = plan(
        seeds=[0, 1],
        variants={"trapo": {"mild": {"alpha": 0.3}}},
        studies={
            "alphas": {"title": "T", "about": "A", "runs": ["grpo", "trapo", "trapo-mild"], "seeds": [1], "axis": "alpha"}
        },
    )
    study = made.studies["alphas"]
    assert made.axis(study) == {"trapo": 0.1, "trapo-mild": 0.3}  # grpo has none
    assert study.seeds == (1,) and study.baseline == "grpo" and str(study.home) == "results/miniature/alphas"
    told = notes(made, study)
    assert (told["title"], told["about"], told["baseline"]) == ("T", "A", "grpo") and "groups" not in told
    assert "trapo-mild" in {run.label for run in made.all_runs} and "trapo-mild" not in {run.label for run in made.runs}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"checkpoints": {"grpo": OTHERS["other"]}}, "checkpoints: 'grpo' is the name of a method"),
        ({"checkpoints": {"data": OTHERS["other"]}}, "checkpoints: 'data' is the name of a folder or rule of the workflow"),
        ({"studies": {"tables": STUDY}}, "studies: 'tables' is the name of a folder or rule"),
        ({"checkpoints": {"s": OTHERS["other"]}, "studies": {"s": STUDY}}, "studies: 's' is the name of one of checkpoints"),
        ({"prefix_pilot": {"start": "bsae"}}, "unknown start of prefix_pilot: 'bsae'; did you mean 'base'"),
        ({"prefix_pilot": {"data": "mini_sums"}}, "unknown data of prefix_pilot: 'mini_sums'"),
        ({"studies": {"s": {**STUDY, "runs": ["trapo"], "axis": "sizes"}}}, "axis of study s: sizes is .* an axis has numbers"),
        ({"overrides": {"grpo": {"ranks": 3, "nodes": 2}}}, "train.ranks 3 cannot be spread evenly over train.nodes 2"),
        ({"variants": {"trapo": {"as_paper": {}}}}, "trapo has a preset 'as_paper' already"),
        ({"variants": {"trapo": {"a": {"alhpa": 1}}}, "runs": ["trapo-a"], "overrides": {}}, "alhpa.*did you mean 'alpha'"),
        (
            {"variants": {"trapo": {"a": {"updates": 0}}}, "runs": ["trapo-a"], "overrides": {}},
            "overrides of trapo-a, updates: 0 is less than",
        ),
        (
            {"overrides": {"sft": {"updates": 0}}, "runs": ["sft_then_grpo"], "baseline": ""},
            "overrides of sft, updates: 0 is less",
        ),
        ({"runs": ["trapo-b"]}, "unknown preset of method 'trapo': 'b'"),
        ({"overrides": {"grpo": {"data": "trian"}}}, "unknown data of run grpo: 'trian'; did you mean 'train'.*other_data"),
        ({"overrides": {"grpo": {"start": "other"}}}, "unknown start of run grpo: 'other'"),
        ({"checkpoints": OTHERS, "overrides": {"sft_then_grpo": {"start": "other"}}}, "its first stage is another run's"),
        ({"other_data": {"train": "x.jsonl"}}, "other_data: 'train' is what train_data is called"),
        ({"other_data": {"mini_sums": "x.jsonl"}}, "'mini_sums' is the name of a benchmark"),
        ({"train_data": "openr1_46"}, "unknown corpus of train: 'openr1_46'; did you mean 'openr1_46k'"),
        ({"model": {"name": "qwen2.5_math_7"}}, "unknown model 'qwen2.5_math_7'; did you mean 'qwen2.5_math_7b'"),
        ({"studies": {"s": {**STUDY, "baseline": "sft"}}}, "unknown run in studies.s.baseline: 'sft'"),
        ({"studies": {"s": {**STUDY, "published": {"sft": {"a": "b"}}}}}, "unknown run in studies.s.published: 'sft'"),
        ({"studies": {"s": {**STUDY, "runs": ["grp"]}}}, "unknown method 'grp'; did you mean 'grpo'"),
    ],
)
def test_what_cannot_be_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        made = plan(**changes)
        for run in made.all_runs:
            spec(made, run.label)


def test_a_study_whose_axis_is_no_setting_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown axis of study s: 'alhpa'"):
        plan(studies={"s": {**STUDY, "axis": "alhpa"}})


def test_a_row_and_its_bugged_twin_are_told_apart() -> None:
    rows = ["trapo", "trapo+stale_weights"]
    for baseline in rows:
        made = plan(studies={"s": {**STUDY, "runs": rows, "baseline": baseline}})
        assert made.studies["s"].baseline == baseline
        assert notes(plan(runs=[*RUNS, rows[1]], baseline=baseline))["baseline"] == baseline
    assert plan(studies={"s": STUDY}, inject="stale_weights").studies["s"].baseline == "grpo+stale_weights"


def test_a_start_whose_prompt_opens_a_thought_needs_data_written_for_it() -> None:
    thinking = {"other": {"path": "miniature/base", "template": "config/templates/luffy.txt"}}
    variants = {"grpo": {"on": {"start": "other"}}}
    with pytest.raises(ValueError, match="do not both open a thought"):
        plan(checkpoints=thinking, variants=variants, runs=["grpo-on"], overrides={}, train_data="miniature_openr1")


@pytest.mark.parametrize("name", SHIPPED)
def test_every_configuration_shipped_can_be_planned_and_rehearsed(name: str) -> None:
    made = checked(read(name))
    for run in made.all_runs:
        assert all(json.loads(made.stage_spec(run.label, made.seeds[0], stage.name)) for stage in made.stages(run))
    rehearsal = checked({**read(name), "rehearse": True})
    assert [run.label for run in rehearsal.all_runs] == [run.label for run in made.all_runs]
    assert list(rehearsal.studies) == list(made.studies) and rehearsal.seeds == made.seeds[:1]
    for run in rehearsal.all_runs:
        for stage in rehearsal.stages(run):
            small = json.loads(rehearsal.stage_spec(run.label, rehearsal.seeds[0], stage.name))
            assert small["model"]["path"] == "miniature/base" and small["train"]["device"] == "cpu"
            assert small["train"]["updates"] <= 2 * stage.times and small["train"]["prompts_per_update"] <= 4
    assert "REHEARSAL" in notes(rehearsal)["profile"] and "REHEARSAL" not in notes(made)["profile"]
    assert set(SHIPPED_PAPER) <= set(SHIPPED)


def test_what_all_rows_of_a_study_share_is_said_once() -> None:
    made = checked(read("hybrids.yaml"))
    equal = notes(made, made.studies["equal_updates"])
    assert equal["training"] == "40 updates of 24 problems per stage unless noted"
    assert equal["runs"]["two_stage-40_updates"] == "learning_rate 1e-05, sft for 3 times its updates"
    assert equal["runs"]["ghpo-40_updates"] == "learning_rate 0.0001" and "grpo-40_updates" not in equal["runs"]
    main = notes(made)
    assert main["training"].startswith("400 updates of 24 problems per stage, or as many as it takes to sample 200,000 tokens")
    assert "updates 192" in main["runs"]["sft"] and "sampled_tokens none" in main["runs"]["sft"] and "grpo" not in main["runs"]


def test_the_papers_rows_are_what_it_compares() -> None:
    made = checked(read("paper.yaml"))
    settings = {run.label: made.of_train(run) for run in made.all_runs}
    assert {s["updates"] * s["prompts_per_update"] for label, s in settings.items() if "sft" not in label} == {64000, 4000}
    assert settings["sft"]["updates"] * 64 == pytest.approx(3 * 46000, rel=0.001)
    assert settings["trapo-as_paper"]["learning_rate"] == 5e-6 and settings["trapo-as_released"]["prompts_per_update"] == 8
    assert spec(made, "base")["model"] == {
        "name": "qwen2.5_math_7b",
        "path": "models/qwen2.5_math_7b",
        "hub": spec(made, "base")["model"]["hub"],
        "rope_theta": 40000,
        "window": 16384,
    }
    assert made.axis(made.studies["alpha_sweep"]) == {
        "trapo-sft_loss": 0.0,
        "trapo-alpha_001": 0.01,
        "trapo-alpha_003": 0.03,
        "trapo": 0.1,
        "trapo-alpha_03": 0.3,
        "trapo-alpha_1": 1.0,
    }
    assert json.loads(made.evaluation_spec("oat_zero", 0))["within_window"] is True


def test_the_papers_graph_with_five_seeds_needs_neither_data_nor_network(tmp_path: Path) -> None:
    copy = tmp_path / "assay"
    ignored = shutil.ignore_patterns("results", ".git", ".snakemake", ".venv", "__pycache__", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=ignored)
    shutil.copytree(ROOT / "results" / "published", copy / "results" / "published")
    arguments = ["-n", "--configfile", "config/paper.yaml", "--config", "seeds=[0,1,2,3,4]"]
    done = subprocess.run([sys.executable, "-m", "snakemake", *arguments], cwd=copy, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]
    counts = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2 and line.split()[1].isdigit())
    assert int(counts["train"]) >= 90 and int(counts["study"]) == 6 and int(counts["corpus"]) == 4


PIPELINE = '''
"""Long: imitate for long, then reinforce."""
from engine.words import Stage
stages = (Stage("sft", method="sft", times={times}), Stage("grpo", method="grpo", parent="sft"))
'''


@pytest.mark.parametrize(("times", "updates", "warmup"), [(2.5, 480, 48), (0.25, 48, 5), (0.001, 1, 0)])
def test_a_stage_may_be_another_runs_for_longer_or_shorter(times: float, updates: int, warmup: int, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "methods", tmp_path / "m")
    (tmp_path / "m" / "long.py").write_text(PIPELINE.format(times=times))
    overrides = {"sft": read("miniature.yaml")["overrides"]["sft"], "long": {"learning_rate": 0.5, "group": 4}}
    made = plan(methods_dir=str(tmp_path / "m"), runs=["base", "long"], baseline="", overrides=overrides)
    lent, own = spec(made, "sft"), spec(made, "long", "sft")
    assert (lent["train"]["updates"], lent["train"]["warmup_updates"]) == (192, 19)
    assert (own["train"]["updates"], own["train"]["warmup_updates"]) == (updates, warmup)
    assert {**own["train"], "updates": 192, "warmup_updates": 19} == lent["train"]
    assert (own["run"], own["stage"], own["parent"]) == ("long", "sft", lent["parent"])
    reinforcing = spec(made, "long")
    assert reinforcing["parent"] == "results/miniature/long/seed0/sft" and reinforcing["method"]["settings"]["group"] == 4
    assert (reinforcing["train"]["learning_rate"], reinforcing["train"]["updates"]) == (0.5, 40)
    assert f"sft for {times:g} times its updates" in notes(made)["runs"]["long"]
    folders = made.stage_folders(made.runs, [0], trained=True)
    assert folders == ["results/miniature/long/seed0/sft", "results/miniature/long/seed0/grpo"]


def test_a_shared_stage_is_planned_and_counted_with_its_own_runs_settings() -> None:
    """Also where that run is no row, and where the pipeline has settings that only its own stages know."""
    made = plan(runs=["base", "sft_then_grpo"], baseline="", overrides={"sft": {"updates": 400}, "sft_then_grpo": {"group": 4}})
    assert spec(made, "sft_then_grpo", "sft") == spec(made, "sft") and spec(made, "sft")["train"]["updates"] == 400
    assert spec(made, "sft_then_grpo")["method"]["settings"]["group"] == 4
    assert sorted(job.settings["updates"] for job in trainings(made)) == [40, 400]
