"""Figures: what is drawn is what the files say, names stand apart, and a figure without data says so."""

import json
import re
from itertools import combinations
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from analysis import curves, figures, names, result_figures, scores, style, training_figures
from analysis.render import signed
from analysis.statistics import pass_curves
from tests.results_folder import write_done, write_grades

NAN = float("nan")
FIGURES = ("training", "guidance", "terms", "weights", "averages", "differences", "pass_at_k", "cost")


def write_metrics(root: Path, run: str, seed: int, stage: str, rows: list[dict]) -> Path:
    path = root / run / f"seed{seed}" / stage / "metrics.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def guided_rows(updates: int) -> list[dict]:
    """What a run that samples, guides and imitates records; every value moves with the update."""
    weights = [1] * 10 + [0] * 9 + [8, 2]
    return [
        {
            "reward": 0.1 * step,
            "response_tokens": 10.0 + step,
            "entropy": 1 / (step + 1),
            "finished": 0.9,
            "logp_own": -0.5,
            "logp_expert": -1.5 + 0.1 * step,
            "grad_norm": 1.0,
            "graded_rollouts": 20,
            "guided": {"0.2": 4, "1.0": 2},
            "grad_norm_by_term": {"policy": 0.5, "entropy": 0.1},
            "expert_weights": weights,
        }
        for step in range(updates)
    ]


def texts(figure: Figure) -> list[str]:
    """Every text of a figure's panels and legends."""
    found = [title for axes in figure.axes for title in (axes.get_title(), axes.get_title(loc="left"))]
    found += [text.get_text() for axes in figure.axes for text in axes.texts]
    for legend in figure.legends:
        found += [legend.get_title().get_text(), *(text.get_text() for text in legend.get_texts())]
    return [text for text in [*found, *(text.get_text() for text in figure.texts)] if text.strip()]


# Curves


def test_curves_hold_what_is_there_and_stages_follow_one_another(tmp_path: Path) -> None:
    first = write_metrics(tmp_path, "pipe", 0, "a", [{"step": 0, "reward": None, "grad_norm": 2.0}])
    second = {"step": 0, "reward": 0.5, "graded_rollouts": 16, "guided": {"0.3": 3, "0.5": 1}, "logp_expert": -2.0}
    table = curves.read_curves([first, write_metrics(tmp_path, "pipe", 0, "b", [second])])
    assert table["update"].tolist() == [1, 2]
    assert table["grad_norm"].tolist() == pytest.approx([2.0, NAN], nan_ok=True)
    assert table["reward"].tolist() == pytest.approx([NAN, 0.5], nan_ok=True)
    assert table["logp_expert"].tolist() == pytest.approx([NAN, -2.0], nan_ok=True)
    assert table["guided"].tolist() == pytest.approx([NAN, 25.0], nan_ok=True)
    assert table["shares"].tolist() == [{}, {"0.3": 18.75, "0.5": 6.25}]
    assert curves.guided_share({"graded_rollouts": 16, "guided": {}}) == 0  # sampled, but never guided


def test_weights_of_another_number_of_bins_are_refused(tmp_path: Path) -> None:
    path = write_metrics(tmp_path, "sft", 0, "sft", [{"expert_weights": [1] * 20}])
    with pytest.raises(ValueError, match=r"20 expert_weights, expected 21"):
        curves.read_curves([path])


def test_smoothing_keeps_a_constant_and_the_mean_of_a_window() -> None:
    assert curves.smooth(np.full(100, 3.0)).tolist() == [3.0] * 100
    assert curves.smooth(np.arange(100.0))[50] == 50
    assert curves.smooth(np.eye(1, 100, 50)[0]).max() == pytest.approx(1 / 5)


def test_weights_are_added_up_by_thirds_of_the_updates_over_seeds(tmp_path: Path) -> None:
    def row(place: int, count: int) -> dict:
        return {"expert_weights": [count * (bin == place) for bin in range(21)]}

    paths = [
        write_metrics(tmp_path, "sft", 0, "sft", [row(0, 3), row(5, 1), {}, {}, row(20, 4), row(20, 4)]),
        write_metrics(tmp_path, "sft", 1, "sft", [row(19, 1), {}, {}, {}, {}, row(10, 8)]),
    ]
    early, middle, late = curves.weight_thirds(curves.read_curves(paths))
    assert {place: early[place] for place in np.flatnonzero(early)} == {0: 60.0, 5: 20.0, 19: 20.0}
    assert np.isnan(middle).all()
    assert {place: late[place] for place in np.flatnonzero(late)} == {10: 50.0, 20: 50.0}


