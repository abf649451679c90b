"""Real Snakemake runs: a new method from one file, nothing redone, one method redone, real data, and bad configurations."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from engine import samples
from tests.conftest import METHODS, ROOT, SHARED

TEN_LINES = '''"""Half: imitate the first half of a demonstration."""
from dataclasses import dataclass
from engine.reduce import mean_over_tokens
from engine.words import Trajectory, expert
@dataclass(frozen=True)
class Method:
    share: float = 0.5
    reduce = mean_over_tokens
    def explore(self, problem, context): return [Trajectory(problem, (expert(problem.prefix(self.share)),))]
    def loss(self, t): return -t.logp
'''
SMALL = {
    "profile": "test",
    "runs": ["base", "half", "sft_then_grpo"],
    "seeds": [0],
    "benchmarks": ["mini_sums"],
    "train_data": "miniature",
    "model": yaml.safe_load((ROOT / "config" / "miniature.yaml").read_text())["model"],
    "template": "config/templates/miniature.txt",
    "train": {
        "updates": 2,
        "prompts_per_update": 4,
        "learning_rate": 1e-4,
        "max_prompt_tokens": 64,
        "max_response_tokens": 80,
    },
    "evaluation": {"max_prompt_tokens": 64, "max_new_tokens": 16},
}


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the repository with one more method in it."""
    copy = tmp_path_factory.mktemp("checkout") / "assay"
    ignored = shutil.ignore_patterns("results", ".git", ".snakemake", ".venv", "__pycache__", ".pytest_cache", "*.egg-info")
    shutil.copytree(ROOT, copy, ignore=ignored)
    shutil.copytree(ROOT / "results" / "published", copy / "results" / "published")
    (copy / "methods" / "half.py").write_text(TEN_LINES)
    return copy


def snakemake(checkout: Path, config: dict, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = checkout / "test.yaml"
    path.write_text(yaml.safe_dump(config))
    cores = [] if "--cores" in arguments else ["--cores", "2"]
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--configfile", str(path), *cores, *arguments],
        cwd=checkout,
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": "", "OMP_NUM_THREADS": "1"},
    )


def jobs(planned: str) -> set[str]:
    """Which stages a dry run would train."""
    return {
        line.split("results/test/")[1].strip()
        for line in planned.splitlines()
        if "output: " in line and line.endswith("done.json")
    }


def test_no_more_jobs_run_at_a_time_than_there_are_gpus_for(checkout: Path) -> None:
    done = snakemake(checkout, {**SMALL, "hardware": {"gpus": 3}}, "results/test/data/mini_sums.jsonl")
    assert done.returncode == 0 and 'Resource("gpu", 3)' in done.stderr, done.stderr
    done = snakemake(
        checkout, {**SMALL, "hardware": {"gpus": 3}}, "-F", "results/test/data/mini_sums.jsonl", "--resources", "gpu=2"
    )
    assert 'Resource("gpu", 2)' in done.stderr, done.stderr


def test_a_method_is_one_file_and_the_workflow_redoes_only_what_changed(checkout: Path) -> None:
    first = snakemake(checkout, SMALL)
    assert first.returncode == 0, first.stderr[-3000:]
    assert "half" in first.stdout and "sft_then_grpo" in first.stdout
    assert "Detectable paired difference of two runs" in first.stderr  # said before anything is run
    home = checkout / "results" / "test"
    for suffix in ("md", "csv", "tex", "txt"):
        assert "half" in (home / "tables" / f"main.{suffix}").read_text()
    done = json.loads((home / "half" / "seed0" / "half" / "done.json").read_text())
    assert done["updates"] == 2 and done["costs"]["trained_tokens_expert"] > 0
    assert len((home / "half" / "seed0" / "half" / "metrics.jsonl").read_text().splitlines()) == 2
    # the first stage of sft_then_grpo is sft's own checkpoint, and there is only one
    assert [str(p.relative_to(home)) for p in home.rglob("sft/done.json")] == ["sft/seed0/sft/done.json"]

    again = snakemake(checkout, SMALL)
    assert again.returncode == 0 and "Nothing to be done" in again.stderr

    time.sleep(1.1)  # file times of one second's resolution must be able to differ
    (checkout / "methods" / "half.py").touch()
    assert jobs(snakemake(checkout, SMALL, "-n").stdout) == {"half/seed0/half/done.json"}
    (checkout / "methods" / "half.py").write_text(TEN_LINES.replace("0.5", "0.6"))
    assert jobs(snakemake(checkout, SMALL, "-n").stdout) == {"half/seed0/half/done.json"}
    (checkout / "methods" / "half.py").write_text(TEN_LINES)
    (checkout / "methods" / "grpo.py").write_text((METHODS / "grpo.py").read_text() + "\n")
    changed = jobs(snakemake(checkout, SMALL, "-n").stdout)
    assert "sft_then_grpo/seed0/grpo/done.json" in changed and "sft/seed0/sft/done.json" not in changed
    shutil.copy(METHODS / "grpo.py", checkout / "methods" / "grpo.py")


