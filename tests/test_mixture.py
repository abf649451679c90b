"""The Gaussian-mixture experiment: its loss and its numbers by hand, and the figure and table drawn from them."""

import math
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch

from analysis import mixture as drawing
from analysis.style import STYLE
from miniature import mixture
from miniature.mixture import BINS, expert, fit, imitation, kl, log_probabilities, measured, near


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The experiment itself with two alphas, two seeds and two policies, as its module writes it."""
    path = tmp_path_factory.mktemp("mixture") / "mixture.csv"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mixture, "ALPHAS", (0.0, 0.1))
        patch.setattr(mixture, "SEEDS", range(2))
        patch.setattr(mixture, "COMPONENTS", (1, 3))
        patch.setattr("sys.argv", ["mixture", str(path)])
        assert mixture.main() == 0
    return path


def test_one_component_is_a_normal_distribution_over_the_bins() -> None:
    logp = log_probabilities(torch.tensor([1.0]), torch.tensor([math.log(2.0)]), torch.tensor([0.3]))
    wanted = np.exp(-((BINS.numpy() - 1) ** 2) / 8)
    assert logp.exp().numpy() == pytest.approx(wanted / wanted.sum(), rel=1e-6)


def test_the_expert_has_its_weights_at_its_modes() -> None:
    masses = [float(expert().exp()[near(mode)].sum()) for mode in mixture.MEANS]
    inside = math.erf(2 / math.sqrt(2))  # of a normal distribution, within two standard deviations
    assert masses == pytest.approx([inside * weight for weight in mixture.WEIGHTS], abs=0.02)


@pytest.mark.parametrize("alpha", [0.0, 0.1, 1.0])
def test_the_loss_has_the_gradient_of_trsft(alpha: float) -> None:
    """-grad p / max(p, alpha), of a probability above alpha and of one below."""
    p = torch.tensor([0.5, 0.02], dtype=torch.float64)
    logp = p.log().requires_grad_()
    imitation(logp, torch.tensor(alpha, dtype=torch.float64)).sum().backward()
    wanted = -p / p.clamp(min=alpha)  # grad p = p grad log p
    assert logp.grad is not None and logp.grad.numpy() == pytest.approx(wanted.numpy())


def test_kl_by_hand() -> None:
    one, other = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    assert float(kl(one, other)) == pytest.approx(0.5 * math.log(2) + 0.5 * math.log(2 / 3))
    assert float(kl(one, one)) == 0


def test_the_columns_of_a_line_are_what_they_say() -> None:
    line = measured(torch.full((len(BINS),), -math.log(len(BINS)), dtype=torch.float64), 50)
    between = [x for x in BINS.tolist() if -4 < x < 6 and min(abs(x - mode) for mode in mixture.MEANS) > 1.6]
    far = [x for x in BINS.tolist() if abs(x - 6) <= 1.6]
    assert len(between) == 8 and len(far) == 6
    assert float(str(line["between"])) == pytest.approx(8 / len(BINS), rel=1e-5)
    assert float(str(line["far"])) == pytest.approx(6 / len(BINS), rel=1e-5)
    assert sum(name.startswith("p") for name in line) == len(BINS)
    assert not any(name.startswith("p") for name in measured(expert(), 10))


def test_one_component_imitated_by_sft_is_the_experts_mean_and_variance() -> None:
    """The maximum of likelihood, whatever the experiment is meant to show; all seeds, from the draws themselves."""
    *_, (step, logp) = fit(1)
    p = logp[:, mixture.ALPHAS.index(0.0)].exp()
    target = expert().exp()
    assert step == 1000 and p.shape == (len(mixture.SEEDS), len(BINS))
    for power, close in ((1, 0.3), (2, 1.5)):
        assert (p @ BINS**power).numpy() == pytest.approx(float(target @ BINS**power), abs=close)


def test_the_file_is_the_same_twice_and_seeds_differ(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = pd.read_csv(data, comment="#")
    assert len(lines) == 1 + 2 * 2 * 2 * len(mixture.RECORDED)
    assert data.read_text().startswith("# expert: means (-4.0, 0.0, 6.0), sd 0.8")
    first = lines[(lines["step"] == 0) & (lines["components"] == 1)]
    assert first.groupby("seed")["kl_expert_policy"].nunique().tolist() == [1, 1]  # the same start for every alpha
    assert first["kl_expert_policy"].nunique() == 2
    for name, value in (("ALPHAS", (0.0, 0.1)), ("SEEDS", range(2)), ("COMPONENTS", (1, 3))):
        monkeypatch.setattr(mixture, name, value)
    monkeypatch.setattr("sys.argv", ["mixture", str(tmp_path / "again.csv")])
    assert mixture.main() == 0
    assert (tmp_path / "again.csv").read_bytes() == data.read_bytes()


def test_the_figure_draws_every_seed_and_the_table_every_alpha(data: Path) -> None:
    policies, target = drawing.read(data)
    with matplotlib.rc_context(STYLE):
        figure = drawing.mixture_figure(policies, target)
    densities, curves = figure.subfigs
    assert len(densities.axes) == 2 * 2 * len(mixture.SNAPSHOTS) and len(curves.axes) == 2 * 2
    assert all(len(axes.lines) == 2 for axes in densities.axes)
    drawn = np.asarray(densities.axes[3].lines[0].get_ydata(), dtype=float)
    assert drawn.sum() * mixture.WIDTH == pytest.approx(1, abs=1e-4)
    table = drawing.mixture_table(policies, target)
    assert table.numbers.index.tolist() == ["SFT", "TrSFT, alpha 0.1"] * 2
    last = policies[(policies["step"] == 1000) & (policies["components"] == 3) & (policies["alpha"] == 0)]
    assert table.numbers["between_mean"].iloc[2] == pytest.approx(100 * last["between"].mean())
    assert table.numbers["kl_policy_expert_max"].iloc[2] == last["kl_policy_expert"].max() > 0


def test_figure_and_table_are_written_with_the_same_bytes_twice(data: Path, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        drawing.main(["--data", str(data), "--out-dir", str(tmp_path / folder)])
    names = {path.name for path in (tmp_path / "one").iterdir()}
    assert names == {f"fig3_mixture_pilot.{kind}" for kind in ("pdf", "png", "md", "tex", "txt", "csv")}
    for name in names:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_file_without_its_columns_is_refused(data: Path, tmp_path: Path) -> None:
    pd.read_csv(data, comment="#").drop(columns="far").to_csv(tmp_path / "a.csv", index=False)
    with pytest.raises(ValueError, match="lacks the column 'far'"):
        drawing.read(tmp_path / "a.csv")
    lines = pd.read_csv(data, comment="#")
    lines[lines["alpha"] != 0.1].to_csv(tmp_path / "b.csv", index=False)
    with pytest.raises(ValueError, match=r"lacks the expert, alpha 0 or alpha 0\.1"):
        drawing.read(tmp_path / "b.csv")