def test_a_metric_no_run_has_is_not_drawn_and_a_run_without_one_is_named(tmp_path: Path) -> None:
    paths = [
        write_metrics(tmp_path, "grpo", 0, "grpo", [{"reward": 0.1 * step, "grad_norm": 1.0} for step in range(9)]),
        write_metrics(tmp_path, "sft", 0, "sft", [{"reward": None, "grad_norm": 2.0} for _ in range(9)]),
    ]
    figure = training_figures.training_figure(curves.read_curves(paths), ["base", "grpo", "sft"])
    assert [axes.get_title(loc="left") or axes.get_title() for axes in figure.axes] == [
        "Reward (without prefix)",
        "Gradient norm",
    ]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["grpo", "sft"]
    note = figure.legends[0].get_title().get_text().replace("\n", " ")
    assert "reward (sft)" in note and "entropy" in note and "gradient norm" not in note
    none = training_figures.training_figure(curves.read_curves([write_metrics(tmp_path, "x", 0, "x", [{}])]), ["x"])
    assert texts(none) == ["No run recorded any metric while it trained."]


def test_a_line_is_the_mean_over_seeds_and_the_band_their_range(tmp_path: Path) -> None:
    paths = [write_metrics(tmp_path, "grpo", seed, "grpo", [{"reward": 0.2 + seed / 10}] * 8) for seed in (0, 1, 2)]
    (axes,) = training_figures.training_figure(curves.read_curves(paths), ["grpo"]).axes
    (line,) = axes.lines
    assert np.allclose(np.asarray(line.get_ydata()), 0.3)
    heights = np.asarray(axes.collections[0].get_paths()[0].vertices)[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.2, 0.4))


def test_guidance_is_stacked_by_share_for_the_runs_that_guide(tmp_path: Path) -> None:
    paths = [
        write_metrics(tmp_path, "trapo", 0, "trapo", guided_rows(5)),
        write_metrics(tmp_path, "grpo", 0, "grpo", [{"graded_rollouts": 20, "guided": {}}] * 5),
    ]
    figure = training_figures.guidance_figure(curves.read_curves(paths), ["grpo", "trapo"])
    (axes,) = figure.axes
    tops = [np.asarray(area.get_paths()[0].vertices)[:, 1].max() for area in axes.collections]
    assert tops == pytest.approx([20.0, 30.0])  # 4 of 20, and 2 more above them
    assert texts(figure)[0] == "trapo" and texts(figure)[-2:] == ["0.2", "1.0"]


def test_each_term_and_each_third_has_its_line(tmp_path: Path) -> None:
    table = curves.read_curves([write_metrics(tmp_path, "trapo", 0, "trapo", guided_rows(9))])
    terms = training_figures.terms_figure(table, ["trapo"])
    assert [np.asarray(line.get_ydata()).max() for line in terms.axes[0].lines] == pytest.approx([0.1, 0.5])
    assert sorted(texts(terms)[-2:]) == ["entropy", "policy"]
    weights = training_figures.weights_figure(table, ["trapo"])
    assert texts(weights)[-3:] == ["early", "middle", "late"]
    values = weights.axes[0].patches[0].get_data().values  # pyright: ignore[reportAttributeAccessIssue]
    assert (values[0], values[19], values[20]) == pytest.approx((5.0, 40.0, 10.0))


# Results


def test_the_average_figure_puts_dots_and_intervals_where_the_summary_says() -> None:
    columns = ["run", "seeds", "mean", "low", "high"]
    summary = pd.DataFrame([["base", 1, 30.0, 28.0, 33.0], ["sft", 3, 50.0, 45.0, 52.0]], columns=columns)
    axes = result_figures.average_figure(summary).axes[0]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["base (1 seed)", "sft"]
    lines = [np.asarray(line.get_xdata()).tolist() for line in axes.lines]
    assert lines[:4] == [[28.0, 33.0], [30.0], [45.0, 52.0], [50.0]]


