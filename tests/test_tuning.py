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
TRIALS = {row: name for name in ("tuning.yaml", "tuning_imitation.yaml") for row in config(name)["runs"]}


def test_every_row_is_tried_on_problems_and_a_seed_that_no_result_uses() -> None:
    assert sorted(TRIALS) == sorted(set(STUDY["runs"]) - {"base"}) and len(TRIALS) == 30
    for name in set(TRIALS.values()):
        tried = config(name)
        assert not set(tried["seeds"]) & set(STUDY["seeds"]) and not set(tried["benchmarks"]) & set(STUDY["benchmarks"])
    table = pd.read_csv(ROOT / "config" / "tuning.csv")
    assert len(table) and set(table["run"]) <= set(TRIALS) and not table.duplicated(["run", "learning_rate"]).any()


@pytest.mark.parametrize("row", sorted(TRIALS))
def test_a_trial_is_trained_as_the_row_is_but_for_its_rate(row: str) -> None:
    # rif_rft's filter alone samples more than the main table's budget
    trial, own = (
        last_stage(checked(config(TRIALS[row])), row),
        last_stage(checked(STUDY), "rif_rft-40_updates" if row == "rif_rft" else row),
    )
    assert trial["method"] == own["method"] and trial["model"]["path"] == own["model"]["path"]
    assert {**trial["train"], "learning_rate": 0} == {**own["train"], "learning_rate": 0}
