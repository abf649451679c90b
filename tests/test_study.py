"""Studies: what the table and the figure hold by hand, what is missing says so, and the table compiles."""

import json
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure

from analysis import published, render, scores, study, style
from analysis.certificate import assemble, read_stage
from analysis.evidence import Evidence, gather
from analysis.intervals import difference
from analysis.scores import read_items, read_table
from analysis.study import printed_means, study_table
from analysis.study_figures import Axis, axis_figure, row_figure
from tests.results_folder import write_certificate, write_done, write_grades
from tests.synthetic import FIVE, evidence
from tests.test_latex import compiled, needs_latex

DASH, MINUS = render.DASH, render.MINUS
NOTES = {"title": "A trust region", "about": "What alpha does.", "training": "5 updates"}
# run -> per seed a letter per problem
SWEEP = {"grpo": ["ccww", "cwww"], "trapo-a": ["cccw", "cccw"], "trapo-b": ["cccc", "cccw"]}
AXIS = Axis("alpha", {"trapo-a": 0.01, "trapo-b": 1.0})


def folder(root: Path, runs: dict[str, list[str]], notes: dict | None = None, without: str = "") -> Path:
    """A study's folder; every run has the benchmarks sums and words, with the same verdicts, except `without` words."""
    grades, stages = [], []
    for run, seeds in runs.items():
        for seed, letters in enumerate(seeds):
            verdicts = {f"p{i}": letter for i, letter in enumerate(letters)}
            benchmarks = ("sums",) if run == without else ("sums", "words")
            grades += [write_grades(root, run, seed, benchmark, verdicts) for benchmark in benchmarks]
            stages.append(write_certificate(root, run, seed))
    scores.main([*map(str, grades), "--certificates", *map(str, stages), "--out", str(root / "scores.csv")])
    (root / "certificate.json").write_text(json.dumps(assemble([read_stage(path) for path in stages], [])))
    (root / "notes.json").write_text(json.dumps({**NOTES, **(notes or {})}))
    return root


def read(root: Path, rows: list[str], **notes: object) -> Evidence:
    certificate = json.loads((root / "certificate.json").read_text())
    table, items = read_table(root / "scores.csv"), read_items(root / "items.parquet")
    return gather(table, items, rows, {"sums": "Sums", "words": "Words"}, {**NOTES, **notes}, certificate)


def command(root: Path, runs: list[str], *extra: str) -> int:
    return study.main(
        [
            *("--scores", str(root / "scores.csv"), "--items", str(root / "items.parquet"), "--runs", *runs),
            *("--certificate", str(root / "certificate.json"), "--notes", str(root / "notes.json")),
            *("--benchmarks", "sums=Sums", "words=Words", "--name", "sweep", "--out-dir", str(root / "out"), *extra),
        ]
    )


def drawn(figure: Figure, marker: str) -> list[tuple[float, float]]:
    """Where a figure has this marker."""
    lines = [line for line in figure.axes[0].lines if line.get_marker() == marker]
    return [(x, y) for line in lines for x, y in np.asarray(line.get_xydata()).tolist()]


# The table


def test_the_table_by_hand(tmp_path: Path) -> None:
    table = study_table(read(folder(tmp_path, SWEEP), list(SWEEP)), "sweep", AXIS)
    assert table.name == "sweep" and table.caption == "A trust region."
    assert table.cells.columns.tolist() == ["alpha", "Sums", "Words", "Avg.", "95 %", "Δ", "95 % of Δ", "p (Holm)"]
    assert table.cells.T["grpo"].tolist()[:4] == ["", "37.5", "37.5", "37.5"] and table.cells.T["grpo"].tolist()[5:] == [""] * 3
    assert table.cells.T["trapo-b"].tolist()[:4] == ["1", "87.5", "87.5", "87.5"] and table.cells.T["trapo-b"]["Δ"] == "+50.0"
    points = {run: np.array([[100.0 * (x == "c") for x in letters] for letters in seeds]) for run, seeds in SWEEP.items()}
    expected = difference([points["trapo-b"]] * 2, [points["grpo"]] * 2, same_seeds=True)
    rows = table.numbers.to_dict("index")
    numbers = rows["trapo-b"]
    assert [numbers[name] for name in ("setting", "sums", "mean", "difference")] == [1.0, 87.5, 87.5, 50.0]
    assert (numbers["difference_low"], numbers["difference_high"]) == pytest.approx((expected.low, expected.high))
    assert np.isnan(rows["grpo"]["setting"]) and np.isnan(rows["grpo"]["difference"])
    assert "Training: 5 updates." in table.footer and table.footer[-1].startswith("Certificate: ")
    assert any("template plain 0123456789ab, grader assay-1" in line for line in table.footer)


