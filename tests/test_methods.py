"""The contract every method file must keep, discovered from the folder: a new file is tested the moment it exists.

Set ASSAY_METHODS to run it over another folder.
"""

import ast
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import torch

from engine import layout, methods
from engine.distributed import start_distributed
from engine.explain import POLICIES, converse, explain
from engine.explore import MAX_ROLLOUTS
from engine.settings import Settings
from engine.tokens import Tokens
from engine.train import Trainer
from engine.words import Term
from tests.conftest import METHODS, ROOT

FOLDER = Path(os.environ.get("ASSAY_METHODS", METHODS))
NAMES = methods.names(FOLDER)
TRAINED = [name for name in NAMES if hasattr(methods.load(name, FOLDER), "Method")]
VARIANTS = [
    (name, preset)
    for name in TRAINED
    for preset in (methods.MATCHED, *getattr(methods.load(name, FOLDER).Method, "presets", {}))
]


def build(name: str, preset: str = methods.MATCHED) -> Any:
    return methods.build(name, methods.preset(name, preset, FOLDER), FOLDER)


def batch() -> Tokens:
    """Three rows of six tokens: all expert; expert then own; own with a zero advantage, one token untrained. What a method
    reads off distributions has a gradient like the entropy's."""
    torch.manual_seed(3)
    logp = (-3 * torch.rand(3, 6, dtype=torch.float64)).requires_grad_()
    expert = torch.tensor([[1] * 6, [1, 1, 0, 0, 0, 0], [0] * 6], dtype=torch.bool)
    trained = torch.tensor([[1, 1, 1, 1, 1, 0], [1] * 6, [1, 1, 1, 1, 0, 0]], dtype=torch.bool)
    advantage = torch.tensor([[1.0] * 6, [0.5] * 6, [0.0] * 6], dtype=torch.float64)
    old = (logp.detach() + 0.1).where(~expert, torch.zeros(()))
    entropy, rank = torch.rand(2, 3, 6, dtype=torch.float64)
    read = defaultdict(lambda: -(logp.exp() * logp))
    return Tokens(logp, old, advantage, expert, trained, trained, entropy, ~trained, old - 0.2, rank, read)


def terms(method: Any, t: Tokens) -> dict[str, Term]:
    value = method.loss(t)
    return value if isinstance(value, dict) else {"loss": Term(value, method.reduce)}


def test_the_folder_is_not_empty() -> None:
    assert NAMES


@pytest.mark.parametrize("name", NAMES)
def test_imports_without_torch_and_states_its_claim(name: str) -> None:
    code = f"""
import sys
sys.modules["torch"] = None
from pathlib import Path
from engine import methods
module = methods.load({name!r}, Path({str(FOLDER)!r}))
assert module.__doc__
methods.stages({name!r}, Path({str(FOLDER)!r}))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("name", NAMES)
def test_is_about_one_screen(name: str) -> None:
    assert 0 < code_lines((FOLDER / f"{name}.py").read_text()) <= 120


def test_all_methods_together_are_a_short_read() -> None:
    assert 0 < sum(code_lines(path.read_text()) for path in FOLDER.glob("*.py")) < 1800


def code_lines(text: str) -> int:
    """Lines that are neither blank, nor comment, nor the header."""
    header = ast.parse(text).body[0].end_lineno or 0
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in text.splitlines()[header:])


@pytest.mark.parametrize("name", NAMES)
def test_explains_itself(name: str) -> None:
    assert len(explain(name, methods.MATCHED, FOLDER).splitlines()) > 5


@pytest.mark.parametrize(("name", "preset"), VARIANTS)
def test_exploration_ends_within_its_budget_and_segments_are_whole(name: str, preset: str) -> None:
    learned = 0
    for verdict in POLICIES.values():
        sampler, trajectories = converse(build(name, preset), verdict)
        learned += len(trajectories)
        assert sum(request.sample.n for request in sampler.asked) <= MAX_ROLLOUTS
        for trajectory in trajectories:
            for segment in trajectory.segments:
                assert segment.expert or len(segment.logp) == len(segment.tokens)
    assert learned


@pytest.mark.parametrize(("name", "preset"), VARIANTS)
def test_loss_is_per_token_finite_and_reaches_the_trained_tokens(name: str, preset: str) -> None:
    t = batch()
    total = torch.zeros((), dtype=torch.float64)
    for term in terms(build(name, preset), t).values():
        assert term.values.shape == t.logp.shape
        mask = t.trained if term.mask is None else term.mask
        total = total + term.coefficient * term.reduce.numerator(term.values, mask, 100)
    total.backward()
    gradient = t.logp.grad
    assert gradient is not None and gradient.isfinite().all()
    assert gradient[t.trained].norm() > 0
    assert (gradient[~t.trained] == 0).all()


@pytest.mark.parametrize(("name", "preset"), VARIANTS)
def test_loss_masks_do_not_depend_on_the_policy(name: str, preset: str) -> None:
    method, t = build(name, preset), batch()
    before = {key: term.mask for key, term in terms(method, t).items()}
    t.logp.data.mul_(0.5)
    for key, term in terms(method, t).items():
        earlier = before[key]
        assert (term.mask is None) == (earlier is None)
        assert term.mask is None or earlier is None or torch.equal(term.mask, earlier)


@pytest.mark.parametrize("name", TRAINED)
def test_unknown_settings_and_presets_are_named_with_the_nearest_match(name: str) -> None:
    with pytest.raises(ValueError, match=f"unknown setting of method '{name}': 'no_such_setting'"):
        methods.build(name, {"no_such_setting": 1}, FOLDER)
    with pytest.raises(ValueError, match="unknown preset"):
        methods.preset(name, "as_papr", FOLDER)


@pytest.mark.parametrize(("name", "preset"), VARIANTS)
@pytest.mark.parametrize(("dtype", "packed"), [("float32", False), ("float32", True), ("bfloat16", False)])
def test_gradient_is_autograds_however_the_update_is_cut(name: str, preset: str, dtype: str, packed: bool) -> None:
    """The layout check that every stage starts with, on real DeepSpeed."""
    start_distributed("cpu")
    settings = Settings(learning_rate=1e-3, updates=4, response_tokens=64, packed=packed)
    check = layout.check(Trainer, build(name, preset), settings, dtype)
    assert check.status == "passed", check