def test_the_forest_plot_fills_a_dot_only_where_the_interval_excludes_zero() -> None:
    columns = ["run", "seeds", "difference", "difference_low", "difference_high", "p_holm"]
    rows = [["base", 3, NAN, NAN, NAN, NAN], ["sft", 3, 9.0, 7.0, 11.5, 0.0001], ["grpo", 3, -1.0, -3.0, 2.0, 0.412]]
    axes = result_figures.difference_figure(pd.DataFrame(rows, columns=columns), "base").axes[0]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [np.asarray(dot.get_xdata()).item() for dot in dots] == [9.0, -1.0]
    assert [dot.get_markerfacecolor() for dot in dots] == [style.COLOURS[0], "white"]
    assert [text.get_text() for text in axes.get_yticklabels()] == ["sft", "grpo"]
    assert [text.get_text() for text in axes.texts] == [
        "+9.0 [+7.0, +11.5]  p <0.001",
        f"{signed(-1)} [{signed(-3)}, +2.0]  p 0.412",
    ]


def test_an_interval_wider_than_any_score_leaves_the_picture_and_does_not_stretch_it() -> None:
    columns = ["run", "seeds", "mean", "low", "high", "difference", "difference_low", "difference_high", "p_holm"]
    rows = [["base", 2, 20.0, 18.0, 22.0, NAN, NAN, NAN, NAN], ["sft", 2, 45.0, -65.0, 157.0, 25.0, -141.0, 191.0, 1.0]]
    summary = pd.DataFrame(rows, columns=columns)
    costs = pd.DataFrame({"seeds": 2, "flops": [1e12, 2e12], "gpu_hours": 0.0}, index=["base", "sft"])
    averages, differences, cost = (
        result_figures.average_figure(summary).axes[0],
        result_figures.difference_figure(summary, "base").axes[0],
        result_figures.cost_figure(summary, costs).axes[0],
    )
    assert (averages.get_xlim(), differences.get_xlim(), cost.get_ylim()) == ((-3, 110), (-103, 103), (-3, 103))
    assert averages.texts[1].xy[0] == 100  # pyright: ignore[reportAttributeAccessIssue]
    narrow = summary.assign(low=summary["mean"] - 2, high=summary["mean"] + 2)
    limits = result_figures.average_figure(narrow).axes[0].get_xlim()
    assert 0 < limits[0] < 18 and 47 < limits[1] < 60


def some_items(samples: int) -> pd.DataFrame:
    key = {"benchmark": "aime", "samples": samples}
    rows = [
        {**key, "run": run, "seed": seed, "problem_id": f"p{place}", "correct": min(place % 3, samples)}
        for run in ("base", "sft")
        for seed in (0, 1)
        for place in range(12)
    ]
    return pd.DataFrame(rows)


def test_pass_at_k_curves_stand_where_the_statistics_say() -> None:
    table = pass_curves(some_items(4), ["base", "sft"], ["aime"])
    (axes,) = result_figures.pass_at_k_figure(table, ["base", "sft"], {"aime": "AIME", "other": "Other"}).axes
    lines = [line for line in axes.lines if line.get_marker() not in ("None", "_", "|")]
    assert len(lines) == 2 and table["k"].tolist() == [1, 1, 2, 2, 4, 4]
    for run, line in zip(("base", "sft"), lines, strict=True):
        assert np.asarray(line.get_ydata()).tolist() == table.loc[table["run"] == run, "mean"].tolist()
        assert np.asarray(line.get_xdata(), dtype=float) == pytest.approx([1, 2, 4], rel=0.05)
    alone = result_figures.pass_at_k_figure(pass_curves(some_items(1), ["base"], ["aime"]), ["base"], {"aime": "AIME"})
    assert not alone.axes and "every benchmark here has one" in texts(alone)[0]


def test_the_front_is_what_nothing_cheaper_beats() -> None:
    runs = ["a", "b", "c", "d", "e"]
    costs, means = pd.Series([3.0, 1.0, 2.0, 5.0, 1.0], runs), pd.Series([50.0, 20.0, 40.0, 45.0, 30.0], runs)
    assert result_figures.pareto(costs, means).to_dict() == {1.0: 30.0, 2.0: 40.0, 3.0: 50.0}