def test_differences_are_to_the_baseline_and_corrected_for_all_rows(tmp_path: Path) -> None:
    made = read(folder(tmp_path, SWEEP), list(SWEEP), baseline="trapo-a")
    table = study_table(made, "sweep")
    assert table.cells["Δ"].tolist() == [f"{MINUS}37.5", "", "+12.5"]
    summary = made.summaries[""].loc[["grpo", "trapo-b"], ["p", "p_holm"]]
    assert (summary["p_holm"] > summary["p"]).any()
    printed = [render.probability(value) for value in summary["p_holm"]]
    assert table.cells["p (Holm)"].tolist() == [printed[0], "", printed[1]]


def test_what_is_missing_is_a_dash_with_its_reason(tmp_path: Path) -> None:
    made = read(folder(tmp_path, SWEEP, without="trapo-a"), list(SWEEP))
    table = study_table(made, "sweep")
    assert table.cells.T["trapo-a"].tolist() == ["75.0", DASH + "¹", *[DASH + "²"] * 5]
    assert table.footer[0] == "¹ this run was not graded on this benchmark."
    assert table.footer[1] == "² no mean without every benchmark."
    without = study_table(read(tmp_path, list(SWEEP), baseline="trapo-a"), "sweep")
    assert without.cells["Δ"].tolist() == [DASH + "³", DASH + "²", DASH + "³"] or "trapo-a was not graded" in str(
        without.footer
    )


def test_one_run_is_compared_with_nothing(tmp_path: Path) -> None:
    made = read(folder(tmp_path, {"trapo-a": ["ccww"]}), ["trapo-a"])
    table = study_table(made, "sweep")
    assert table.cells.columns.tolist() == ["Sums", "Words", "Avg.", "95 %"]
    assert "Training seeds: 1" in " ".join(table.footer)


def test_a_bug_carries_its_footnote(tmp_path: Path) -> None:
    runs = {"grpo": ["ccww"], "grpo+stale": ["cwww"]}
    made = read(folder(tmp_path, runs), list(runs), runs={"grpo+stale": "old weights sample"})
    table = study_table(made, "sweep")
    assert table.cells.index.tolist() == ["grpo", "grpo+stale¹"] and table.footer[0] == "¹ old weights sample."


def test_costs_are_of_each_run_with_what_it_starts_from(tmp_path: Path) -> None:
    made = read(folder(tmp_path, SWEEP), list(SWEEP))
    done = [write_done(tmp_path, run, 0, "train", [], sampled_tokens=2e6, flops=3e15) for run in ("grpo", "trapo-a")]
    table = study_table(made, "sweep", costs=study.run_costs(done, made.runs))
    assert table.cells["Sampled\n(k)"].tolist() == ["2,000.0", "2,000.0", DASH + "¹"]
    assert table.cells["FLOPs\n(T)"].tolist()[:2] == ["3,000.0", "3,000.0"]
    assert table.footer[0] == "¹ no finished stage of this run."


# Numbers printed by others


@pytest.fixture(scope="module")
def papers() -> pd.DataFrame:
    return published.read_published(Path("results/published"))


def test_printed_means_are_those_of_the_same_benchmarks(papers: pd.DataFrame) -> None:
    made, _ = evidence(["grpo", "luffy"])
    name = "(Qwen2.5-7B-Instruct)"
    pairs = [f"grpo=trapo=GRPO {name}", f"grpo=luffy=On-policy RL {name}", f"luffy=luffy=LUFFY {name}"]
    found = printed_means(papers, pairs, made)
    assert found["mean"].tolist() == pytest.approx(
        [40.6, 40.6, 45.86]
    )  # the last two from the cells: LUFFY prints a mean of six
    assert found["source"].tolist() == ["arXiv:2512.17636 Figure 5", *["arXiv:2504.14945v5 Table 3"] * 2]
    made, _ = evidence(["grpo"], FIVE[:3])
    assert np.isnan(printed_means(papers, pairs[:1], made)["mean"].iloc[0])  # a bar over five says nothing about three


