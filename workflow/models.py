"""Models by name: the catalogue config/models.yaml, and the shapes that estimates are made from. No torch."""

import json
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import yaml

from engine import benchmarks
from engine.methods import nearest

CATALOGUE = Path("config/models.yaml")
SCHEMA = Path("workflow/schemas/models.schema.yaml")


@dataclass(frozen=True)
class Shape:
    """A dense decoder of the Qwen2 family: sizes in units, `window` in tokens; `tied`: output layer and embedding are one."""

    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    window: int
    tied: bool

    @property
    def parameters(self) -> int:
        """All parameters: embeddings, attention with biases on queries, keys and values, three matrices of the MLP, norms."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = 2 * self.hidden * (queries + keys) + queries + 2 * keys
        layer = attention + 3 * self.hidden * self.intermediate + 2 * self.hidden
        embeddings = self.vocabulary * self.hidden * (1 if self.tied else 2)
        return embeddings + self.layers * layer + self.hidden


@cache
def catalogue(path: Path = CATALOGUE) -> dict[str, dict[str, Any]]:
    """Every entry by name. Raises ValueError naming the setting that does not fit the schema, or a shape whose parameters are
    not as many as it says."""
    known = benchmarks.read_yaml(path)
    try:
        jsonschema.validate(known, yaml.safe_load(SCHEMA.read_text()))
    except jsonschema.ValidationError as error:
        raise ValueError(f"{path}, {error.json_path.removeprefix('$.')}: {error.message}") from error
    for name, entry in known.items():
        said, counted = entry["shape"]["parameters"], _shape(entry["shape"]).parameters
        if said != counted:
            raise ValueError(
                f"{path}, {name}.shape: parameters is {said:,} and its sizes make {counted:,}; correct one of them"
            )
    return known


def named(name: str, path: Path = CATALOGUE) -> dict[str, Any]:
    """One entry; an unknown name raises ValueError with the nearest known one."""
    known = catalogue(path)
    if name not in known:
        raise nearest("model", name, known, f"; models with a name are in {path}, others are given by `path`")
    return known[name]


def shape(model: dict[str, Any], path: Path = CATALOGUE) -> Shape:
    """The shape of a configuration's `model`: of its catalogue entry, or of the config.json in its folder; with the window that
    the configuration gives it. Raises ValueError if neither says it."""
    known = model.get("name") in catalogue(path) or "path" not in model
    found = _shape(named(model["name"], path)["shape"]) if known else of_folder(Path(model["path"]))
    return Shape(**{**asdict(found), "window": model.get("window", found.window)})


def of_folder(folder: Path) -> Shape:
    """The shape that a Hugging Face folder's config.json gives."""
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"model.path {folder} holds no config.json; give the folder of a model, or a `name` from {CATALOGUE}")
    config = json.loads(file.read_text(encoding="utf-8"))
    heads = config["num_attention_heads"]
    return Shape(
        layers=config["num_hidden_layers"],
        hidden=config["hidden_size"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        intermediate=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        window=config["max_position_embeddings"],
        tied=config.get("tie_word_embeddings", False),
    )


def _shape(entry: dict[str, Any]) -> Shape:
    return Shape(**{key: value for key, value in entry.items() if key != "parameters"})
