"""The use of prefixes: shares, thirds and tokens by hand, and a table and figure of them."""

from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest

from analysis import prefix_use, render, style
from analysis.curves import read_curves
from analysis.prefix_use import NAME, WHOLE, by_part, tokens, use_figure, use_table
from tests.test_figures import texts, write_metrics
from tests.test_latex import compiled, needs_latex

DASH = render.DASH


def rows(guided: list[dict[str, int]], graded: int = 10) -> list[dict]:
    counts = {"graded_rollouts": graded, "sampled_tokens": 1000, "trained_tokens_expert": 100}
    return [{"reward": 0.5, "guided": shares, **counts} for shares in guided]


@pytest.fixture
def metrics(tmp_path: Path) -> list[Path]:
    """Six updates of trapo by two seeds, six of trapo-late that guides in the last alone, and grpo that never does."""
    first = [{"0.2": 4}, {"0.2": 2, "1.0": 2}, {}, {"1.0": 1}, {}, {}]
    late = [{}] * 5 + [{"0.5": 5}]
    return [
        write_metrics(tmp_path, "grpo", 0, "grpo", rows([{}] * 6)),
        write_metrics(tmp_path, "trapo", 0, "trapo", rows(first)),
        write_metrics(tmp_path, "trapo", 1, "trapo", rows([{}] * 6)),
        write_metrics(tmp_path, "trapo-late", 0, "trapo", rows(late, graded=20)),
    ]


def rollouts(use: pd.DataFrame, *keys: object) -> dict[float, float]:
    own = use[(use[["run", "seed", "part"]] == list(keys)).all(axis=1)]
    return dict(zip(own["shown"], own["rollouts"], strict=True))


def test_shares_are_of_all_rollouts_of_a_third(metrics: list[Path]) -> None:
    use = prefix_use.prefix_use(read_curves(metrics))
    assert use["run"].unique().tolist() == ["trapo", "trapo-late"]
    assert rollouts(use, "trapo", 0, "early") == pytest.approx({0.2: 30, 1.0: 10, 0.5: 0})  # 6 and 2 of 20
    assert rollouts(use, "trapo", 0, "middle") == pytest.approx({0.2: 0, 1.0: 5, 0.5: 0})
    assert rollouts(use, "trapo", 0, WHOLE) == pytest.approx({0.2: 10, 1.0: 5, 0.5: 0})  # 6 and 3 of 60
    assert rollouts(use, "trapo-late", 0, "late") == pytest.approx({0.2: 0, 1.0: 0, 0.5: 12.5})  # 5 of 40


def test_updates_of_different_sizes_count_by_their_rollouts(tmp_path: Path) -> None:
    path = write_metrics(tmp_path, "trapo", 0, "trapo", [*rows([{"0.5": 10}]), *rows([{}], graded=90)])
    use = prefix_use.prefix_use(read_curves([path]))
    assert rollouts(use, "trapo", 0, WHOLE) == pytest.approx({0.5: 10})
    assert "late" not in set(use["part"])  # two updates: the early and the middle third


def test_seeds_are_averaged_and_a_part_without_guidance_shows_nothing(metrics: list[Path]) -> None:
    curves = read_curves(metrics)
    parts = by_part(prefix_use.prefix_use(curves))
    guided, shown = parts["guided"].to_dict(), parts["shown"].to_dict()
    assert guided["trapo", "early"] == pytest.approx(20) and guided["trapo", WHOLE] == pytest.approx(7.5)
    assert shown["trapo", "early"] == pytest.approx((30 * 20 + 10 * 100) / 40)  # of the seed that guides
    assert guided["trapo", "late"] == 0 and np.isnan(shown["trapo", "late"])
    assert tokens(curves, ["trapo"]).to_numpy().tolist() == [[6000, 600]]


def test_the_table_by_hand(metrics: list[Path]) -> None:
    curves = read_curves(metrics)
    table = use_table(prefix_use.prefix_use(curves), curves)
    cells = table.cells.T["trapo-late"].tolist()
    assert cells == ["0.0", "0.0", "12.5", "4.2", DASH + "¹", DASH + "¹", "50.0", "50.0", "6,000.0", "600.0"]
    assert table.footer[0] == "¹ no rollout was guided then."
    assert table.footer[-1] == "Training seeds: trapo 2, trapo-late 1; means over them."
    assert table.numbers["guided_early"].tolist() == pytest.approx([20, 0]) and table.numbers["seeds"].tolist() == [2, 1]


def test_the_figure_has_a_panel_per_run_and_bars_at_the_shares(metrics: list[Path]) -> None:
    with matplotlib.rc_context(style.STYLE):
        figure = use_figure(prefix_use.prefix_use(read_curves(metrics)))
    assert [axes.get_title(loc="left") for axes in figure.axes] == ["trapo", "trapo-late"]
    boxes = [bar.get_path().get_extents(bar.get_patch_transform()) for bar in figure.axes[0].patches]
    bars = {round((box.x0 + box.x1) / 2, 3): box.height for box in boxes if box.height}
    assert bars == pytest.approx({0.172: 15, 0.972: 5, 1.0: 2.5})  # the means over seeds; early stands to the left
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim() and figure.axes[0].get_ylim()[1] > 15
    assert {"early", "middle", "late"} < set(texts(figure)) and "Mean over seeds." in " ".join(texts(figure))


def test_without_guidance_there_is_nothing_to_draw(metrics: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    assert prefix_use.main(["--metrics", str(metrics[0]), "--out-dir", str(tmp_path / "out")]) == 1
    assert capsys.readouterr().err.startswith("error: none of the runs grpo continues an expert prefix: pass the metrics")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_the_same_files_twice(metrics: list[Path], tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        assert prefix_use.main(["--metrics", *map(str, metrics), "--out-dir", str(tmp_path / name)]) == 0
        made.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert made[0] == made[1] and set(made[0]) == {f"{NAME}.{kind}" for kind in ("md", "tex", "txt", "csv", "png", "pdf")}


@needs_latex
def test_the_latex_table_compiles(tmp_path: Path) -> None:
    paths = [
        write_metrics(tmp_path, f"trapo-micro_groups_{i}+dropped_microbatch", 0, "trapo", rows([{"0.3": 2}])) for i in range(8)
    ]
    assert prefix_use.main(["--metrics", *map(str, paths), "--out-dir", str(tmp_path)]) == 0
    assert "Guided rollouts" in compiled(tmp_path, [NAME])