def test_printed_means_stand_in_a_column_of_each_paper(papers: pd.DataFrame) -> None:
    made, _ = evidence(["base", "grpo", "luffy"], notes=NOTES)
    pairs = ["grpo=trapo=GRPO (Qwen2.5-7B-Instruct)", "luffy=luffy=LUFFY (Qwen2.5-7B-Instruct)"]
    table = study_table(made, "fig5", theirs=printed_means(papers, pairs, made))
    assert table.cells["Printed\ntrapo"].tolist() == ["", "40.6¹", ""] and table.cells["Printed\nluffy"].tolist() == [
        "",
        "",
        "45.9",
    ]
    assert table.marks["Printed\ntrapo"].tolist() == ["", "theirs", ""]
    assert table.footer[0] == "¹ equals the mean of LUFFY's Table 3."
    assert any(line.startswith("trapo: arXiv:2512.17636 Figure 5 (temperature 0.6") for line in table.footer)
    assert "nan" not in render.to_text(table)
    made, _ = evidence(["base", "grpo"], FIVE[:3], NOTES)
    table = study_table(made, "fig5", theirs=printed_means(papers, pairs[:1], made))
    assert table.cells["Printed\ntrapo"].tolist() == ["", DASH + "¹"]
    assert table.footer[0] == "¹ GRPO (Qwen2.5-7B-Instruct): no mean of these benchmarks is printed."


# The figure


def test_the_axis_puts_runs_at_their_values_and_the_others_in_bands(tmp_path: Path) -> None:
    made = read(folder(tmp_path, SWEEP), list(SWEEP))
    with matplotlib.rc_context(style.STYLE):
        figure = axis_figure(made, AXIS, None, "benchmarks")
        plain = axis_figure(made, Axis("alpha", {"trapo-a": 0.1, "trapo-b": 1.0}), None, "benchmarks")
        zero = axis_figure(made, Axis("alpha", {"grpo": 0.0, "trapo-a": 0.01, "trapo-b": 1.0}), None, "benchmarks")
    axes = figure.axes[0]
    assert drawn(figure, "o") == [(0.01, 75.0), (1.0, 87.5)]
    assert [np.asarray(line.get_ydata()).tolist() for line in axes.lines if line.get_linestyle() == "--"] == [[37.5, 37.5]]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["grpo (baseline)"]
    assert [figure.axes[0].get_xscale() for figure in (figure, plain, zero)] == ["log", "linear", "symlog"]
    assert [tick.get_text() for tick in zero.axes[0].get_xticklabels()] == ["0", "0.01", "1"]
    bars = made.summaries[""].loc[["trapo-a", "trapo-b", "grpo"]]
    assert axes.get_ylim()[0] <= bars["low"].min() and axes.get_ylim()[1] >= bars["high"].max()
    assert (bars["high"] > bars["mean"]).any()


def test_ties_and_a_single_seed_are_said(tmp_path: Path) -> None:
    made = read(folder(tmp_path, {run: seeds[:1] for run, seeds in SWEEP.items()}, without="grpo"), list(SWEEP))
    with matplotlib.rc_context(style.STYLE):
        figure = axis_figure(made, Axis("alpha", dict.fromkeys(("trapo-a", "trapo-b"), 0.1)), None, "benchmarks")
    said = figure.legends[0].get_title().get_text().replace("\n", " ")
    assert "At 0.1: trapo-a, trapo-b." in said and "Training seeds: 1" in said and "No mean: grpo." in said
    assert len(drawn(figure, "o")) == 2
    with matplotlib.rc_context(style.STYLE):
        none = axis_figure(made, Axis("alpha", {"grpo": 1.0}), None, "benchmarks")
    assert "No run with a value of alpha is graded on every benchmark." in none.texts[0].get_text()


def test_rows_have_dots_numbers_and_hollow_marks_of_papers(papers: pd.DataFrame) -> None:
    runs = ["base", "grpo", "luffy"]
    made, _ = evidence(runs, notes={"baseline": "grpo"})
    pairs = ["grpo=trapo=GRPO (Qwen2.5-7B-Instruct)", "luffy=luffy=LUFFY (Qwen2.5-7B-Instruct)"]
    with matplotlib.rc_context(style.STYLE):
        figure = row_figure(made, printed_means(papers, pairs, made), "benchmarks")
    means = made.summaries[""]["mean"]
    assert drawn(figure, "o") == [(pytest.approx(means[run]), place) for place, run in enumerate(runs)]
    ((x, y),) = drawn(figure, "D")
    assert x == 40.6 and round(y) == 1 and y != 1
    hollow = next(line for line in figure.axes[0].lines if line.get_marker() == "D")
    assert hollow.get_markerfacecolor() == "white"
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["printed: trapo, arXiv:2512.17636 Figure 5", "printed: luffy, arXiv:2504.14945v5 Table 3"]
    beside = [text.get_text() for text in figure.axes[0].texts]
    assert [text.split(" ")[0] for text in beside] == [f"{means[run]:.1f}" for run in runs]


