"""From labels to runs: what each is, its settings, its stages and the folders they live in. Unknown names are answered with the
nearest known one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from engine import methods
from engine.methods import nearest
from engine.words import Stage

BASE = "base"  # the one method without training: its stage is every pipeline's starting point


@dataclass(frozen=True)
class Run:
    """One row of the results: a method under a preset, perhaps with a known bug injected on purpose, or a checkpoint of others
    that is only evaluated. Its label, `method[-preset][+bug]` or the checkpoint's name, names its folder."""

    method: str
    preset: str
    bug: str | None = None
    checkpoint: str | None = None

    @property
    def clean(self) -> str:
        """The label without the bug: where settings are looked up."""
        if self.checkpoint:
            return self.checkpoint
        return self.method if self.preset == methods.MATCHED else f"{self.method}-{self.preset}"

    @property
    def label(self) -> str:
        return self.clean + self.suffix

    @property
    def suffix(self) -> str:
        return f"+{self.bug}" if self.bug else ""


class Runs:
    """Every run that a configuration can name."""

    def __init__(self, config: dict, bugs: Path) -> None:
        self.config = config
        self.folder = Path(config["methods_dir"])
        self.home = Path("results") / config["profile"]
        self.bugs: dict[str, dict] = yaml.safe_load(bugs.read_text())

    def run(self, label: str) -> Run:
        """The run a label names; an unknown method, preset or bug raises ValueError with the nearest known one."""
        clean, _, bug = label.partition("+")
        if clean in self.config["checkpoints"]:
            return Run(BASE, methods.MATCHED, checkpoint=clean)
        method, _, preset = clean.partition("-")
        if preset not in self.config["variants"].get(method, {}):
            methods.preset(method, preset or methods.MATCHED, self.folder)
        methods.stages(method, self.folder)
        return self.injected(Run(method, preset or methods.MATCHED), bug)

    def injected(self, run: Run, bug: str) -> Run:
        """The run with a known bug switched on; the base model, which is not trained, stays as it is."""
        if not bug or run.method == BASE:
            return run
        if bug not in self.bugs:
            raise nearest("bug to inject", bug, self.bugs)
        if run.bug:
            raise ValueError(
                f"inject: {bug} would go on top of run {run.label!r}, which has a bug already; drop one of the two"
            )
        if wrong := self.lacking(run, bug):
            raise ValueError(
                f"bug {bug} cannot happen in run {run.label!r}: it needs {wrong}; change that or leave the bug out"
            )
        return replace(run, bug=bug)

    def lacking(self, run: Run, bug: str) -> str:
        """What a bug needs of the shared settings and a run does not have; empty if the bug can happen there."""
        settings = self.of_train(run)
        needs = self.bugs[bug].get("needs", {})
        return ", ".join(f"train.{key} in {allowed}" for key, allowed in needs.items() if settings.get(key) not in allowed)

    def overrides(self, run: Run) -> dict[str, Any]:
        """What a run does otherwise. A variant keeps what its method is given, and adds its own; under a preset of its file a
        run keeps the shared settings (a learning rate, say)."""
        given, variants = self.config["overrides"], self.config["variants"].get(run.method, {})
        if run.checkpoint or run.clean == run.method:
            return given.get(run.clean, {})
        of_method = given.get(run.method, {})
        if run.preset not in variants:
            of_method = {key: value for key, value in of_method.items() if key in self.config["train"]}
        return {**of_method, **variants.get(run.preset, {}), **given.get(run.clean, {})}

    def settings(self, run: Run) -> tuple[dict, dict]:
        """A run's overrides split into shared settings and the method's own; an unknown name raises ValueError."""
        overrides = self.overrides(run)
        shared = {key: value for key, value in overrides.items() if key in self.config["train"]}
        own = {key: value for key, value in overrides.items() if key not in shared}
        methods_of_run = {stage.method for stage in self.stages(run) if stage.method and not self.borrows(run, stage)}
        for key in own:
            fields = {name for m in methods_of_run for name in methods.settings(methods.build(m, {}, self.folder))}
            if key not in fields:
                raise nearest(f"setting in overrides of {run.label}:", key, [*fields, *self.config["train"]])
        return shared, own

    def of_train(self, run: Run) -> dict[str, Any]:
        """The shared settings of a run."""
        return {**self.config["train"], **self.settings(run)[0]}

    def own_template(self, run: Run) -> str:
        """The template of the checkpoint a run is, or starts from, if that has one of its own; else empty."""
        label = run.checkpoint or self.of_train(run)["start"]
        return self.config["checkpoints"].get(label, {}).get("template", "")

    def stages(self, run: Run) -> tuple[Stage, ...]:
        return methods.stages(run.method, self.folder)

    def borrows(self, run: Run, stage: Stage) -> bool:
        """Whether this stage has the settings of another run: a fresh start without any of its own."""
        return stage.method is not None and stage.method != run.method and stage.parent is None and not stage.settings

    def is_shared(self, run: Run, stage: Stage) -> bool:
        """Whether this stage is another run's."""
        return self.borrows(run, stage) and stage.times == 1

    def stage_folder(self, run: Run, stage: Stage, seed: int | str) -> Path:
        """Where a stage lives: under its own run, or under the run it is shared from."""
        if self.is_shared(run, stage):
            assert stage.method is not None
            return self.home / f"{stage.method}{run.suffix}" / f"seed{seed}" / stage.method
        return self.home / run.label / f"seed{seed}" / stage.name

    def final(self, label: str, seed: int | str) -> Path:
        """The folder of the checkpoint that stands for a run."""
        run = self.run(label)
        return self.stage_folder(run, self.stages(run)[-1], seed)

    def stage(self, label: str, name: str) -> tuple[Run, Stage]:
        run = self.run(label)
        return run, next(stage for stage in self.stages(run) if stage.name == name)

    def parent(self, label: str, seed: int | str, name: str) -> Path | None:
        """The folder of the checkpoint a stage starts from; None for the base stage itself."""
        run, stage = self.stage(label, name)
        if stage.method is None:
            return None
        if stage.parent is None:
            return self.home / self.of_train(run)["start"] / f"seed{seed}" / BASE
        return self.stage_folder(run, self.stage(label, stage.parent)[1], seed)

    def method_file(self, label: str, name: str) -> str:
        """The file whose change makes this stage out of date."""
        run, stage = self.stage(label, name)
        return str(self.folder / f"{stage.method or run.method}.py")

    def starts(self, runs: Sequence[Run]) -> list[str]:
        """Labels of the checkpoints that these runs start from, each once."""
        return list(dict.fromkeys(self.of_train(run)["start"] for run in runs if run.method != BASE))

    def stage_folders(self, runs: Sequence[Run], seeds: Sequence[int], trained: bool = False) -> list[str]:
        """The folder of every stage of these runs and seeds, each once (some are shared), what they start from first; only of
        those that are `trained`, if asked."""
        folders = [self.final(start, seed) for start in self.starts(runs) for seed in seeds if not trained]
        folders += [
            self.stage_folder(run, stage, seed)
            for run in runs
            for seed in seeds
            for stage in self.stages(run)
            if stage.method or not trained
        ]
        return list(dict.fromkeys(map(str, folders)))
