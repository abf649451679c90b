"""oneDNN's products in the place of MKL's: the same outputs and gradients, on the machines that are meant."""

import pickle
from dataclasses import replace

import pytest
import torch
from torch import nn

from engine import methods, products, provenance
from engine.reference import Reference
from engine.train import Trainer
from tests.conftest import METHODS
from tests.test_train import SETTINGS, assert_same_step, small_model, trajectories, weights


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """Shapes that oneDNN was given; here every CPU counts as one whose MKL is slow, and every product as large enough."""
    seen: list[tuple[int, ...]] = []
    product = products.product
    monkeypatch.setattr(products, "slow", lambda: True)
    monkeypatch.setattr(products, "ROWS", 1)
    monkeypatch.setattr(products, "product", lambda x, *rest: seen.append(tuple(x.shape)) or product(x, *rest))
    return seen


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1,), (40,), (5, 8), (2, 3, 7)])
@pytest.mark.parametrize("out", [16, 32])
def test_outputs_and_gradients_are_autograds(called: list, out: int, shape: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(24, out, bias)
    given, pull = torch.randn(*shape, 24, requires_grad=True), torch.randn(*shape, out)
    wanted = [given, *layer.parameters()]
    expected = [nn.functional.linear(given, layer.weight, layer.bias)]
    expected += torch.autograd.grad((expected[0] * pull).sum(), wanted)
    products.use(layer, "cpu")
    found = [layer(given)]
    found += torch.autograd.grad((found[0] * pull).sum(), wanted)
    assert len(called) == 3 and len(found) == 3 + bias
    for one, other in zip(found, expected, strict=True):
        assert one.norm() > 0.1
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("rows", "products_made"), [(31, 0), (32, 1)])
def test_a_few_rows_are_left_to_mkl(called: list, monkeypatch: pytest.MonkeyPatch, rows: int, products_made: int) -> None:
    monkeypatch.setattr(products, "ROWS", 32)
    layer = nn.Linear(4, 3)
    products.use(layer, "cpu")
    assert layer(torch.ones(rows, 4)).shape == (rows, 3) and len(called) == products_made


def test_no_large_matrix_is_copied(called: list, monkeypatch: pytest.MonkeyPatch) -> None:
    layer, given = nn.Linear(4, 30), torch.ones(10, 4)
    products.use(layer, "cpu")
    for most, products_made in ((300, 2), (299, 1)):
        monkeypatch.setattr(products, "BLOCK", most)
        called.clear()
        layer(given).sum().backward()
        assert len(called) == products_made


def test_other_devices_and_dtypes_stay_as_they_are(called: list) -> None:
    layer, half = nn.Linear(4, 3), nn.Linear(4, 3, dtype=torch.bfloat16)
    products.use(layer, "cuda")
    products.use(half, "cpu")
    assert layer(torch.ones(40, 4)).shape == half(torch.ones(40, 4, dtype=torch.bfloat16)).shape == (40, 3)
    assert not called


@pytest.mark.parametrize(
    ("vendor", "capability", "expected"),
    [
        ("AuthenticAMD", "AVX512", True),
        ("AuthenticAMD", "AVX2", False),
        ("GenuineIntel", "AVX512", False),
        ("", "AVX512", False),
    ],
)
def test_which_processors_are_meant(monkeypatch: pytest.MonkeyPatch, vendor: str, capability: str, expected: bool) -> None:
    monkeypatch.setattr(provenance, "cpuinfo", {"vendor_id": vendor}.__getitem__)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    assert products.slow() == expected


def test_a_copy_of_a_model_has_weights_of_its_own(called: list) -> None:
    """As the reference is one. It can be pickled, too."""
    layer = nn.Linear(4, 3)
    products.use(layer, "cpu")
    reference, given = Reference(layer, None).model, torch.ones(2, 4)
    before = reference(given).clone()
    with torch.no_grad():
        layer.weight.add_(1)
    assert torch.equal(reference(given), before) and not torch.equal(layer(given), before) and called
    assert torch.equal(pickle.loads(pickle.dumps(layer))(given), layer(given))


def test_a_reference_is_multiplied_as_the_policy_is(called: list) -> None:
    """Else equal weights would give a KL above 0."""
    trainer = Trainer(small_model(), methods.build("asft", {}, METHODS), SETTINGS, pad=0, reference=small_model())
    assert trainer.reference
    assert {type(m) for m in trainer.reference.model.modules()} == {type(m) for m in trainer.model.modules()}
    assert products.Linear in set(map(type, trainer.model.modules()))


@pytest.mark.parametrize("stage", [0, 2, 3])
def test_an_update_is_the_same(called: list, monkeypatch: pytest.MonkeyPatch, stage: int) -> None:
    found = {}
    for slow in (True, False):
        monkeypatch.setattr(products, "slow", lambda slow=slow: slow)
        called.clear()
        trainer = Trainer(small_model(), methods.build("luffy", {}, METHODS), replace(SETTINGS, zero_stage=stage), pad=0)
        norm = trainer.update(trajectories())["grad_norm"]
        assert norm > 0.01 and bool(called) == slow
        found[slow] = (norm, weights(trainer))
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5)
    assert_same_step(found[True][1], found[False][1])
