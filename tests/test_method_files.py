"""What the repository's own method files keep besides the contract: bad settings are refused, and README lists all of them."""

import pytest

from engine import methods
from tests.conftest import METHODS, ROOT

REFUSED = [
    ("chord", {"second": -1.0}),
    ("dapo", {"dual": 1.0}),
    ("dapo", {"batches": -1}),
    ("dapo", {"batches": 65}),
    ("exgrpo", {"rollouts": 1}),
    ("exgrpo", {"share": 1.1}),
    ("exgrpo", {"shaping": 0.0}),
    ("hpt", {"rollouts": 1, "deviation": True}),
    ("prefix_rft", {"scope": "batch"}),
    ("seele", {"steps": 0}),
    ("seele", {"rounds": 0}),
    ("srft", {"shaping": -0.1}),
    ("two_stage", {"right": (1.0,)}),
    ("uft", {"chunks": 0}),
    ("uft", {"shown": (0.5,)}),
    ("uft", {"shown": (1.1, 0.0)}),
]


@pytest.mark.parametrize(("name", "settings"), REFUSED)
def test_what_would_fail_or_do_nothing_in_the_midst_of_a_run_is_refused_before_it(name: str, settings: dict) -> None:
    with pytest.raises(ValueError, match=rf"\b{next(iter(settings))} "):
        methods.build(name, settings, METHODS)


def test_the_readme_names_every_method() -> None:
    listed = (ROOT / "README.md").read_text().partition("methods/ ")[2].partition("\nengine/")[0]
    assert [name for name in methods.names(METHODS) if f" {name}.py" not in listed] == []
