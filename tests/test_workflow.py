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
    "model": {"path": "miniature/base"},
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
    (copy / "methods" / "half.py").write_text(TEN_LINES)
    return copy


def snakemake(checkout: Path, config: dict, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = checkout / "test.yaml"
    path.write_text(yaml.safe_dump(config))
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "2", "--configfile", str(path), *arguments],
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


def test_a_method_is_one_file_and_the_workflow_redoes_only_what_changed(checkout: Path) -> None:
    first = snakemake(checkout, SMALL)
    assert first.returncode == 0, first.stderr[-3000:]
    assert "half" in first.stdout and "sft_then_grpo" in first.stdout
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


def test_the_contract_suite_picks_the_new_method_up(checkout: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "tests/test_methods.py", "-k", "half", "-p", "no:cacheprovider"],
        cwd=checkout,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": ""},
    )
    assert done.returncode == 0, done.stdout
    assert "7 passed" in done.stdout


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
    assert "8 passed" in done.stdout


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


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_plans(checkout: Path, path: Path) -> None:
    if path.stem == "benchmarks":
        pytest.skip("the catalogue, not a configuration")
    if path.stem == "real_smoke" and not SHARED.is_dir():
        pytest.skip("skipped: the real data is not beside the repository")
    config = {**yaml.safe_load(path.read_text()), "data_dir": str(SHARED / "data")}
    planned = snakemake(checkout, config, "-n")
    assert planned.returncode == 0, planned.stderr[-2000:]


def test_real_data_passes_through_every_rule(checkout: Path, shared: Path) -> None:
    """GSM8K problems and solutions train the miniature; the six real benchmarks are read, generated for and graded."""
    config = yaml.safe_load((ROOT / "config" / "real_smoke.yaml").read_text())
    config["data_dir"] = str(shared / "data")
    run = snakemake(checkout, config)
    assert run.returncode == 0, run.stderr[-3000:]
    home = checkout / "results" / config["profile"]
    sizes = {"aime24": 30, "aime25": 30, "amc": 83, "math500": 500, "minerva": 272, "olympiadbench": 675}
    for name, size in sizes.items():
        rows = (home / "sft" / "seed0" / "eval" / f"{name}.grades.jsonl").read_text().splitlines()
        assert len(rows) == size
    trained = [json.loads(p.read_text())["costs"] for p in home.rglob("done.json") if "base" not in str(p.relative_to(home))]
    assert trained and all(c["trained_tokens_expert"] > 0 for c in trained)