def priced(runs: dict[str, tuple[float, float]], gpu_hours: float = 0.0) -> Figure:
    """The cost figure of runs with (FLOPs, mean)."""
    rows = [{"run": run, "seeds": 1, "mean": mean, "low": mean - 2, "high": mean + 2} for run, (_, mean) in runs.items()]
    paid = {
        run: {"seeds": 1, "flops": flops, "seconds": flops / 1e9, "gpu_hours": gpu_hours} for run, (flops, _) in runs.items()
    }
    with matplotlib.rc_context(style.STYLE):
        return result_figures.cost_figure(pd.DataFrame(rows), pd.DataFrame.from_dict(paid, orient="index"))


def test_the_cost_figure_leaves_bugs_off_the_front_and_the_free_run_off_the_axis() -> None:
    figure = priced({"base": (0, 20.0), "sft": (1e12, 50.0), "sft+bug": (1e11, 60.0), "grpo": (4e12, 40.0)})
    (axes,) = figure.axes  # without GPUs there is no time worth comparing
    assert axes.get_xlabel() == "training, FLOPs (T)"
    front, clean, bugs = axes.lines[:3]
    assert np.asarray(front.get_xydata()).tolist() == [[1.0, 50.0], [4.0, 50.0]]
    assert np.asarray(clean.get_xdata()).tolist() == [1.0, 4.0] and np.asarray(bugs.get_xdata()).tolist() == [0.1]
    assert bugs.get_markerfacecolor() == "white"
    assert {text.get_text() for text in axes.texts} == {"base", "sft", "sft+bug", "grpo"}
    assert priced({"sft": (1e12, 50.0)}, gpu_hours=3).axes[0].get_xlabel() == "training, GPU-hours"
    assert texts(priced({"base": (0, 20.0)})) == ["No run cost anything, so there is no cost to show."]


def test_names_cover_neither_points_nor_one_another() -> None:
    rng = np.random.default_rng(0)
    runs = {f"method_{place}-as_paper": (10 ** rng.uniform(12, 12.5), rng.uniform(40, 60)) for place in range(14)}
    for axes in priced(runs).axes:
        assert axes.get_tightbbox() is not None  # moves the names to their places
        boxes = [Text.get_window_extent(text) for text in axes.texts]  # without the line to the point
        assert len(boxes) >= 10
        assert not any(one.overlaps(other) for one, other in combinations(boxes, 2))
        dots = axes.transData.transform(np.asarray(axes.lines[1].get_xydata()))
        assert not any(box.contains(*dot) for box in boxes for dot in dots)
        left_out = len(runs) - len(boxes)
        assert axes.get_title(loc="left") == (f"{left_out} without room for their names" if left_out else " ")


def test_a_name_stands_over_a_line_only_where_there_is_no_other_place() -> None:
    figure = Figure(figsize=(3, 3))
    axes = figure.subplots()
    (line,) = axes.plot([0, 1], [0.5, 0.5])
    names.place_names(axes, pd.DataFrame({"x": [0.5], "y": [0.5]}, index=["grpo"]), [line])
    box = axes.texts[0].get_window_extent()
    height = axes.transData.transform((0.5, 0.5))[1]
    assert not box.y0 <= height <= box.y1


# Files


def test_a_long_name_breaks_before_its_bug() -> None:
    assert style.broken("trapo-as_released") == "trapo-as_released"
    assert style.broken("trapo-as_released+dropped_microbatch") == "trapo-as_released\n+dropped_microbatch"