def test_training_is_redone_for_what_changes_it_and_for_nothing_else(checkout: Path) -> None:
    """On a prepared corpus, after a pre-flight."""
    config = {**SMALL, "profile": "redone", "runs": ["base", "grpo"], "train_data": "miniature_openr1"}
    done = snakemake(checkout, config)
    assert done.returncode == 0, done.stderr[-3000:]

    def planned(**changes: object) -> set[str]:
        """The rules that would run again."""
        again = snakemake(checkout, {**config, **changes}, "-n")
        assert again.returncode == 0, again.stderr[-3000:]
        words = [line.split() for line in again.stdout.splitlines()]
        return {line[0] for line in words if len(line) == 2 and line[1].isdigit() and line[0] != "total"}

    train, evaluation = config["train"], config["evaluation"]
    assert planned() == set()
    for changes in (
        {"train": {**train, "micro_batch_tokens": 512, "sample_batch_tokens": 4096, "checkpoint_every": 1}},
        {"evaluation": {**evaluation, "sample_batch_tokens": 4096}},
        {"preflight_problems": 5},
    ):
        assert "report" in planned(**changes) and not planned(**changes) & {"train", "generate", "preflight"}, changes
    more = planned(benchmarks=["mini_sums", "mini_long"])
    assert "generate" in more and "overlap" in more and not more & {"train", "corpus"}
    for changes in (
        {"train": {**train, "temperature": 0.8}},
        {"train": {**train, "learning_rate": 2e-4, "min_finished": 0.1}},
        {"train_data": "miniature_weak"},
        {"train": {**train, "max_response_tokens": 79}},
    ):
        assert "train" in planned(**changes), changes
    assert "corpus" in planned(train_data="miniature_weak") and "corpus" in planned(train={**train, "max_response_tokens": 79})


def test_every_table_carries_its_certificate_and_its_provenance(checkout: Path) -> None:
    """After the run above: digests in the scores, the summary under each table, and nothing for `assay verify` to find."""
    home = checkout / "results" / "test"
    summary = json.loads((home / "certificate.json").read_text())["summary"]
    assert "all checks passed in 4 of 4 stages" in summary and "grader self-check on 2 files" in summary
    assert summary[:16] in (home / "certificate.md").read_text()
    for table in ("main", "intervals", "responses", "costs"):
        assert f"Certificate: {summary[:16]}" in (home / "tables" / f"{table}.txt").read_text()
    stage = json.loads((home / "half" / "seed0" / "half" / "certificate.json").read_text())
    scores = (home / "scores.csv").read_text().splitlines()
    assert scores[0].endswith(",certificate") and any(line.endswith(stage["digest"]) for line in scores if "half" in line)
    made = json.loads((home / "tables" / "provenance.json").read_text())
    assert made["made"]["command"]["typed"].startswith("snakemake --configfile")
    assert len(made["outputs"]) == 16 and made["about"]["config"] and made["about"]["seeds"] == "0"
    verified = assay(checkout, "verify", "results/test")
    assert verified.returncode == 0 and "all match" in verified.stdout, verified.stdout
    table = home / "tables" / "main.md"
    table.write_text(table.read_text().replace("half", "hlaf"))
    verified = assay(checkout, "verify", "results/test")
    assert verified.returncode == 1 and "tables/main.md" in verified.stdout
    table.write_text(table.read_text().replace("hlaf", "half"))


