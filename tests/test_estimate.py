"""What `assay plan` says a configuration costs, held against the real engine where that runs here, and against print."""

import json
import re
import subprocess
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import Qwen2Config, Qwen2ForCausalLM

from engine import forward, methods, metrics, prefixes
from engine.distributed import start_distributed
from engine.model import parameter_count
from engine.sampler import Sampling
from engine.sampler.vllm import needed
from engine.settings import Settings
from engine.train import Trainer
from engine.words import Problem, Rollout, Trajectory, expert, own
from tests.conftest import METHODS, ROOT
from workflow import estimate, hardware, jobs, memory, models
from workflow.estimate import Habits, calibration, evaluation_cost, habits, stage_cost
from workflow.forecast import full
from workflow.plan import SCHEMA, Plan, checked

SEVEN = {"name": "qwen2.5_math_7b_16k_think"}
A100 = {"gpu": "a100", "gpus": 8, "gpu_memory_gb": 80, "host_memory_gb": 1000, "disk_gb": 4000}


def small(**sizes: Any) -> Qwen2ForCausalLM:
    """A random model of the Qwen2 family."""
    chosen = {"hidden_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "intermediate_size": 320, **sizes}
    dtype = chosen.pop("dtype", torch.bfloat16)
    config = Qwen2Config(**{"vocab_size": 100, "num_hidden_layers": 3, "max_position_embeddings": 4096, **chosen})
    return Qwen2ForCausalLM(config).to(dtype).train()


def shape_of(model: Qwen2ForCausalLM, folder: Path) -> models.Shape:
    model.config.save_pretrained(folder)
    return models.shape({"path": str(folder)})


def seven(settings: dict[str, Any], machine: dict[str, Any] | None = A100, **train: Any) -> Plan:
    """The miniature's configuration at the size of the papers: a 7B model, 500 updates of 128 problems on eight ranks."""
    config = yaml.safe_load((ROOT / "config" / "miniature.yaml").read_text())
    config["train"] |= {
        **{"updates": 500, "prompts_per_update": 128, "max_prompt_tokens": 1024, "max_response_tokens": 8192},
        **{"micro_batch_tokens": 9216, "sample_batch_tokens": 400_000, "dtype": "bfloat16", "device": "cuda", "ranks": 8},
        **{"term_norms_every": 0, "checkpoint_every": 100},
    }
    config["overrides"] = {}
    evaluation = {"max_prompt_tokens": 1024, "max_new_tokens": 8192, "dtype": "bfloat16", "device": "cuda"}
    plan = checked(config | {"sampler": "vllm", "evaluation": evaluation} | settings)
    plan.config["model"] = SEVEN
    plan.config["train"] |= train
    if machine:
        plan.config["hardware"] = machine
    return plan


# The catalogue


def test_every_model_has_as_many_parameters_as_its_sizes_make() -> None:
    known = models.catalogue()
    assert len(known) >= 15 and {"qwen2.5_math_7b", "qwen2.5_math_1.5b", "qwen2.5_0.5b", "oat_zero"} <= known.keys()
    assert all(models.shape({"name": name}).parameters == entry["shape"]["parameters"] for name, entry in known.items())


def test_a_wrong_catalogue_is_one_line_that_says_where(tmp_path: Path) -> None:
    text = (ROOT / models.CATALOGUE).read_text()
    for old, new, message in (
        (
            "parameters: 494032768",
            "parameters: 494032769",
            "qwen2.5_0.5b.shape: parameters is 494,032,769 and its sizes make 494,0",
        ),
        ("revision: 060db6499f32faf8b98477b0a26969ef7d8b9987", "revision: main", "hub.revision"),
        ("layers: 24,", "", "'layers' is a required property"),
    ):
        assert old in text
        (tmp_path / "models.yaml").write_text(text.replace(old, new))
        models.catalogue.cache_clear()
        with pytest.raises(ValueError, match=re.escape(message)):
            models.catalogue(tmp_path / "models.yaml")
    with pytest.raises(ValueError, match=re.escape("did you mean 'qwen2.5_math_7b'")):
        models.named("qwen2.5_math7b")


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_of_a_folder_are_those_of_its_weights(tmp_path: Path, tied: bool) -> None:
    model = small(tie_word_embeddings=tied)
    assert shape_of(model, tmp_path).parameters == sum(p.numel() for p in model.parameters())
    base = ROOT / "miniature" / "base"
    assert models.shape({"path": str(base)}).parameters == parameter_count(base)
    assert models.shape({"path": str(base), "window": 99}).window == 99


# Memory, measured


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_activations_are_what_the_forward_pass_keeps(
    tmp_path: Path, dtype: torch.dtype, checkpointing: bool, packed: bool
) -> None:
    """Bytes of the tensors that autograd saves in the engine's own pass, parameters and log-softmax apart."""
    model = small(dtype=dtype)
    if checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    own_weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own_weights and tensor.shape[-1] != 100:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    rows = torch.arange(2)[:, None].repeat(1, 300)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        scored = forward.score(model, rows, torch.tensor([300, 300]), 1.0, packed=packed)
    size, shape = dtype.itemsize, shape_of(model, tmp_path)
    counted = memory.activations(shape, size, 600, packed, checkpointing)
    if checkpointing:  # the one layer that is computed again is held in the backward pass, not here
        fewer = replace(shape, layers=shape.layers - 1)
        counted -= memory.activations(shape, size, 600, packed, False) - memory.activations(fewer, size, 600, packed, False)
    assert scored.logp.requires_grad
    assert sum(saved.values()) == pytest.approx(counted, rel=0.02)


@pytest.mark.parametrize("rows", [(8, 100, 50), (4, 300, 300)])
def test_rows_that_share_what_they_begin_with_keep_less(tmp_path: Path, rows: tuple[int, int, int]) -> None:
    """Masks and copied keys and values included."""
    count, begun, more = rows
    model, kept = small(dtype=torch.float32), {}
    ids = torch.cat([torch.arange(begun).remainder(90).repeat(count, 1), torch.arange(count)[:, None].repeat(1, more)], 1)
    lengths, wanted = torch.full((count,), begun + more), torch.arange(begun + more - 1).repeat(count, 1) >= begun - 1
    assert prefixes.split(ids, lengths, wanted, model.config.hidden_size)

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        forward.score(model, ids, lengths, 1.0, wanted=wanted)
    assert 0 < sum(kept.values()) < memory.activations(shape_of(model, tmp_path), 4, ids.numel(), False, False)


class Peak(TorchDispatchMode):
    """Bytes of tensors made inside it, at most at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.live: set[int] = set()
        self.now, self.most = 0, 0

    def __torch_dispatch__(self, function: Any, types: Any, arguments: Any = (), keywords: Any = None) -> Any:
        made = function(*arguments, **(keywords or {}))
        for tensor in tree_leaves(made):
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in self.live:
                storage = tensor.untyped_storage()
                self.live.add(key)
                self.now += storage.nbytes()
                self.most = max(self.most, self.now)
                weakref.finalize(storage, self.free, key, storage.nbytes())
        return made

    def free(self, key: int, size: int) -> None:
        self.live.discard(key)
        self.now -= size


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_optimizer_and_checkpoints_are_as_large_as_deepspeed_makes_them(tmp_path: Path, stage: int) -> None:
    model = small(vocab_size=2000)
    count = sum(p.numel() for p in model.parameters())
    settings = Settings(1e-3, 4, zero_stage=stage, term_norms_every=0)
    start_distributed("cpu")
    trainer = Trainer(model, methods.build("grpo", {}, METHODS), settings, pad=0)
    problem = Problem("p", (1, 2, 3), "1")
    trainer.update([Trajectory(problem, (own(Rollout((), (4, 5), (-1.0, -1.0), 1.0, "stop"), 1.0),))])
    states = [t for state in trainer.engine.optimizer.optimizer.state.values() for t in state.values() if t.numel() > 1]
    masters = (
        trainer.engine.optimizer.fp32_partitioned_groups_flat
        if stage == 3
        else trainer.engine.optimizer.single_partition_of_fp32_groups
    )
    held = sum(t.numel() * t.element_size() for t in [*states, *masters])
    train = train_settings(zero_stage=stage, ranks=1)
    counted = memory.of_training(shape_of(model, tmp_path), train, "vllm", False, False)
    assert held > 8 * count and held == pytest.approx(counted.always["optimizer"], rel=0.02)
    trainer.save(tmp_path / "state")
    written = sum(path.stat().st_size for path in (tmp_path / "state").rglob("*") if path.is_file())
    cost = stage_cost(train | {"checkpoint_every": 1}, Habits(0, 0, 0, 0, 1), models.shape({"path": str(tmp_path)}), None)
    assert 3 * written == pytest.approx(cost.scratch, rel=0.1)


@pytest.mark.parametrize("stage", [2, 3])
def test_a_second_optimizer_state_and_a_reference_are_held_besides(stage: int, tmp_path: Path) -> None:
    """ReLIFT after an update of either kind, UFT after one."""
    start_distributed("cpu")
    model = small(vocab_size=2000)
    count = sum(p.numel() for p in model.parameters())
    settings, problem = Settings(1e-3, 4, zero_stage=stage, term_norms_every=0), Problem("p", (1, 2, 3), "1")
    sampled = Trajectory(problem, (own(Rollout((), (4, 5), (-1.0, -1.0), 1.0, "stop"), 1.0),))
    trainer = Trainer(model, methods.build("relift", {}, METHODS), settings, pad=0)
    for trajectory in (sampled, Trajectory(problem, (expert((4, 5)),))):
        trainer.update([trajectory])
    kept = trainer.optimizers
    assert kept is not None
    states = [state for one in (kept.optimizer.state, *kept.waiting.values()) for state in one.values()]
    held = sum(t.numel() * t.element_size() for state in states for t in state.values() if t.numel() > 1)
    train, shape = train_settings(zero_stage=stage, ranks=1), shape_of(model, tmp_path)
    plain, two = (memory.of_training(shape, train, "vllm", False, False, optimizers=more) for more in (False, True))
    assert two.always["optimizer"] - plain.always["optimizer"] == 8 * count
    assert held == pytest.approx(16 * count, rel=0.02)
    uft = Trainer(small(vocab_size=2000), methods.build("uft", {}, METHODS), settings, pad=0)
    assert uft.reference is not None
    weights = sum(p.numel() for p in uft.reference.model.parameters())
    fp32 = memory.of_training(shape, {**train, "dtype": "float32"}, "vllm", False, False, reference=True)
    assert fp32.always["reference"] == 4 * weights == 4 * count


@pytest.mark.parametrize(
    ("name", "reference", "reads", "optimizers", "scored"),
    [
        ("grpo", False, False, False, 0),
        ("uft", True, False, False, 1),
        ("asft", True, True, False, 1),
        ("otr", False, True, False, 0),
        ("prefix_rft", False, False, False, 1),
        ("relift", False, False, True, 0),
    ],
)
def test_what_a_method_asks_of_the_engine_is_part_of_its_habits(
    name: str, reference: bool, reads: bool, optimizers: bool, scored: int
) -> None:
    found = habits(methods.build(name, {}, METHODS))
    assert (found.reference, found.reads, found.optimizers, found.scored) == (reference, reads, optimizers, scored)


def test_a_reference_costs_memory_on_every_rank_and_a_forward_pass() -> None:
    shape, train = models.shape(SEVEN), train_settings(zero_stage=3, ranks=8)
    plain, held = (memory.of_training(shape, train, "vllm", True, False, one) for one in (False, True))
    assert held.always["reference"] == 2 * shape.parameters and plain.always["reference"] == 0
    layer = 2 * shape.hidden * shape.vocabulary  # bytes
    assert held.peaks["updating"] - plain.peaks["updating"] == 2 * shape.parameters + layer
    assert held.host - plain.host == 2 * shape.parameters
    without, scored = (stage_cost(train, Habits(8, 1, 8, 8, 0, scored=one), shape, None) for one in (0, 1))
    assert scored.flops / without.flops == pytest.approx((2 + 8) / (2 + 6))


def train_settings(**changed: Any) -> dict[str, Any]:
    known = yaml.safe_load((ROOT / SCHEMA).read_text())["properties"]["train"]["properties"]
    defaults = {key: one["default"] for key, one in known.items() if "default" in one}
    sizes = {"updates": 500, "prompts_per_update": 128, "max_prompt_tokens": 1024, "max_response_tokens": 8192}
    return {**defaults, **sizes, "dtype": "bfloat16", "device": "cuda", **changed}


def test_the_samplers_share_is_what_the_engine_asks_for() -> None:
    base = ROOT / "miniature" / "base"
    for dtype, batch in (("float32", 65_536), ("bfloat16", 100)):
        sampling = Sampling(0, 1, 128, 80, 1.0, batch, dtype, "cuda")
        pool = (max(batch, 209) // memory.BLOCK + 2) * memory.BLOCK
        asked = needed(base, sampling, pool, tensor_parallel=1)
        shape = models.shape({"path": str(base)})
        counted = memory.of_sampler(shape, memory.BYTES[dtype], "vllm", batch, 208)
        assert list(counted.values()) == list(asked.values())


def test_zero_and_offload_move_memory_as_they_should() -> None:
    shape = models.shape(SEVEN)
    held = {
        (stage, offload): memory.of_training(
            shape, train_settings(zero_stage=stage, offload=offload, ranks=8), "vllm", True, False
        )
        for stage, offload in ((1, False), (2, False), (3, False), (2, True))
    }
    peaks = {key: one.peaks for key, one in held.items()}
    assert peaks[1, False]["updating"] > peaks[2, False]["updating"] > peaks[3, False]["updating"]
    optimizer = 12 * shape.parameters / 8
    assert peaks[2, False]["sampling"] - peaks[2, True]["sampling"] == pytest.approx(optimizer)
    assert held[2, True].host - held[2, False].host >= optimizer
    alone = memory.of_training(shape, train_settings(zero_stage=2, ranks=1), "vllm", True, False)
    assert alone.always["optimizer"] == 8 * held[2, False].always["optimizer"]


# Tokens


@pytest.mark.parametrize(
    ("name", "preset", "expected"),
    [
        ("grpo", "matched", Habits(8, 1, 8, 8, 0)),
        ("sft", "matched", Habits(0, 0, 0, 0, 1)),
        ("luffy", "matched", Habits(7, 1, 7, 7, 1)),
    ],
)
def test_habits_are_read_off_the_method(name: str, preset: str, expected: Habits) -> None:
    assert habits(methods.build(name, methods.preset(name, preset, METHODS), METHODS)) == expected


def test_prefixes_shorten_what_is_sampled_and_are_learned_from() -> None:
    found = habits(methods.build("trapo", {}, METHODS))
    assert (found.rollouts, found.rounds) == (7, 3)  # four, two and one; the eighth is a whole demonstration
    assert found.own + found.expert == pytest.approx(8) and found.sampled == pytest.approx(found.own)
    assert 1 < found.expert < 2  # a whole demonstration, mostly half of one, now and then two fifths
    released = habits(methods.build("trapo", methods.preset("trapo", "as_released", METHODS), METHODS))
    assert released.own + released.expert < 8  # one prefix is shown and not learned from


def test_what_a_method_adds_in_update_is_counted(tmp_path: Path) -> None:
    (tmp_path / "twice.py").write_text(
        "from dataclasses import dataclass\n"
        "from engine.reduce import mean_over_tokens\n"
        "from engine.words import Sample, Trajectory, expert, own\n\n\n"
        "@dataclass(frozen=True)\n"
        "class Method:\n"
        "    reduce = mean_over_tokens\n\n"
        "    def explore(self, problem, context):\n"
        "        (first,) = yield Sample(1)\n"
        "        return [Trajectory(problem, (own(first, 1.0),))]\n\n"
        "    def update(self, trajectories, context):\n"
        "        more = [Trajectory(t.problem, (expert(t.problem.demonstration()),)) for t in trajectories]\n"
        "        return [*trajectories, *more, *more]\n\n"
        "    def loss(self, t):\n"
        "        return -t.logp\n"
    )
    assert habits(methods.build("twice", {}, tmp_path)) == Habits(1, 1, 1, 1, 2)


def test_flops_are_those_that_a_finished_stage_reports() -> None:
    shape = models.shape(SEVEN)
    cost = stage_cost(train_settings(), Habits(7, 1, 7, 7, 1, scored=2), shape, None)
    row = {
        **dict.fromkeys(metrics.COUNTED, 0),
        **{"sampled_tokens": cost.sampled, "trained_tokens_own": cost.own, "trained_tokens_expert": cost.expert},
        "scored_tokens": 2 * (cost.own + cost.expert),
    }
    assert cost.sampled == 500 * 128 * 7 * 4200
    assert metrics.costs([row], [], shape.parameters, 0)["flops"] == cost.flops
    short = stage_cost(train_settings(max_response_tokens=1000), Habits(7, 1, 7, 7, 1), shape, None)
    assert short.sampled == 500 * 128 * 7 * 1000
    assert cost.gpu_seconds is None


# Time


def test_the_constants_are_those_of_the_published_run() -> None:
    row = next(row for row in calibration() if (row["method"], row["quantity"]) == ("LUFFY", "gpu_hours"))
    shape, gpu = models.shape({"name": "qwen2.5_math_7b"}), hardware.GPUS["a100"]
    assert row["published"] == 8 * 77
    update = row["published"] / 8 * 3600 / 500
    generating, updating, rest, whole = 321, 286, 54, 749
    training = 6 * shape.parameters * 128 * 8 * 4200 / 8 / (update * updating / whole) / gpu.flops
    assert training == pytest.approx(estimate.TRAINING, rel=0.02)
    ideal = estimate.SAMPLING * estimate.sampling_seconds(shape, 2, gpu, 112, 112 * 4200, 4200, 8192, 600_000)
    assert ideal / (update * generating / whole) == pytest.approx(estimate.SAMPLING, rel=0.02)
    assert rest / (generating + updating) == pytest.approx(estimate.REST, rel=0.02)


def test_published_gpu_hours_are_met_where_the_model_was_made_for_them() -> None:
    found = {row["method"]: row for row in calibration() if row["quantity"] == "gpu_hours"}
    assert found.keys() == {"LUFFY", "LUFFY-dagger", "SFT", "RL w/ SFT loss", "SFT+RL"}
    for method in ("LUFFY", "LUFFY-dagger"):  # the same settings, 500 and 860 updates
        assert 1 / 1.5 < found[method]["ratio"] < 1.5, found[method]
    flops = {row["method"]: row["ratio"] for row in calibration() if row["quantity"] == "train_flops"}
    for method in ("SFT", "RL 50 steps"):
        assert flops[method] == pytest.approx(7.616 / 7, rel=0.01)  # print has 7e9 parameters


def test_one_run_of_each_method_at_luffys_settings_costs_about_what_luffy_did() -> None:
    found = {job.rows[-1]: job.cost.gpu_seconds for job in jobs.trainings(seven({}))}
    assert {"luffy", "trapo", "trapo-as_released", "grpo"} <= found.keys()
    for row in ("luffy", "trapo", "trapo-as_released"):
        assert 616 / 1.5 < (found[row] or 0) / 3600 < 616 * 1.5, row


def test_time_grows_with_what_it_is_spent_on() -> None:
    shape, machine = models.shape(SEVEN), hardware.declared({"hardware": A100})
    luffy, eight = Habits(7, 1, 7, 7, 1), train_settings(ranks=8, term_norms_every=0, sample_batch_tokens=400_000)

    def hours(train: dict[str, Any], habit: Habits = luffy, model: models.Shape = shape) -> float:
        seconds = stage_cost(train, habit, model, machine).gpu_seconds
        assert seconds
        return seconds / 3600

    assert hours(eight | {"updates": 1000}) == pytest.approx(2 * hours(eight))
    assert hours(eight, Habits(7, 3, 7, 7, 1)) > hours(eight)  # rounds that wait for one another
    assert hours(eight | {"sample_batch_tokens": 50_000}) > hours(eight)  # fewer responses at a time
    assert hours(eight | {"term_norms_every": 25}) > hours(eight)
    assert hours(eight, model=models.shape({"name": "qwen2.5_math_1.5b"})) < hours(eight) / 3
    sampled = evaluation_cost(
        {"max_new_tokens": 8192, "dtype": "bfloat16", "device": "cuda", "sample_batch_tokens": 400_000}, 1, shape, machine
    )
    assert sampled.clock and sampled.clock > 8192 * 2 * shape.parameters / hardware.GPUS["a100"].bandwidth


# The plan as a whole


def test_a_plan_that_fits_says_what_it_costs() -> None:
    text, refused = full(seven({"seeds": [0, 1]}, gradient_checkpointing=True))
    assert not refused
    lines = {line.split("  ")[0]: re.split(r"  +", line) for line in text.splitlines()}
    assert lines["rule"][1:] == ["jobs", "GPU-hours", "sampled", "own", "expert", "FLOPs", "disk"]
    assert [lines[rule][1] for rule in ("base", "train", "generate", "grade")] == ["2", "12", "14", "70"]
    train, generate, total = (float(lines[rule][2].replace(",", "")) for rule in ("train", "generate", "total"))
    assert train > 5000 and total == pytest.approx(train + generate, abs=1)
    assert lines["sft, sft_then_grpo"][1] == "2"  # one stage of two rows, for each of two seeds
    assert "8 x a100, never idle" in text and "days" in text
    assert "Window of" not in text and "LUFFY, GPU-hours" in text and "Detectable paired difference" in text


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda path: path.stem)
def test_what_is_shipped_fits_the_machine_it_names(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = yaml.safe_load(path.read_text())
    if "hardware" not in given:
        pytest.skip("names no machine")
    monkeypatch.chdir(ROOT)
    assert full(checked(given))[1] == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({}, "while updating (activations"),
        ({"gradient_checkpointing": True, "micro_batch_tokens": 262_144}, "train.micro_batch_tokens 9216"),
        ({"gradient_checkpointing": True, "sample_batch_tokens": 2_000_000}, "lower train.sample_batch_tokens from 2000000 to"),
        ({"gradient_checkpointing": True, "zero_stage": 0}, "train.zero_stage 2"),
        ({"gradient_checkpointing": True, "ranks": 1}, "train.offload true"),
    ],
)
def test_what_does_not_fit_is_refused_with_a_remedy_that_works(changed: dict[str, Any], message: str) -> None:
    _, refused = full(seven({"runs": ["base", "grpo"]}, **changed))
    assert refused and any(message in text for text in refused), refused
    remedies = [
        one for text in refused for one in re.findall(r"train\.(\w+) (?:from \d+ to )?(\d+|true)\b", text.split(";")[-1])
    ]
    assert remedies
    plan = seven({"runs": ["base", "grpo"]}, **{**changed, **{key: yaml.safe_load(value) for key, value in remedies}})
    assert full(plan)[1] == []


@pytest.mark.parametrize(
    ("machine", "message"),
    [
        ({"gpus": 4}, "train.ranks is 8, one GPU each, and hardware.gpus is 4"),
        ({"gpu": "l4", "gpu_memory_gb": 16}, "no setting of evaluation makes it fit"),
        ({"host_memory_gb": 100}, "GiB of the host's memory and hardware.host_memory_gb is 100"),
        ({"disk_gb": 300}, "GiB of disk are needed and hardware.disk_gb is 300"),
    ],
)
def test_a_machine_that_is_too_small_is_refused(machine: dict[str, Any], message: str) -> None:
    _, refused = full(seven({"runs": ["base", "grpo"]}, {**A100, **machine}, gradient_checkpointing=True))
    assert any(message in text for text in refused), refused


def test_an_unknown_gpu_is_answered_with_the_nearest() -> None:
    with pytest.raises(ValueError, match="did you mean 'h100'"):
        full(seven({}, {**A100, "gpu": "h10"}))


def test_without_a_machine_or_gpus_no_time_is_given() -> None:
    text, refused = full(seven({"runs": ["base", "grpo"]}, None))
    assert "No `hardware` in the configuration" in text and "memory" in text and not refused
    text, refused = full(seven({"runs": ["base", "grpo"]}, {"gpu": "cpu"}))
    assert "no time is estimated" in text and not refused


def test_rows_of_studies_and_published_checkpoints_are_planned() -> None:
    more = {"title": "More", "about": "of them", "runs": ["grpo", "luffy"], "seeds": [3, 4]}
    plan = seven({"runs": ["base", "grpo"], "studies": {"more": more}}, gradient_checkpointing=True)
    training = {job.rows[0]: sorted(job.folders) for job in jobs.trainings(plan)}
    assert jobs.rows(plan) == {"base": [0], "grpo": [0, 3, 4], "luffy": [3, 4]}
    assert len(training["grpo"]) == 3 and len(training["luffy"]) == 2
    others = {"oat": {"name": "oat_zero", "template": "config/templates/qwen_math.txt"}}
    plan = seven({"runs": ["base", "oat"], "checkpoints": others}, gradient_checkpointing=True)
    assert "Window of oat: 4,096 tokens, prompt and response may have 9,216." in full(plan)[0]


def test_the_command_needs_no_torch_and_takes_settings() -> None:
    code = "import sys; sys.modules['torch'] = None; from engine.cli import main; main()"
    command = [sys.executable, "-c", code, "plan", "config/miniature.yaml"]
    told = subprocess.run([*command, "--config", "train={updates: 7}"], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 0, told.stderr
    assert re.search(r"^grpo +1 +7 +24 +8 +1 ", told.stdout, re.MULTILINE) and "base" in told.stdout
    told = subprocess.run([*command, "--config", "train"], cwd=ROOT, capture_output=True, text=True)
    assert told.returncode == 1 and "is not KEY=VALUE" in told.stderr and "Traceback" not in told.stderr


def test_published_costs_stay_out_of_the_published_results() -> None:
    from analysis.published import read_published

    assert "compute" not in set(read_published(ROOT / "results" / "published")["paper"])
    assert json.dumps(calibration())
