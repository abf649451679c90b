"""The pilots of the base model: what is sampled and refused, and the figure and table drawn from it."""

import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from analysis import prefix_pilot as drawing
from analysis.intervals import estimate
from analysis.style import STYLE
from engine import pilot, record, samples
from engine.words import Problem
from tests.conftest import ROOT


@pytest.fixture
def asked(spec: dict) -> dict:
    """Pilots of the miniature's base model on eight of twelve training problems."""
    about = {key: spec[key] for key in ("seed", "sampler", "data", "template")}
    train = spec["train"] | {"max_response_tokens": 80}
    own = {"run": "base", "checkpoint": spec["parent"], "problems": 8, "min_finished": 0.5}
    return {**about, **own, "samples": 3, "ratios": [0, 0.5, 1], "train": train}


def test_preflight_says_what_the_base_model_does(asked: dict, tmp_path: Path) -> None:
    pilot.preflight(asked, tmp_path / "a.json")
    found = record.read_json(tmp_path / "a.json")
    assert found["problems"] == 8 and found["finished"] > 0.8 and 1 < found["mean_tokens"] < 80
    assert found["template"].startswith("miniature ") and len(found["examples"]) == pilot.EXAMPLES
    assert any("\\boxed{" in example for example in found["examples"])


def test_preflight_refuses_a_model_that_does_not_end_its_answers(asked: dict, tmp_path: Path) -> None:
    """Four tokens are too few for a box; the command line says so in one line, and writes nothing."""
    short = {**asked, "train": {**asked["train"], "max_response_tokens": 4}}
    command = [sys.executable, "-m", "engine.pilot", "preflight", "--out", str(tmp_path / "a.json")]
    made = subprocess.run([*command, "--spec", json.dumps(short)], cwd=ROOT, capture_output=True, text=True)
    (line,) = [line for line in made.stderr.splitlines() if "error: " in line]
    assert made.returncode == 1 and not (tmp_path / "a.json").exists()
    assert "0% of 8 responses" in line and "train.min_finished is 50%" in line
    assert asked["checkpoint"] in line and asked["template"] in line
    assert line.partition("Endings: ")[2].count("', '") == pilot.EXAMPLES - 1


def test_prefixes_are_continued_graded_and_counted(asked: dict, tmp_path: Path) -> None:
    pilot.prefixes(asked, tmp_path / "a.parquet")
    rows = samples.read(tmp_path / "a.parquet", pilot.PREFIXES)
    counts = pd.DataFrame(rows).groupby("ratio")["problem_id"].agg(["count", "nunique"])
    assert counts.to_dict("index") == {r: {"count": n, "nunique": 8} for r, n in ((0.0, 24), (0.5, 24), (1.0, 8))}
    by_ratio = {ratio: [row for row in rows if row["ratio"] == ratio] for ratio in (0, 0.5, 1)}
    assert all(row["prefix_tokens"] == 0 < row["tokens"] and not row["given"] for row in by_ratio[0])
    assert all(row["prefix_tokens"] > 0 < row["tokens"] and not row["given"] for row in by_ratio[0.5])
    assert any(row["correct"] for row in by_ratio[0]) and not all(row["correct"] for row in by_ratio[0])
    for row in by_ratio[1]:  # a demonstration is correct, and nothing is left to say
        assert row["correct"] and row["given"] and row["tokens"] == 0 and row["finish_reason"] == "prefix"


def test_prefixes_do_not_depend_on_the_order_of_the_data(asked: dict, tmp_path: Path) -> None:
    pilot.prefixes(asked, tmp_path / "a.parquet")
    rows = record.read_rows(Path(asked["data"]))
    assert len(rows) == 12
    record.write_rows(tmp_path / "turned.jsonl", reversed(rows))
    pilot.prefixes({**asked, "data": str(tmp_path / "turned.jsonl")}, tmp_path / "b.parquet")
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    pilot.prefixes({**asked, "seed": 1}, tmp_path / "c.parquet")
    first, other = (samples.read(tmp_path / name, pilot.PREFIXES) for name in ("a.parquet", "c.parquet"))
    assert [row["problem_id"] for row in first] != [row["problem_id"] for row in other]


def test_more_problems_keep_the_first() -> None:
    rows = [{"id": f"p{i}"} for i in range(30)]
    assert pilot.chosen(rows, 5, run=0) == pilot.chosen(rows, 12, run=0)[:5] != rows[:5]