def test_a_row_without_a_mean_and_one_with_a_bug_are_told_apart(tmp_path: Path) -> None:
    runs = {"grpo": ["ccww"], "grpo+stale": ["cwww"], "trapo": ["cccc"]}
    made = read(folder(tmp_path, runs, without="trapo"), list(runs), runs={"grpo+stale": "old weights sample"})
    with matplotlib.rc_context(style.STYLE):
        figure = row_figure(made, None, "benchmarks")
    assert len(drawn(figure, "o")) == 2
    assert figure.axes[0].texts[2].get_text() == "no mean"
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["with an injected bug"]


# The command


def test_the_command_writes_the_same_table_and_figure_twice(tmp_path: Path) -> None:
    root = folder(tmp_path, SWEEP, {"baseline": "not_here", "groups": {"RL": ["not_here"]}, "columns": {"a": ["other"]}})
    axis = ("--axis", "alpha", "trapo-a=0.01", "trapo-b=1")
    assert command(root, list(SWEEP), *axis) == 0
    made = {path.name: path.read_bytes() for path in (root / "out").iterdir()}
    assert set(made) == {f"sweep.{kind}" for kind in ("md", "tex", "txt", "csv", "png", "pdf")}
    assert command(root, list(SWEEP), *axis) == 0
    assert {path.name: path.read_bytes() for path in (root / "out").iterdir()} == made


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        (("--axis", "alpha", "luffy=1"), "--axis gives 'alpha' of run 'luffy', which is no row: choose among grpo"),
        (("--axis", "alpha", "grpo=low"), "run 'grpo' the value 'low': expected a number"),
        (("--axis", "alpha", "grpo=nan"), "run 'grpo' the value 'nan': expected a number"),
        (("--axis", "alpha"), "--axis 'alpha' names no run"),
        (("--pairs", "luffy=trapo=TRAPO"), "--pairs names run 'luffy', which is no row"),
        (("--pairs", "grpo=trapo=GRPU"), "'GRPU' of 'trapo', which is not there: it has methods"),
        (("--pairs", "grpo=tropa=GRPO"), "'GRPO' of 'tropa', which is not there: it has papers"),
        (("--pairs", "grpo=luffy=SFT", "grpo=luffy=LUFFY"), "gives run 'grpo' two counterparts in 'luffy'"),
        (("--baseline", "luffy"), "baseline 'luffy' is no row"),
    ],
)
def test_bad_input_is_named(tmp_path: Path, capsys: pytest.CaptureFixture, extra: tuple[str, ...], message: str) -> None:
    root = folder(tmp_path, SWEEP)
    assert command(root, list(SWEEP), *extra) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ") and message in told and told.count("\n") == 1


def test_a_study_has_a_title(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert command(folder(tmp_path, SWEEP, {"title": ""}), list(SWEEP)) == 1
    assert "notes.json has no 'title'" in capsys.readouterr().err


@needs_latex
@pytest.mark.parametrize("seeds", [1, 3])
def test_the_latex_table_compiles(tmp_path: Path, papers: pd.DataFrame, seeds: int) -> None:
    runs = [
        "base",
        "sft",
        "grpo",
        "luffy",
        "trapo",
        "trapo-micro_groups_2_2_2_2",
        "trapo-as_released",
        "grpo+openrlhf_loss_mean",
    ]
    made, _ = evidence(runs, notes={**NOTES, "runs": {runs[-1]: "a bug"}}, seeds=seeds)
    axis = Axis("share of flipped verdicts (alpha)", {"trapo": 0.05})
    theirs = printed_means(papers, ["grpo=trapo=GRPO (Qwen2.5-7B-Instruct)", "luffy=luffy=LUFFY"], made)
    done = [write_done(tmp_path, run, 0, "train", [], sampled_tokens=2e9, flops=3e18) for run in runs]
    render.write(study_table(made, "study", axis, theirs, study.run_costs(done, runs)), tmp_path)
    one, _ = evidence(["trapo"], notes=NOTES, seeds=seeds)
    render.write(study_table(one, "one"), tmp_path)
    assert "equals the mean of LUFFY" in compiled(tmp_path, ["study", "one"])
