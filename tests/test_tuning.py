"""The trials of learning rates are trained as the rows of config/hybrids.yaml are, on problems and a seed of their own."""

import json
from typing import Any

import pandas as pd
import pytest
import yaml

from tests.conftest import ROOT
from workflow.plan import Plan, checked


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


def config(name: str) -> dict[str, Any]:
    return yaml.safe_load((ROOT / "config" / name).read_text())


def last_stage(made: Plan, label: str) -> dict[str, Any]:
    return json.loads(made.stage_spec(label, made.seeds[0], made.stages(made.run(label))[-1].name))


STUDY = config("hybrids.yaml")
MADE = pd.read_csv(ROOT / "config" / "tuning.csv")
TRIALS = {row: name for name in ("tuning.yaml", "tuning_imitation.yaml") for row in config(name)["runs"]}


def test_every_row_is_tried_on_problems_and_a_seed_that_no_result_uses() -> None:
    longer = {"base", "sft-576_updates"}  # with the rate of sft
    assert sorted(TRIALS) == sorted(set(STUDY["runs"]) - longer) and len(TRIALS) == 30
    for name in set(TRIALS.values()):
        tried = config(name)
        assert not set(tried["seeds"]) & set(STUDY["seeds"]) and not set(tried["benchmarks"]) & set(STUDY["benchmarks"])


def test_every_row_has_four_trials_at_the_rates_of_its_kind() -> None:
    rates = {
        "tuning.yaml": ["1.0e-5", "3.0e-5", "1.0e-4", "3.0e-4"],
        "tuning_imitation.yaml": ["1.0e-4", "3.0e-4", "1.0e-3", "3.0e-3"],
    }
    assert set(MADE["run"]) == set(TRIALS) and (MADE["problems"] == 400).all()
    for row, name in TRIALS.items():
        assert sorted(MADE[MADE["run"] == row]["learning_rate"]) == list(map(float, rates[name])), row
    for name, declared in rates.items():
        assert f"for rate in {' '.join(declared)}; do" in (ROOT / "config" / name).read_text()


@pytest.mark.parametrize("row", sorted(TRIALS))
def test_a_row_has_the_rate_of_its_best_trial(row: str) -> None:
    """The smallest on a tie. The rows of the study of equal updates have those of the main table."""
    best = MADE[MADE["run"] == row].sort_values(["solved", "learning_rate"], ascending=[False, True]).iloc[0]
    made = checked(STUDY)
    labels = [run.label for run in made.all_runs if run.label in (row, f"{row}-40_updates")]
    assert row in labels
    for label in labels:
        assert last_stage(made, label)["train"]["learning_rate"] == best["learning_rate"], label


@pytest.mark.parametrize("row", sorted(TRIALS))
def test_a_trial_is_trained_as_the_row_is_but_for_its_rate(row: str) -> None:
    # rif_rft's filter alone samples more than the main table's budget
    trial, own = (
        last_stage(checked(config(TRIALS[row])), row),
        last_stage(checked(STUDY), "rif_rft-40_updates" if row == "rif_rft" else row),
    )
    assert trial["method"] == own["method"] and trial["model"]["path"] == own["model"]["path"]
    assert {**trial["train"], "learning_rate": 0} == {**own["train"], "learning_rate": 0}