def assay(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "engine.cli", *arguments]
    return subprocess.run(command, cwd=checkout, text=True, capture_output=True, env={**os.environ, "PYTHONPATH": ""})


def test_one_core_and_two_give_the_same_results(checkout: Path) -> None:
    """The run above used two; another folder with one: weights, metrics, completions, certificates and scores agree."""
    done = snakemake(checkout, {**SMALL, "profile": "single"}, "--cores", "1")
    assert done.returncode == 0, done.stderr[-3000:]
    two, one = checkout / "results" / "test", checkout / "results" / "single"
    names = (
        "model.safetensors",
        "metrics.jsonl",
        "certificate.json",
        "*.samples.parquet",
        "*.grades.parquet",
        "scores.csv",
        "main.csv",
    )
    files = [path.relative_to(one) for name in names for path in sorted(one.rglob(name))]
    assert len(files) == 4 + 4 + 5 + 3 + 3 + 1 + 1
    assert [f for f in files if (one / f).read_bytes() != (two / f).read_bytes()] == []


def test_an_injected_bug_marks_its_rows(checkout: Path) -> None:
    config = {**SMALL, "runs": ["base", "grpo"]}
    done = snakemake(checkout, config, "--config", "inject=shared_group_seed")
    assert done.returncode == 0, done.stderr[-3000:]
    home = checkout / "results" / "test"
    for table in ("main", "intervals", "responses", "costs"):
        text = " ".join((home / "tables" / f"{table}.txt").read_text().split())
        assert "grpo+shared_group_seed" in text.replace("grpo +", "grpo+") and "trained with a bug injected on purpose" in text
        assert "FAILED on purpose: grpo+shared_group_seed seed 0 (group diversity)" in text
    assert not (home / "grpo").exists()  # a clean run of that name would live there
    planned = snakemake(checkout, config, "-n", "--config", "inject=shared_seed")
    assert planned.returncode == 1
    assert "unknown bug to inject 'shared_seed'; did you mean 'shared_group_seed'" in planned.stderr + planned.stdout


def test_bug_study_compares_every_bug_with_the_clean_run(checkout: Path) -> None:
    done = snakemake(checkout, {**SMALL, "runs": ["base", "half"]}, "bug_study")
    assert done.returncode == 0, done.stderr[-3000:]
    folder = checkout / "results" / "test" / "bug_study"
    rows = (folder / "bug_study.csv").read_text().splitlines()
    bugs = yaml.safe_load((ROOT / "config" / "bugs.yaml").read_text())
    assert all(bug in rows[0] for bug in bugs) and any(row.startswith("half") for row in rows)
    assert (folder / "bug_study.png").stat().st_size > 10_000
    assert "half" in done.stdout and "Caught by: layout" in " ".join(done.stdout.split())


def test_the_contract_suite_picks_the_new_method_up(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/test_methods.py", "-k", "half", "-p", "no:cacheprovider"],
        cwd=checkout,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stdout
    assert "10 passed" in done.stdout


def test_the_example_in_the_readme_keeps_the_contract(tmp_path: Path) -> None:
    example = (ROOT / "README.md").read_text().split("```python\n")[1].split("```")[0]
    (tmp_path / "best_of_four.py").write_text(example)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/test_methods.py", "-p", "no:cacheprovider"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, "ASSAY_METHODS": str(tmp_path)},
    )
    assert done.returncode == 0, done.stdout
    assert "12 passed" in done.stdout


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"runs": ["base", "trpo"]}, "unknown method 'trpo'; did you mean 'trapo'"),
        (
            {"runs": ["base", "trapo-as_relased"]},
            "unknown preset of method 'trapo': 'as_relased'; did you mean 'as_released'",
        ),
        ({"benchmarks": ["mini_sum"]}, "unknown benchmark 'mini_sum'; did you mean 'mini_sums'"),
        ({"lerning_rate": 1}, "unknown setting 'lerning_rate'"),
        ({"train": {**SMALL["train"], "update": 3}}, "unknown setting 'train.update'; did you mean 'train.updates'"),
        ({"train": {**SMALL["train"], "updates": 0}}, "updates"),
        ({"overrides": {"half": {"shar": 1.0}}}, "unknown setting in overrides of half: 'shar'; did you mean 'share'"),
        ({"overrides": {"half": {"share": "all"}}}, "setting 'share' of method 'half' is 'all'"),
        ({"overrides": {"half": {"updates": 0}}}, "overrides of half, updates: 0 is less than the minimum"),
        ({"overrides": {"trapo": {"clip": "low"}}, "runs": ["trapo"]}, "it must be a number or nothing"),
        ({"overrides": {"trapo": {"reduce": "mean"}}, "runs": ["trapo"]}, "'mean' is no denominator"),
        ({"overrides": {"hlf": {}}}, "unknown run in overrides: 'hlf'; did you mean 'half'"),
        (
            {"inject": "stale_weights", "runs": ["base", "half+mean_of_means"]},
            "run 'half+mean_of_means', which has a bug already",
        ),
        ({"inject": "dropped_microbatch", "train": {**SMALL["train"], "zero_stage": 3}}, "it needs train.zero_stage in [1, 2]"),
        ({"template": "config/templates/none.txt"}, "template config/templates/none.txt does not exist"),
    ],
)
def test_bad_configurations_are_named_with_the_nearest_match(checkout: Path, change: dict, message: str) -> None:
    planned = snakemake(checkout, {**SMALL, **change}, "-n")
    assert planned.returncode == 1
    assert message in planned.stderr + planned.stdout


