"""From a configuration to stages: which runs there are, where each stage lives, and everything that determines it.

The Snakefile only asks this module; it imports neither torch nor pandas, so a dry run is quick. Names are checked here, and an
unknown one is answered with the nearest known one.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema

from engine import benchmarks, corpus, methods, record
from engine.checkpoint import NO_RESULT
from engine.data import Template
from engine.methods import nearest
from workflow import models
from workflow.configuration import SCHEMA, completed
from workflow.corpora import Corpora
from workflow.evaluation import Evaluation
from workflow.runs import BASE, Run, Runs
from workflow.studies import Study

# Folders under results/<profile>/ and rules of the Snakefile.
RESERVED = (
    *("all", "arithmetic", "ablation", "audit", "bug_study", "certificate", "corpus", "data", "eval", "fidelity", "figures"),
    *("fig2_prefix_pilot", "fig3_mixture_pilot", "fig4_dynamics", "fig6_passk", "generate", "golds", "grade", "grader_audit"),
    *("hybrids", "logs", "mixture", "notes", "overlap", "pilots", "prefix_samples", "prefix_use_histogram", "preflight"),
    *("pretrain", "proposition", "published", "report", "score", "study", "table1", "table2_ablation", "tables", "train"),
)
# The settings of training that sampling from an untrained checkpoint shares.
SAMPLED_WITH = ("temperature", "max_prompt_tokens", "max_response_tokens", "dtype", "device")


class Plan(Runs):
    """A checked configuration. Paths are relative to the repository's root, where Snakemake runs."""

    def __init__(
        self,
        config: dict,
        schema: dict,
        catalogue: Path = benchmarks.CATALOGUE,
        bugs: Path = Path("config/bugs.yaml"),
        patches: Path = benchmarks.PATCHES,
        known_models: Path = models.CATALOGUE,
        corpora: Path = corpus.CATALOGUE,
    ) -> None:
        super().__init__(config, bugs)
        self.seeds: list[int] = config["seeds"]
        self._models = models.catalogue(known_models)
        self.corpora = Corpora(config, corpora)
        self._refuse_shadows()
        self.runs = [self.injected(self.run(label), config["inject"]) for label in config["runs"]]
        self.studies = {name: self._study(name, settings) for name, settings in config["studies"].items()}
        self.all_runs = list(dict.fromkeys([*self.runs, *(run for study in self.studies.values() for run in study.runs)]))
        for label in config["overrides"]:
            if label not in {
                *(run.clean for run in self.all_runs),
                *(run.method for run in self.all_runs),
                *self._shared_runs(),
            }:
                raise nearest("run in overrides:", label, config["runs"])
        for run in [*self.all_runs, *map(self.run, sorted(self._shared_runs()))]:
            self._check_settings(run, schema["properties"]["train"])
        own = {run.clean: template for run in self.all_runs if (template := self.own_template(run))}
        self.evaluation = Evaluation(config, [run.clean for run in self.all_runs], own, catalogue, patches)
        self.benchmarks = self.evaluation.benchmarks
        self._check_pilot()
        for study in self.studies.values():
            self.axis(study)

    def _check_pilot(self) -> None:
        asked = self.config["prefix_pilot"]
        for key, known in (("start", [BASE, *self.config["checkpoints"]]), ("data", self.corpora.names)):
            if asked[key] not in known:
                raise nearest(f"{key} of prefix_pilot:", asked[key], known)

    def _refuse_shadows(self) -> None:
        """A name must mean one thing: checkpoints and studies have folders beside those of methods, and studies are targets
        beside rules; a variant is no preset of its method's file."""
        known = {
            **dict.fromkeys(RESERVED, "a folder or rule of the workflow"),
            **dict.fromkeys(methods.names(self.folder), "a method"),
        }
        for kind in ("checkpoints", "studies"):
            for label in self.config[kind]:
                if label in known:
                    raise ValueError(f"{kind}: {label!r} is the name of {known[label]}; choose another one")
                known[label] = f"one of {kind}"
        for method, variants in self.config["variants"].items():
            for name in variants:
                if name == methods.MATCHED or name in methods.presets(method, self.folder):
                    raise ValueError(f"variants: {method} has a preset {name!r} already; give the variant another name")

    def _check_settings(self, run: Run, schema: dict) -> None:
        """Raise ValueError if a run's settings do not exist, are of the wrong kind, or name data or a start that do not."""
        settings = self.of_train(run)
        try:
            jsonschema.validate(settings, schema)
        except jsonschema.ValidationError as error:
            raise ValueError(f"overrides of {run.clean}, {error.json_path.removeprefix('$.')}: {error.message}") from error
        if settings["ranks"] % settings["nodes"]:
            raise ValueError(
                f"run {run.label}: train.ranks {settings['ranks']} cannot be spread evenly over train.nodes "
                f"{settings['nodes']}; make it a multiple"
            )
        if settings["data"] not in self.corpora.names:
            raise nearest(f"data of run {run.label}:", settings["data"], self.corpora.names, "; name it under other_data")
        if settings["start"] not in {BASE, *self.config["checkpoints"]}:
            raise nearest(f"start of run {run.label}:", settings["start"], [BASE, *self.config["checkpoints"]])
        own, usual = self.own_template(run), self.config["template"]
        if own and not run.checkpoint and self.corpora.prepared(settings["data"]) and _opens(own) != _opens(usual):
            raise ValueError(
                f"run {run.label} starts from {settings['start']}, whose template {own} and the configuration's {usual} do not "
                "both open a thought: demonstrations are written for the configuration's; give the checkpoint one like it"
            )
        if settings["start"] != BASE and any(self.borrows(run, stage) for stage in self.stages(run)):
            raise ValueError(
                f"run {run.label} starts from {settings['start']}, but its first stage is another run's, which starts from the "
                f"base model; make it a stage of its own in {self.method_file(run.label, self.stages(run)[-1].name)}"
            )

    def _study(self, name: str, settings: dict) -> Study:
        runs = tuple(self.injected(self.run(label), self.config["inject"]) for label in settings["runs"])
        return Study.of(name, settings, runs, tuple(settings.get("seeds", self.seeds)), self.home / name)

    def bug_study(self) -> list[Run]:
        """Every trained row of the main table, clean and with each known bug alone, where it can happen."""
        clean = list(dict.fromkeys(replace(run, bug=None) for run in self.runs if run.method != BASE))
        return [*clean, *(replace(run, bug=bug) for run in clean for bug in self.bugs if not self.lacking(run, bug))]

    def _shared_runs(self) -> set[str]:
        """Runs that train a stage some row starts with, or whose settings it has; they need not be rows."""
        runs = self.all_runs
        return {stage.method for run in runs for stage in self.stages(run) if stage.method and self.borrows(run, stage)}

    def stage_spec(self, label: str, seed: int | str, name: str) -> str:
        """Everything `engine.stage` needs, as JSON. Settings: the preset's, then the stage's, then the overrides; or those of
        the run that a stage borrows them from."""
        run, stage = self.stage(label, name)
        if self.borrows(run, stage):
            assert stage.method is not None
            lent = json.loads(self.stage_spec(f"{stage.method}{run.suffix}", seed, stage.method))
            if not self.is_shared(run, stage):
                longer = {key: round(lent["train"][key] * stage.times) for key in ("updates", "warmup_updates")}
                lent |= {
                    "run": label,
                    "stage": name,
                    "train": {**lent["train"], **longer, "updates": max(1, longer["updates"])},
                }
            return json.dumps(lent, sort_keys=True)
        _, own = self.settings(run)
        train = self.of_train(run)
        parent = self.parent(label, seed, name)
        chosen = None
        if stage.method is not None:
            of_file = stage.method == run.method and run.preset not in self.config["variants"].get(run.method, {})
            preset = methods.preset(run.method, run.preset, self.folder) if of_file else {}
            method = methods.build(stage.method, {**preset, **stage.settings, **own}, self.folder)
            chosen = {"name": stage.method, "folder": str(self.folder), "settings": methods.settings(method)}
        spec = {
            "run": label,
            "seed": int(seed),
            "stage": name,
            "inject": run.bug,
            "sampler": self.config["sampler"],
            "method": chosen,
            "parent": str(parent) if parent else None,
            "model": self.model(run.checkpoint or train["start"]),
            "data": str(self.home / "data" / f"{train['data']}.jsonl"),
            "template": self.own_template(run) or self.config["template"],
            "train": train,
        }
        return json.dumps(spec, sort_keys=True)

    def sizes(self) -> dict[str, dict[str, int]]:
        """What changes no result, by run, and of pre-flights and evaluations: mostly how much is in memory at a time."""
        labels = sorted({run.clean for run in self.all_runs} | self._shared_runs())
        trained = {label: self.of_train(self.run(label)) for label in labels}
        sizes = {label: {name: train[name] for name in NO_RESULT} for label, train in trained.items()}
        shared = {"sample_batch_tokens": self.config["train"]["sample_batch_tokens"]}
        return {
            **sizes,
            "preflight": {**shared, "problems": self.config["preflight_problems"]},
            "evaluation": {"sample_batch_tokens": self.config["evaluation"]["sample_batch_tokens"]},
        }

    def evaluation_spec(self, label: str, seed: int | str) -> str:
        """What `engine.evaluate generate` needs besides its sizes, as JSON."""
        spec = {
            "run": label,
            "seed": int(seed),
            "checkpoint": str(self.final(label, seed)),
            "sampler": self.config["sampler"],
            **self.evaluation.spec(self.run(label).clean, self.home),
        }
        return json.dumps(spec, sort_keys=True)

    def axis(self, study: Study) -> dict[str, Any]:
        """Label -> value of the setting in which a study's rows differ; rows without that setting are left out."""
        found = {}
        for run in study.runs if study.axis else ():
            spec = json.loads(self.stage_spec(run.label, self.seeds[0], self.stages(run)[-1].name))
            settings = {**spec["train"], **(spec["method"] or {"settings": {}})["settings"]}
            if spec["method"] and study.axis in settings:
                found[run.label] = settings[study.axis]
        if study.axis and not found:
            raise nearest(f"axis of study {study.name}:", study.axis, self.config["train"])
        for label, value in found.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"axis of study {study.name}: {study.axis} is {value!r} in {label}; an axis has numbers")
        return found

    def _sampling_spec(self, label: str, data: str, seed: int | str, axis: str) -> dict[str, Any]:
        """What sampling from an untrained checkpoint needs, with the settings of training."""
        stage = json.loads(self.stage_spec(label, seed, BASE))
        return {
            "run": f"{label} {axis}",
            "seed": int(seed),
            "checkpoint": str(self.final(label, seed)),
            "sampler": self.config["sampler"],
            "template": stage["template"],
            "data": str(self.home / "data" / f"{data}.jsonl"),
            "train": {name: self.config["train"][name] for name in SAMPLED_WITH},
        }

    def preflight_spec(self, label: str, data: str, seed: int | str) -> str:
        """What `engine.pilot preflight` needs besides its sizes, as JSON."""
        spec = self._sampling_spec(label, data, seed, "preflight")
        return json.dumps({**spec, "min_finished": self.config["train"]["min_finished"]}, sort_keys=True)

    def prefix_pilot_spec(self) -> str:
        """Everything `engine.pilot prefixes` needs, as JSON."""
        asked = self.config["prefix_pilot"]
        spec = self._sampling_spec(asked["start"], asked["data"], self.seeds[0], "prefix pilot")
        spec["train"]["sample_batch_tokens"] = self.config["train"]["sample_batch_tokens"]
        return json.dumps({**spec, **{key: asked[key] for key in ("problems", "samples", "ratios")}}, sort_keys=True)

    def model(self, label: str) -> dict[str, Any]:
        """The model of the configuration (`base`) or of a checkpoint, for `engine.stage`: where its files are, or come from.

        Raises ValueError for a name that config/models.yaml does not have.
        """
        asked = self.config["model"] if label == BASE else self.config["checkpoints"][label]
        asked = {key: value for key, value in asked.items() if key != "template"}
        if "name" not in asked:
            return {"name": asked["path"], **asked}
        if asked["name"] not in self._models:
            raise nearest("model", asked["name"], self._models, "; name one of config/models.yaml, or give a path")
        entry = self._models[asked["name"]]
        return {"path": str(Path(self.config["models_dir"]) / asked["name"]), "hub": entry["hub"], **asked}

    @property
    def digest(self) -> str:
        """Of the whole configuration."""
        return record.digest(self.config)

    def known_golds(self, name: str) -> list[str]:
        """Ids whose gold answer is known not to grade as correct against itself."""
        return self.config["train_known_golds"] if name in self.corpora.names else self.benchmarks[name].get("known_golds", [])

    def data_spec(self, name: str) -> dict[str, Any]:
        """Everything `engine.benchmarks build` needs to write `train` or a benchmark. Without `hub`, `source` is a file, or the
        word `miniature` for generated data."""
        return self.corpora.file_spec(name) if name in self.corpora.names else self.evaluation.data(name)


def checked(config: dict, schema: Path = SCHEMA) -> Plan:
    """The plan of a configuration, which is given its types and defaults. Raises ValueError or snakemake's WorkflowError."""
    return Plan(config, completed(config, schema))


def _opens(template: str) -> bool:
    return Template.read(Path(template)).opens_thought


def engine_fingerprint() -> str:
    """Digest of the engine's sources: Snakemake does not watch modules that a command imports."""
    return record.fingerprint(Path("engine"))
