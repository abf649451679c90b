"""The loop of a training stage: explore, update, check, record, save; resumed where it was killed."""

import logging
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from engine import certificate as certificates
from engine import checkpoint, data, explore, logs, memory, methods, metrics, record, seeds, supply, tokenised
from engine.grade import Grader
from engine.model import chat_template, refuse_untrainable
from engine.reward import Reward
from engine.sampler import Sampling, build
from engine.words import Trajectory

log = logging.getLogger("assay")
CANARIES = (64, 48, 32)  # lengths of the texts that sampler and trainer both score after every change of weights


class Training:
    """One training stage with its model, sampler, grader and data. `parts` identifies it (engine/stage.py)."""

    def __init__(self, spec: dict, out: Path, parts: dict, log_to: Sequence[str] = ()) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.utils import logging as transformers_logging

        from engine import bugs
        from engine.distributed import ranks
        from engine.settings import Settings

        self.spec, self.out, self.parts, self.shared, self.inject = spec, out, parts, spec["train"], spec["inject"]
        self.seconds = dict.fromkeys(metrics.PHASES, 0.0)
        transformers_logging.disable_progress_bar()  # loading a model is not the progress anybody waits for
        shared, source = self.shared, Path(spec["parent"]) / "model"
        self.method = methods.build(spec["method"]["name"], spec["method"]["settings"], Path(spec["method"]["folder"]))
        self.tokenizer = AutoTokenizer.from_pretrained(source)
        self.template = data.Template.read(Path(spec["template"]))
        self.problems = tokenised.load(
            Path(spec["data"]), self.tokenizer, self.template, shared["max_prompt_tokens"], shared["max_response_tokens"]
        )

        def load() -> Any:
            return AutoModelForCausalLM.from_pretrained(source, dtype=getattr(torch, shared["dtype"]))

        if shared["ranks"] > 1 and shared["zero_stage"] == 3 and spec["sampler"] == "transformers":
            raise ValueError(
                f"train.ranks {shared['ranks']} with train.zero_stage 3 needs sampler vllm: the transformers sampler decodes "
                "with the partitioned model itself, for which all ranks would have to generate the same number of tokens; or "
                "set zero_stage to 2 or less"
            )
        torch.manual_seed(seeds.seed(run=spec["seed"], axis="torch"))  # nothing draws from it; what did would repeat
        model = load()
        refuse_untrainable(model.config, shared["max_prompt_tokens"], shared["max_response_tokens"])
        names = Settings.__dataclass_fields__.keys() & shared.keys()
        settings = Settings(**{name: shared[name] for name in names}, response_tokens=shared["max_response_tokens"])
        settings = bugs.settings(self.inject, settings)
        self.trainer = bugs.trainer(self.inject)(model, self.method, settings, self.tokenizer.pad_token_id)
        sampling = Sampling(
            self.tokenizer.pad_token_id,
            self.tokenizer.eos_token_id,
            shared["max_prompt_tokens"],
            shared["max_response_tokens"],
            shared["temperature"],
            shared["sample_batch_tokens"],
            shared["dtype"],
            shared["device"],
        )
        sampler = build(spec["sampler"], source, sampling, bugs.policy(self.inject, self.trainer.model, load))
        self.texts = [
            (problem.prompt + (problem.demonstrations[0] if problem.demonstrations else ()))[:length]
            for problem, length in zip(self.problems, CANARIES, strict=False)
        ]
        self.sampler = bugs.sampler(self.inject, sampler)
        self.ranks = ranks()
        self.leads = self.ranks.rank == 0  # what is written is written by the first rank
        second = getattr(self.method, "second", 0.0)
        self.supply = supply.Supply(self.problems, spec["seed"], shared["prompts_per_update"], second)
        self.selection: dict[str, Any] = {}
        self.log_to = log_to if self.leads else ()
        self.memory: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        """All updates, from the newest checkpoint on, then the weights. Returns the stage's certificate.

        What a repetition repeats goes to metrics.jsonl, what it does not (seconds) to timings.jsonl. certificate.json is
        written at the end, and when a check fails, which raises IntegrityError.
        """
        shared, seed = self.shared, self.spec["seed"]
        with self.timed("checks"), self.bounded():
            self.probe()  # before a checkpoint is loaded: a resumed stage has the certificate it would have had
        rows, timings = self.resume()
        if self.leads:
            record.write_rows(self.out / "metrics.jsonl", rows)
            record.write_rows(self.out / "timings.jsonl", timings)
        steps, name = range(len(rows), shared["updates"]), f"{self.spec['run']} seed {seed}"
        bar = tqdm(steps, name, shared["updates"], initial=len(rows), mininterval=10, disable=not self.leads)
        told = logs.opened(self.log_to, self.out, self.spec, record.digest(self.parts), rows)
        with Grader() as grader, told as tell:
            self.reward = Reward(grader, self.tokenizer, self.template, self.trainer.settings.reward_noise, seed)
            if hasattr(self.method, "keep"):
                with self.timed("explore"):
                    self.selection = self.select(len(rows))
            for step in bar:
                limits = self.limits(rows)
                if limits.spent >= 1:
                    break
                row = self.step(step, limits)
                rows.append(row)
                if self.leads:
                    record.append_row(self.out / "metrics.jsonl", row)
                    tell(row)
                    record.append_row(self.out / "timings.jsonl", self.spent())
                self.certify(rows)
                said = {"reward": row["reward"], "tokens": row["response_tokens"]}
                if self.trainer.settings.sampled_tokens:
                    said["budget"] = f"{self.limits(rows).spent:.0%}"
                bar.set_postfix(said, refresh=False)
                if (step + 1) % shared["checkpoint_every"] == 0 and step + 1 < shared["updates"]:
                    with self.timed("checkpoint"):
                        checkpoint.save(self.trainer, self.out / "state", step + 1, self.parts, self.memory, self.ranks)
        certificate = self.certify(rows, final=True)
        with self.timed("checkpoint"):
            if self.leads:
                shutil.rmtree(self.out / "model", ignore_errors=True)
            self.trainer.save_model(self.out / "model")
            if self.leads:
                self.tokenizer.chat_template = chat_template(self.template)
                self.tokenizer.save_pretrained(self.out / "model")
        if self.leads:
            record.append_row(self.out / "timings.jsonl", self.spent())
        return certificate

    def probe(self) -> None:
        """The checks before anything is trained, in the configuration that is about to train."""
        from engine import integrity, layout

        settings, dtype = self.trainer.settings, self.shared["dtype"]
        self.live = integrity.configuration(settings, dtype, self.spec["sampler"])
        self.parent = record.read_json(Path(self.spec["parent"]) / "done.json")["certificate"]
        self.probes = [
            integrity.gradient_probe(settings, dtype),
            layout.check(type(self.trainer), self.method, settings, dtype),
            integrity.rows_apart(self.trainer, self.texts, dtype),
        ]
        self.reported: set[str] = set()
        self.certify([])

    def certify(self, rows: Sequence[dict], final: bool = False) -> dict[str, Any]:
        """The certificate over the updates so far, written if it is `final` or fails. Raises IntegrityError if a check failed,
        unless a bug was injected: then each failure is reported once."""
        from engine import integrity

        watched = integrity.of_updates(rows, self.shared["dtype"], self.shared["min_finished"]) if rows else []
        checks = [*self.probes, *watched]
        # The same on all ranks: a check is what the first rank found, or the first one it failed on.
        everyone = self.ranks.gather({self.ranks.rank: checks}).values()
        checks = [next((one for one in found if one.status == "failed"), found[0]) for found in zip(*everyone, strict=True)]
        failed = [check for check in checks if check.status == "failed"]
        certificate = certificates.certificate(self.spec, self.live, checks, [self.parent])
        stop = failed and self.inject is None
        if self.leads and (final or stop):
            record.write_json(self.out / "certificate.json", certificate)
        self.ranks.gather({})  # nobody leaves before it is written
        if stop:
            raise certificates.IntegrityError("; ".join(map(str, failed)))
        for check in failed:
            if check.name not in self.reported:
                if self.leads:
                    log.warning("injected %s, seen by %s", self.inject, check)
                self.reported.add(check.name)
        return certificate

    def bounded(self) -> AbstractContextManager[None]:
        """Forward and backward passes: what they hold at a time is a setting."""
        return memory.bounded("train.micro_batch_tokens", self.shared["micro_batch_tokens"])

    def select(self, made: int) -> dict[str, Any]:
        """Have the method choose the problems it trains on, once; what a stage that was killed had chosen is taken up again.

        Raises ValueError if that is gone and the policy is no longer the one to choose with: it has `made` updates.
        """
        path, updates = self.out / supply.SELECTION, self.shared["updates"]
        identity = record.digest(self.parts)
        found = record.read_json(path) if path.exists() else {}
        if found.get("identity") != identity:
            if made:
                raise ValueError(
                    f"{path} is missing or another stage's, and after {made} updates the policy would choose other problems; "
                    f"restore it, or delete {self.out / 'state'} to start over"
                )
            self.trainer.model.eval()
            at = (updates, self.sampler.sync, self.ranks, self.limits([]))
            found = {"identity": identity, **supply.selected(self.method, self.supply, self.sampler, self.reward, *at)}
            self.sampler.sleep()
            if self.leads:
                record.write_json(path, found)
        self.supply.keep(found["kept"])
        return found

    def limits(self, rows: Sequence[dict]) -> explore.Limits:
        """What explorations may know after the updates of `rows`. The sampling budget is spent by rows that sampled."""
        budget, sampled = self.trainer.settings.sampled_tokens, sum(row["sampled_tokens"] for row in rows)
        spent = sampled / budget if budget else 0.0
        return explore.Limits(self.shared["max_response_tokens"], self.shared["prompts_per_update"], spent)

    def step(self, step: int, limits: explore.Limits) -> dict[str, Any]:
        """Explore what one update wants and make it; returns its line of metrics."""
        from engine.integrity import canary, ended, repeats, worst

        total, seed, rank = self.shared["updates"], self.spec["seed"], self.ranks.rank
        batch = self.supply.batch(step)
        self.reward.undecided = self.reward.flipped = 0
        self.trainer.model.eval()
        seen: dict[int, dict] = {}

        def prepare() -> None:
            with self.timed("sync"), self.bounded():
                seen[rank] = canary(self.sampler, self.trainer, self.texts)
            self.seconds["explore"] -= self.seconds["sync"]  # it happens in the midst of it

        with self.timed("explore"):
            at = (step, total, self.memory, prepare, self.ranks, limits)
            found = supply.explored(self.method, self.supply, self.sampler, self.reward, *at)
            self.sampler.sleep()
            trajectories = found.trajectories
            if hasattr(self.method, "update"):
                here = explore.context(step, total, seed, "", self.memory, 0, limits)
                trajectories = self.method.update(trajectories, here)
        with self.timed("update"), self.bounded():
            sampled = {(problem.id, rollout.prefix, rollout.tokens) for problem, rollout in found.rollouts}
            update = self.trainer.update(trajectories, lambda trajectory: _context(trajectory) in sampled)
        trained = update.pop("trained_tokens")
        counted = self.ranks.gather({rank: (self.reward.undecided, self.reward.flipped)}).values()
        undecided, flipped = map(sum, zip(*counted, strict=True))
        first = self.selection if step == 0 else {}  # what the selection cost is part of the first update's costs
        return {
            "step": step,
            "problems": record.digest([problem.id for problem in batch]),
            **metrics.summary(found),
            **update,
            "canary": worst(list(self.ranks.gather(seen).values())),
            "repeats": repeats(found.rollouts),
            "ended": ended(found.rollouts, limits.response_tokens),
            "sampled_tokens": found.sampled_tokens + first.get("sampled_tokens", 0),
            "graded_rollouts": len(found.rollouts) + first.get("graded_rollouts", 0),
            "undecided": undecided,
            **({"flipped": flipped} if self.reward.noise else {}),
            **({"kept_problems": len(first["kept"]), "of_problems": first["of"]} if first else {}),
            "rounds": found.rounds + first.get("rounds", 0),
            "trained_tokens_own": trained["own"],
            "trained_tokens_expert": trained["expert"],
            "scored_tokens": self.trainer.passes * (sum(trained.values()) - update["skipped_tokens"]),
        }

    def resume(self) -> tuple[list[dict], list[dict]]:
        """Load the newest usable checkpoint; returns metrics and timings up to it. None: start from the parent."""
        rows, timings = (record.whole_rows(self.out / name) for name in ("metrics.jsonl", "timings.jsonl"))
        state = self.out / "state"
        found = checkpoint.newest(state, self.parts, min(len(rows), len(timings)))
        steps = self.ranks.gather({self.ranks.rank: found[1]["step"] if found else 0})  # all have read: the first writes next
        if len(set(steps.values())) > 1:
            raise ValueError(f"the ranks would resume after different updates, {steps}; delete {state} to start over")
        if found is None:
            if any(state.glob("step-*")):
                log.warning("no checkpoint in %s can be used; starting over", state)
            if self.leads:
                shutil.rmtree(state, ignore_errors=True)
            return [], []
        folder, about = found
        self.trainer.load(folder)
        self.memory = about["memory"]
        if self.leads:
            log.info("resuming after update %d", about["step"])
        return rows[: about["step"]], timings[: about["step"]]

    @contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - start

    def spent(self) -> dict[str, float]:
        """Seconds of each phase since the last call, and how much was in memory at once."""
        spent = {f"seconds_{phase}": round(seconds, 3) for phase, seconds in self.seconds.items()}
        spent |= {name: self.shared[name] for name in checkpoint.RESIZABLE}
        self.seconds = dict.fromkeys(metrics.PHASES, 0.0)
        return spent


def _context(trajectory: Trajectory) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """(problem, what an expert wrote first, what the policy wrote after it), as a rollout has them."""
    before: tuple[int, ...] = ()
    for segment in trajectory.segments:
        if not segment.expert:
            return trajectory.problem.id, before, segment.tokens
        before += segment.tokens
    return trajectory.problem.id, before, ()