def test_a_method_that_does_not_import_is_named(checkout: Path) -> None:
    (checkout / "methods" / "broken.py").write_text("import nothing_of_this_name\n")
    planned = snakemake(checkout, {**SMALL, "runs": ["base", "broken"]}, "-n")
    (checkout / "methods" / "broken.py").unlink()
    assert planned.returncode == 1
    assert "method file methods/broken.py does not import: ModuleNotFoundError" in planned.stderr + planned.stdout


SHIPPED = [path for path in sorted((ROOT / "config").glob("*.yaml")) if "profile" in yaml.safe_load(path.read_text())]


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_plans(checkout: Path, path: Path) -> None:
    if path.stem == "real_smoke" and not SHARED.is_dir():
        pytest.skip("skipped: the real data is not beside the repository")
    config = {**yaml.safe_load(path.read_text()), "data_dir": str(SHARED / "data")}
    planned = snakemake(checkout, config, "-n")
    assert planned.returncode == 0, planned.stderr[-2000:]


@pytest.mark.parametrize(("typed", "chosen"), [(["hybrids"], "hybrids"), ([], "miniature")])
def test_the_target_of_all_methods_has_a_configuration_of_its_own(checkout: Path, typed: list[str], chosen: str) -> None:
    around = {**{key: value for key, value in os.environ.items() if key != "ASSAY_COMMAND"}, "PYTHONPATH": ""}
    command = [sys.executable, "-m", "snakemake", *typed, "-n", "--quiet", "rules", "--cores", "2"]
    planned = subprocess.run(command, cwd=checkout, text=True, capture_output=True, env=around)
    assert planned.returncode == 0, planned.stderr[-2000:]
    assert f"Config file(s): ['config/{chosen}.yaml']" in planned.stdout


def test_real_data_passes_through_every_rule(checkout: Path, shared: Path) -> None:
    """GSM8K problems and solutions train the miniature; the seven real benchmarks are read, generated for and graded."""
    config = yaml.safe_load((ROOT / "config" / "real_smoke.yaml").read_text())
    config["data_dir"] = str(shared / "data")
    config["evaluation"]["problems"] = 60
    run = snakemake(checkout, config)
    assert run.returncode == 0, run.stderr[-3000:]
    home = checkout / "results" / config["profile"]
    sizes = {"aime24": 30, "aime25": 30, "amc": 83, "math500": 500, "minerva": 272, "olympiadbench": 675, "arc_c": 1172}
    golds = {name: json.loads((home / "data" / f"{name}.golds.json").read_text()) for name in sizes}
    assert {name: found["golds"] for name, found in golds.items()} == sizes
    for name, size in sizes.items():
        rows = samples.read(home / "sft" / "seed0" / "eval" / f"{name}.grades.parquet", samples.GRADES)
        assert len(rows) == min(size, 60)
    trained = [json.loads(p.read_text())["costs"] for p in home.rglob("done.json") if "base" not in str(p.relative_to(home))]
    assert trained and all(c["trained_tokens_expert"] > 0 for c in trained)
