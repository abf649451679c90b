"""The laptop sampler on the miniature: seeds, limits, log-probs, and independence from what shares the batch."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from engine.sampler import Request, Sampling, serve
from engine.sampler.transformers import TransformersSampler
from engine.words import Problem, Rollout, Sample
from tests.conftest import ROOT, assert_answered

BASE = ROOT / "miniature" / "base"


@pytest.fixture(scope="module")
def model():
    return AutoModelForCausalLM.from_pretrained(BASE).eval()


@pytest.fixture(scope="module")
def requests() -> list[Request]:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    texts = ["Work left to right: 7 + 5", "Work left to right: 17 + 5 * 2 - 4 + 3", "Start with 7, add 5, multiply by 2."]
    problems = [Problem(t, tuple(tokenizer.encode(f"Q: {t}\n\nA:", add_special_tokens=False)), "1") for t in texts]
    plus = tuple(tokenizer.encode("+5:22\n\n", add_special_tokens=False))
    return [
        Request(problems[0], Sample(6), (1, 2, 3, 4, 5, 6)),
        Request(problems[1], Sample(2, plus), (7, 8)),
        Request(problems[1], Sample(2, plus, max_new_tokens=0), (9, 10)),
        Request(problems[2], Sample(2, max_new_tokens=3), (11, 12)),
    ]


def sampler(model, **changes) -> TransformersSampler:
    sampling = Sampling(pad=0, end=1, prompt_tokens=100, response_tokens=40, temperature=1.0, batch_tokens=4096)
    return TransformersSampler(model, replace(sampling, **changes))


def test_rollouts_answer_their_requests(model, requests: list[Request]) -> None:
    groups = serve(sampler(model), requests)
    assert [len(group) for group in groups] == [6, 2, 2, 2]
    assert_answered(requests, groups, 40)
    assert len({r.tokens for r in groups[0]}) > 1  # members of a group differ
    assert {(r.tokens, r.finish_reason) for r in groups[2]} == {((), "prefix")}
    assert all(len(r.tokens) <= 3 for r in groups[3])


def test_samples_depend_on_their_seed_only(model, requests: list[Request]) -> None:
    together = serve(sampler(model), requests)
    assert together == serve(sampler(model), requests)
    apart = [serve(sampler(model, batch_tokens=1), [r])[0] for r in requests]
    assert [[r.tokens for r in g] for g in apart] == [[r.tokens for r in g] for g in together]
    (backwards,) = serve(sampler(model), [replace(requests[0], seeds=requests[0].seeds[::-1])])
    assert [r.tokens for r in backwards[::-1]] == [r.tokens for r in together[0]]
    other = serve(sampler(model), [replace(requests[0], seeds=(21, 22, 23, 24, 25, 26))])
    assert [r.tokens for r in other[0]] != [r.tokens for r in together[0]]


def test_a_prompt_is_passed_once_however_many_continue_it(model, requests: list[Request], monkeypatch) -> None:
    passed, forward = [], model.forward
    monkeypatch.setattr(model, "forward", lambda **given: passed.append(given["input_ids"]) or forward(**given))
    serve(sampler(model), requests)
    prompts = [request.prompt for request in (requests[0], requests[1], requests[3])]
    assert sorted(tuple(row[row > 0].tolist()) for row in passed[0]) == sorted(prompts)
    assert passed[1].shape == (10, 1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_those_of_a_plain_forward_pass(model, requests: list[Request], temperature: float) -> None:
    request = requests[1]
    for rollout in serve(sampler(model, temperature=temperature), [request])[0]:
        before = request.problem.prompt + rollout.prefix
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([before + rollout.tokens])).logits[0, len(before) - 1 : -1]
        expected = torch.log_softmax(logits / temperature, -1).gather(1, torch.tensor(rollout.tokens)[:, None]).squeeze(1)
        assert len(rollout.tokens) > 3
        torch.testing.assert_close(torch.tensor(rollout.logp), expected, rtol=0, atol=1e-4)


def test_sampling_follows_the_distribution(model, requests: list[Request]) -> None:
    """2,000 first tokens against the model's own probabilities, five standard errors wide."""
    problem = requests[0].problem
    (group,) = serve(sampler(model), [Request(problem, Sample(2000, max_new_tokens=1), tuple(range(2000)))])
    with torch.no_grad():
        p = torch.softmax(model(input_ids=torch.tensor([problem.prompt])).logits[0, -1], -1)
    counts = torch.bincount(torch.tensor([r.tokens[0] for r in group]), minlength=len(p)) / 2000
    assert (p > 0.05).sum() > 1
    assert ((counts - p).abs() < 5 * (p * (1 - p) / 2000).sqrt() + 1e-3).all()


def test_a_request_beyond_the_window_is_refused(model, requests: list[Request]) -> None:
    with pytest.raises(ValueError, match="the model's window is 8192"):
        serve(sampler(model, response_tokens=9000), requests[:1])


def test_what_is_served_is_in_order_of_the_requests(requests: list[Request]) -> None:
    class Backwards:
        def __init__(self) -> None:
            self.asked: list[tuple[int, Request]] = []

        def submit(self, key: int, request: Request) -> None:
            self.asked.append((key, request))

        def step(self):
            key, request = self.asked.pop()
            return [(key, [Rollout(request.sample.prefix, (key,), (0.0,), 0.0, "stop")])]

    assert [group[0].tokens for group in serve(Backwards(), requests)] == [(0,), (1,), (2,), (3,)]
