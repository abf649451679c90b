"""What is trained on: `train` and the names of `other_data`, each a file, the miniature's chains, or a corpus to prepare."""

from pathlib import Path
from typing import Any

from engine import corpus
from engine.methods import nearest

TRAIN = "train"
MINIATURE = "miniature"


class Corpora:
    """The training data of a checked configuration. Raises ValueError for a corpus or a name that cannot be."""

    def __init__(self, config: dict[str, Any], catalogue: Path) -> None:
        self._config, self._known = config, corpus.catalogue(catalogue)
        if TRAIN in config["other_data"]:
            raise ValueError(f"other_data: {TRAIN!r} is what train_data is called; choose another name")
        self._sources = {TRAIN: config["train_data"], **config["other_data"]}
        for name, source in self._sources.items():
            if name in config["benchmarks"]:
                raise ValueError(f"other_data: {name!r} is the name of a benchmark; choose another one")
            if not self.prepared(name) and source != MINIATURE and "." not in source:
                raise nearest(f"corpus of {name}:", source, [*self._known, MINIATURE], "; or name a .jsonl file")

    @property
    def names(self) -> list[str]:
        return list(self._sources)

    def prepared(self, name: str) -> bool:
        """Whether it is a corpus of config/corpora.yaml, that has to be joined and filtered."""
        return self._sources[name] in self._known

    def drops(self, name: str) -> bool:
        """Whether problems that a benchmark has are left out."""
        return self._known[self._sources[name]]["overlap"] == "drop"

    def files(self, name: str) -> list[str]:
        """What is here of a corpus to prepare."""
        return corpus.inputs(self.spec(name))

    def file_spec(self, name: str) -> dict[str, Any]:
        """What `engine.benchmarks build` needs for data that are used as they are."""
        return {"name": name, "source": self._sources[name].replace("{data_dir}", self._config["data_dir"])}

    def spec(self, name: str) -> dict[str, Any]:
        """What `engine.corpus build` needs for data that are prepared, besides the files that other rules make."""
        source, train = self._sources[name], self._config["train"]
        limits = {key: train[key] for key in ("max_prompt_tokens", "max_response_tokens")}
        return {**corpus.spec_of(source, self._known[source], self._config["data_dir"]), **limits}