def test_the_first_runs_differ_in_line_and_marker_too() -> None:
    looks = [style.look(position) for position in range(300)]
    assert len({str(sorted(look.items(), key=str)) for look in looks}) == 300
    assert len({(str(look["linestyle"]), look["marker"]) for look in looks[:45]}) == 45


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A small results folder and the arguments that draw it."""
    root = tmp_path_factory.mktemp("drawn")
    runs = ["base", "sft", "trapo"]
    paths = [write_grades(root, run, 0, "sums", {"p": "cc", "q": "cw", "r": "ww"}) for run in runs]
    _, items = scores.collect(paths)
    items.to_parquet(root / "items.parquet", index=False)
    metrics = [
        write_metrics(root, "sft", 0, "train", [{"grad_norm": 1 / (step + 1)} for step in range(30)]),
        write_metrics(root, "trapo", 0, "train", guided_rows(30)),
    ]
    done = [write_done(root, "base", 0, "base", [])]
    done += [write_done(root, run, 0, "train", ["x/base/seed0/base"], flops=1e9, seconds=60) for run in runs[1:]]
    given = [
        "--items",
        root / "items.parquet",
        "--metrics",
        *metrics,
        "--done",
        *done,
        "--runs",
        *runs,
        "--benchmarks",
        "sums=Sums",
    ]
    return root, [str(part) for part in given]


def test_every_figure_is_written_with_the_same_bytes_twice(drawn: tuple[Path, list[str]]) -> None:
    root, given = drawn
    for folder in ("one", "two"):
        figures.main([*given, "--out-dir", str(root / folder)])
    wanted = {f"{name}.{kind}" for name in FIGURES for kind in ("pdf", "png")}
    assert {path.name for path in (root / "one").iterdir()} == wanted
    for name in wanted:
        assert (root / "one" / name).read_bytes() == (root / "two" / name).read_bytes()
        assert (root / "one" / name).stat().st_size > 3_000


def test_no_letter_is_smaller_than_seven_points(drawn: tuple[Path, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    root, given = drawn
    kept: dict[str, Figure] = {}
    monkeypatch.setattr(figures, "save", lambda one, path: kept.update({path.name: one if isinstance(one, Figure) else one[0]}))
    figures.main([*given, "--out-dir", str(root)])
    assert set(kept) == set(FIGURES)
    for name, figure in kept.items():
        sizes = [float(text.get_fontsize()) for text in figure.findobj(Text) if text.get_text().strip()]
        assert sizes and min(sizes) >= style.SMALL, name
        assert figure.get_figwidth() <= style.WIDTH


def test_many_runs_in_groups_have_a_page_for_each_group_that_has_something_to_show(tmp_path: Path) -> None:
    groups = {"Untrained": ["base"], "Imitation": ["sft"], "Prefixes": [f"trapo{k}" for k in range(9)]}
    runs = ["base", "sft", *groups["Prefixes"], "grpo"]
    assert figures.pages(runs[:10], groups) == {"": runs[:10]} and figures.pages(runs, {}) == {"": runs}
    assert figures.pages(runs, groups) == {**groups, "Other runs": ["grpo"]}

    paths = [write_grades(tmp_path, run, 0, "sums", {"p": "cc", "q": "cw", "r": "ww"}) for run in runs]
    scores.collect(paths)[1].to_parquet(tmp_path / "items.parquet", index=False)
    (tmp_path / "notes.json").write_text(json.dumps({"groups": groups}))
    metrics = [write_metrics(tmp_path, run, 0, "train", guided_rows(30)) for run in groups["Prefixes"]]
    metrics.append(write_metrics(tmp_path, "sft", 0, "train", [{"grad_norm": 1 / (step + 1)} for step in range(30)]))
    done = [write_done(tmp_path, "base", 0, "base", [])]
    done += [write_done(tmp_path, run, 0, "train", ["x/base/seed0/base"], flops=1e9, seconds=60) for run in runs[1:]]
    given = ["--items", tmp_path / "items.parquet", "--metrics", *metrics, "--done", *done, "--runs", *runs]
    figures.main([*map(str, given), "--notes", str(tmp_path / "notes.json"), "--out-dir", str(tmp_path / "out")])
    count = {name: len(re.findall(rb"/Type /Page\b", (tmp_path / "out" / f"{name}.pdf").read_bytes())) for name in FIGURES}
    assert (
        count["training"] == 2 and count["guidance"] == 1 and count["averages"] == 1
    )  # sft guides nobody; the rest is untrained
    heights = {name: imread(tmp_path / "out" / f"{name}.png").shape[0] for name in ("training", "averages")}
    assert heights["training"] > 2 * 3 * 200


def test_an_unknown_baseline_is_refused(drawn: tuple[Path, list[str]]) -> None:
    root, given = drawn
    with pytest.raises(ValueError, match=r"baseline 'grpo' is not among the runs: choose one of base, sft, trapo"):
        figures.main([*given, "--baseline", "grpo", "--out-dir", str(root)])