def test_every_continuation_has_a_seed_of_its_own(problem: Problem) -> None:
    requests = [pilot.request(problem, ratio, 4, run) for ratio in (0, 0.2, 0.8) for run in (0, 1)]
    assert len({seed for request in requests for seed in request.seeds}) == 24
    assert [len(request.sample.prefix) for request in requests] == [0, 0, 2, 2, 8, 8]
    whole = pilot.request(problem, 1, 4, 0).sample
    assert whole.n == 1 and whole.max_new_tokens == 0 and whole.prefix == problem.demonstrations[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"problems": 13}, "problems is 13, and the data have 12"),
        ({"problems": 0}, "problems is 0"),
        ({"samples": 0}, "samples is 0"),
        ({"ratios": [0, 0]}, r"ratios \[0, 0\] must be distinct shares"),
        ({"ratios": [1.2]}, r"ratios \[1\.2\] must be distinct shares"),
        ({"ratios": []}, "must be distinct shares"),
    ],
)
def test_settings_that_make_no_sense_are_refused(asked: dict, tmp_path: Path, changes: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pilot.prefixes({**asked, **changes}, tmp_path / "a.parquet")


def test_problems_without_a_demonstration_have_no_prefix(asked: dict, tmp_path: Path) -> None:
    rows = record.read_rows(Path(asked["data"]))
    for row in rows[:6]:
        row.pop("demonstrations")
    record.write_rows(tmp_path / "half.jsonl", rows)
    with pytest.raises(ValueError, match="problems is 8, and the data have 6"):
        pilot.prefixes({**asked, "data": str(tmp_path / "half.jsonl")}, tmp_path / "a.parquet")


@pytest.mark.parametrize(
    ("text", "backtracking", "backward"),
    [
        ("7 + 5 = 12, so \\boxed{12}.", 0, 0),
        ("Wait, that is 13. Hold on: let me re-check. But no. Butter awaits.", 4, 0),
        ("Alternatively, let me double-check. Let me verify it", 3, 0),
        ("We need x. In order to find it, the goal is y; working backwards, I want z.", 0, 5),
    ],
)
def test_marks_are_whole_phrases_of_the_lists(text: str, backtracking: int, backward: int) -> None:
    assert len(pilot.BACKTRACKING.findall(text)) == backtracking
    assert len(pilot.BACKWARD_CHAINING.findall(text)) == backward


# Figure and table


def some_rows() -> pd.DataFrame:
    """Two ratios and a whole demonstration for 20 problems: 30 % and 60 % correct, marks in every second problem."""
    rows = [
        {"ratio": ratio, "problem_id": f"p{i:02d}", "sample": k, "correct": ratio == 1 or (i + 5 * k) % 10 < 10 * share}
        | {"given": ratio == 1, "tokens": tokens, "prefix_tokens": int(40 * ratio), "finish_reason": "stop"}
        | {"backtracking": i % 2 * (ratio < 1), "backward_chaining": 0}
        for ratio, share, tokens, count in ((0.0, 0.3, 50, 2), (0.5, 0.6, 25, 2), (1.0, 1.0, 0, 1))
        for i in range(20)
        for k in range(count)
    ]
    return pd.DataFrame(rows)


def test_the_summary_is_what_the_rows_say() -> None:
    found = drawing.summarise(some_rows())
    assert found["accuracy"].tolist() == pytest.approx([30, 60, 100])
    assert found["difference"].tolist() == pytest.approx([0, 30, 70])
    assert found["given"].tolist() == [0, 0, 100]
    points = np.array([[50.0 * sum((i + 5 * k) % 10 < 3 for k in range(2)) for i in range(20)]])
    wanted = estimate([points])
    first = found.iloc[0].to_dict()
    assert (first["low"], first["high"]) == pytest.approx((wanted.low, wanted.high))
    assert found["backtracking"].tolist() == pytest.approx([10, 20, np.nan], nan_ok=True)  # 20 marks in 2,000 tokens; in 1,000
    half = 1000 * 2.093 * (20 / 19 / 20) ** 0.5 / 100  # t quantile x standard error of 0 or 2 marks in 100 tokens
    assert (first["backtracking_low"], first["backtracking_high"]) == pytest.approx((10 - half, 10 + half), rel=1e-3)


def test_figure_and_table_show_the_summary(tmp_path: Path) -> None:
    rows = some_rows()
    summary = drawing.summarise(rows)
    with matplotlib.rc_context(STYLE):
        figure = drawing.pilot_figure(summary)
    left, right = figure.axes
    assert [np.asarray(line.get_ydata()).tolist() for line in left.lines] == [[30, 60, 100], [0, 0, 100]]
    assert np.asarray(right.lines[0].get_ydata(), dtype=float)[:2] == pytest.approx([10, 20])
    assert np.asarray(left.lines[0].get_xdata()).tolist() == [0, 50, 100]
    cells = drawing.pilot_table(rows, summary).cells
    assert cells.index.tolist() == ["0 %", "50 %", "100 %"]
    assert cells["Correct"].iloc[0].startswith("30.0 [") and cells["Correct"].iloc[2] == "100.0"
    assert cells["Difference"].iloc[0] == "" and cells["Difference"].iloc[1].startswith("+30.0 [")
    rows.to_parquet(tmp_path / "a.parquet")
    for folder in ("one", "two"):
        drawing.main(["--data", str(tmp_path / "a.parquet"), "--out-dir", str(tmp_path / folder)])
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {f"fig2_prefix_pilot.{kind}" for kind in ("pdf", "png", "md", "tex", "txt", "csv")}
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_file_that_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    rows = some_rows()
    rows.drop(columns="given").to_parquet(tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="lacks the column 'given'"):
        drawing.read(tmp_path / "a.parquet")
    rows[(rows["ratio"] > 0) | (rows["problem_id"] != "p00")].to_parquet(tmp_path / "b.parquet")
    with pytest.raises(ValueError, match="does not have the same problems for every ratio"):
        drawing.read(tmp_path / "b.parquet")
