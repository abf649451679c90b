"""How rows are evaluated: which lists, changed how, under which template, by which grader; and what the tables say of it."""

from pathlib import Path
from typing import Any

import jsonschema
import yaml

from engine import benchmarks
from engine.data import Template
from engine.methods import nearest

SCHEMA = Path("workflow/schemas/benchmarks.schema.yaml")
SHARED = (
    "template",
    "samples",
    "exceptions",
    "problems",
)  # settings of evaluation that every row's specification has in a form of its own


class Evaluation:
    """The part of a checked configuration that is about evaluation. Raises ValueError for unknown names and broken templates.

    A row is a run without its injected bug, `method[-preset]`, or a checkpoint; `own` are the templates of rows that must be
    evaluated with the prompt they were trained with.
    """

    def __init__(self, config: dict, rows: list[str], own: dict[str, str], catalogue: Path, patches: Path) -> None:
        self._config, self._settings = config, config["evaluation"]
        self._data_dir: str = config["data_dir"]
        self.benchmarks = self._benchmarks(self._read(catalogue))
        self._patches = self._chosen_patches(benchmarks.read_yaml(patches))
        for row in self._settings["exceptions"]:
            if row not in rows:
                raise nearest("run in evaluation.exceptions:", row, rows)
        exceptions = {row: {"template": template} for row, template in own.items() if template != self._template}
        self.exceptions = {row: {**exceptions.get(row, {}), **self._settings["exceptions"].get(row, {})} for row in rows}
        self.exceptions = {row: asked for row, asked in self.exceptions.items() if asked}
        for path in {config["template"], *(self.of(row)["template"] for row in rows)}:
            Template.read(Path(path))

    @staticmethod
    def _read(catalogue: Path) -> dict[str, dict]:
        known = benchmarks.read_yaml(catalogue)
        try:
            jsonschema.validate(known, yaml.safe_load(SCHEMA.read_text()))
        except jsonschema.ValidationError as error:
            raise ValueError(f"{catalogue}, {error.json_path.removeprefix('$.')}: {error.message}") from error
        return known

    def _benchmarks(self, known: dict[str, dict]) -> dict[str, dict]:
        """The configuration's entries of the catalogue, with its own numbers of samples and seed of shuffling."""
        samples, seed = self._settings["samples"], self._config["shuffle_choices"]
        names = self._config["benchmarks"]
        for name in names:
            if name not in known:
                raise nearest("benchmark", name, known)
        for name in samples:  # those that are not evaluated say nothing
            if name not in known:
                raise nearest("benchmark in evaluation.samples:", name, known)
        chosen = {name: {**known[name], "samples": samples.get(name, known[name]["samples"])} for name in names}
        if seed is not None:
            asked = [entry for entry in chosen.values() if "choices" in entry]
            if not asked:
                raise ValueError(f"shuffle_choices is {seed}, but none of {', '.join(names)} is multiple choice; leave it out")
            for entry in asked:
                entry["choices"] = {**entry["choices"], "shuffle": seed}
        return chosen

    def _chosen_patches(self, known: dict[str, dict]) -> dict[str, dict]:
        for name in self._config["gold_patches"]:
            if name not in known:
                raise nearest("gold patch", name, known)
            if known[name]["benchmark"] not in self.benchmarks:
                raise ValueError(f"gold patch {name} is for {known[name]['benchmark']}, which is not evaluated; leave it out")
        return {name: known[name] for name in self._config["gold_patches"]}

    @property
    def _problems(self) -> int | None:
        """How many problems of each benchmark are evaluated; None for all."""
        return self._settings.get("problems")

    @property
    def _template(self) -> str:
        return self._settings["template"] or self._config["template"]

    def of(self, row: str) -> dict[str, Any]:
        """The template (a path) and the grader of a row, and whether its responses end with its window: as for all rows, or its
        own exception."""
        return {
            "template": self._template,
            "grader": self._config["grader"],
            "within_window": False,
            **self.exceptions.get(row, {}),
        }

    def spec(self, row: str, home: Path) -> dict[str, Any]:
        """What `engine.evaluate generate` needs besides the checkpoint. Not the grader: grading again must sample nothing."""
        return {
            "template": self.of(row)["template"],
            "within_window": self.of(row)["within_window"],
            "benchmarks": {
                name: {
                    "file": str(home / "data" / f"{name}.jsonl"),
                    "samples": entry["samples"],
                    **({"problems": self._problems} if self._problems else {}),
                }
                for name, entry in self.benchmarks.items()
            },
            "evaluation": {key: value for key, value in self._settings.items() if key not in SHARED},
        }

    def data(self, name: str) -> dict[str, Any]:
        """What `engine.benchmarks build` needs to write a benchmark's file."""
        patches = {patch: one["answers"] for patch, one in self._patches.items() if one["benchmark"] == name}
        return {**benchmarks.spec_of(name, self.benchmarks[name], self._data_dir), "patches": patches}

    def notes(self) -> dict[str, Any]:
        """What stands under the main table about evaluation; absent where there is nothing to say. The template and grader of
        each row are in its scores, and the tables read them there."""
        trained, tested = (Template.read(Path(path)).label for path in (self._config["template"], self._template))
        titles = {name: entry["title"] for name, entry in self.benchmarks.items()}
        counts = {entry["title"]: entry["samples"] for entry in self.benchmarks.values()}
        several = [f"{benchmarks.metric(k)} on {title}" for title, k in counts.items() if k > 1]
        own = [f"{titles[name]} {k}" for name, k in self._settings["samples"].items() if name in titles]
        golds = [f"{name} ({len(one['answers'])} of {titles[one['benchmark']]})" for name, one in self._patches.items()]
        notes = {
            "trained with": f"template {trained}" if trained != tested else "",
            "metric": ", ".join([*several, *(["pass@1 on the others"] if 0 < len(several) < len(titles) else [])]),
            "problems": f"the first {self._problems} of each benchmark" if self._problems else "",
            "samples": f"for this configuration alone, {', '.join(own)} per problem" if own else "",
            "gold patches": ", ".join(golds),
            "choices": [self._asked(entry) for entry in self.benchmarks.values() if "choices" in entry],
        }
        return {key: value for key, value in notes.items() if value}

    @staticmethod
    def _asked(entry: dict) -> str:
        seed = entry["choices"].get("shuffle")
        order = "in their own order" if seed is None else f"shuffled with seed {seed}"
        return f"{entry['title']}: labels A, B, C, ..., {order}"
