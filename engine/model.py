"""A model folder: where it comes from, its weights in one file or in shards, and what is set right in a published copy.

Weights are safetensors: `model.safetensors`, or shards and the index that says which of them holds which tensor. Everything
here reads headers and JSON; no tensor is loaded.
"""

import errno
import functools
import json
import math
import os
import shutil
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from engine import provenance, record
from engine.data import Template

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
LINKED = 1 << 28  # bytes from which on a file is hard-linked and not copied
# Another file system; one without hard links, or somebody else's file; too many links.
CANNOT_LINK = (errno.EXDEV, errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK)


def source(model: dict[str, Any]) -> Path:
    """The folder of a configured model: its `path` where that is a folder, else the hub's snapshot.

    Raises ValueError if it can be had from neither.
    """
    place = Path(model["path"])
    if place.is_dir() or "hub" not in model:
        return place
    return _snapshot(model["name"], model["hub"]["id"], model["hub"]["revision"], place)


def commit(model: dict[str, Any]) -> str | None:
    """The commit a model was resolved to, if it is the hub's newest; None if its files are local or pinned."""
    if Path(model["path"]).is_dir() or "hub" not in model or model["hub"]["revision"]:
        return None
    from engine import hub

    return hub.commit(source(model))


@functools.cache
def _snapshot(name: str, repository: str, revision: str, place: Path) -> Path:
    """Asked once per process: what is newest may change in between."""
    from engine import hub

    return hub.model_folder(name, {"id": repository, "revision": revision}, place)


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a model's weights. Raises ValueError if there are none, if a shard of the index is missing, or if
    there is one that the index does not list: transformers and vLLM would not read the same weights."""
    found = {path.name for path in folder.glob("model*.safetensors")}
    if not found:
        raise ValueError(f"model.path {folder} holds no {WEIGHTS}; `snakemake pretrain` makes the miniature's")
    listed = set(_places(folder).values()) if (folder / INDEX).is_file() else {WEIGHTS}
    if missing := sorted(listed - found):
        raise ValueError(
            f"{folder} lacks {', '.join(missing)}, which "
            + (f"{INDEX} lists; download it again" if (folder / INDEX).is_file() else f"shards without {INDEX} cannot replace")
        )
    if beyond := sorted(found - listed):
        raise ValueError(
            f"{folder} holds {', '.join(beyond)}, which {INDEX if (folder / INDEX).is_file() else WEIGHTS} does not belong to: "
            "weights of another download? Remove them, or the others"
        )
    return [folder / name for name in sorted(listed)]


def _places(folder: Path) -> dict[str, str]:
    """Which shard holds which tensor."""
    places = record.read_json(folder / INDEX).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{folder / INDEX} has no weight_map; download it again")
    return places


def parameter_count(folder: Path) -> int:
    """Parameters of a model. Raises ValueError if a file of its weights cannot be read, or holds other tensors than the index
    says."""
    files, total = weight_files(folder), 0
    placed = _places(folder) if (folder / INDEX).is_file() else {}
    for file in files:
        try:
            with safe_open(file, framework="numpy") as tensors:
                sizes = {name: tensors.get_slice(name).get_shape() for name in tensors.keys()}  # noqa: SIM118 (not a dict)
        except SafetensorError as error:
            raise ValueError(f"{file} is not a readable safetensors file ({error}); restore or download it again") from error
        if placed and sizes.keys() != {name for name, where in placed.items() if where == file.name}:
            raise ValueError(f"{file} does not hold the tensors that {INDEX} says; download both again")
        total += sum(math.prod(size) for size in sizes.values())
    return total


def digests(folder: Path) -> dict[str, str]:
    """sha256 of every file in a model folder, hidden ones left out. 7B parameters in bfloat16 take about ten seconds."""
    weight_files(folder)
    return provenance.digests([folder], folder)


def confirm(folder: Path, found: dict[str, str], wanted: str | dict[str, str]) -> None:
    """Raise ValueError unless the weights are the configured ones. `wanted`: one digest, or one for each file; `found`: as
    `digests` gives them."""
    names = [path.name for path in weight_files(folder)]
    if isinstance(wanted, str) and len(names) > 1:
        raise ValueError(f"model.sha256 is one digest and the weights of {folder} are in {len(names)} files; give one for each")
    pinned = {names[0]: wanted} if isinstance(wanted, str) else wanted
    if pinned.keys() != set(names):
        raise ValueError(f"model.sha256 names {sorted(pinned)} and the weights of {folder} are {names}; give one for each")
    for name in names:
        if found[name] != pinned[name]:
            raise ValueError(
                f"base model {folder / name} has sha256 {found[name]}, the configuration says {pinned[name]}; restore the "
                "file (git checkout, or download it again) or, if the change is intended, put the new digest into model.sha256"
            )


def copy(folder: Path, out: Path) -> None:
    """Copy a model folder, hidden files left out; large files are hard-linked where the file system allows it."""
    shutil.copytree(folder, out, ignore=shutil.ignore_patterns(".*"), copy_function=_linked)


def _linked(path: str, target: str) -> None:
    """Small files are copied, so that what is set right in the copy stays as it was in the original."""
    original = Path(path).resolve()  # in a snapshot of the hub, names are links to the files
    if original.stat().st_size >= LINKED:
        try:
            os.link(original, target)
            return
        except OSError as error:
            if error.errno not in CANNOT_LINK:
                raise
    shutil.copyfile(original, target)


def prepare(folder: Path, model: dict[str, Any], template: Template) -> None:
    """Set a copy of a model right: rotary base and window as configured, the run's prompt as its chat template, and a padding
    token, which sampling in batches needs, where it has none (the end of sequence: padding is never looked at)."""
    config = record.read_json(folder / "config.json")
    record.write_json(folder / "config.json", positioned(config, model.get("rope_theta"), model.get("window")))
    path = folder / "tokenizer_config.json"
    if path.is_file():
        tokenizer = record.read_json(path)
        tokenizer.pop("chat_template", None)
        if tokenizer.get("pad_token") is None and tokenizer.get("eos_token") is not None:
            tokenizer["pad_token"] = tokenizer["eos_token"]
        record.write_json(path, tokenizer)
    record.write_text(folder / "chat_template.jinja", chat_template(template))


def positioned(config: dict[str, Any], rope_theta: float | None, window: int | None) -> dict[str, Any]:
    """A model's config.json with another rotary base and window of positions; None leaves either alone.

    The base is kept at the top by transformers 4 and in `rope_parameters` by 5; where both are, both are set. A sliding window
    that is not in use follows the window; one in use is the model's own. Raises ValueError for a model that keeps these
    elsewhere or scales its rotary frequencies, which another base or window would change twice.
    """
    if rope_theta is None and window is None:
        return config
    nested = config.get("rope_parameters") or {}
    scaling = nested or config.get("rope_scaling") or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if kind != "default" or "max_position_embeddings" not in config or not ("rope_theta" in config or "rope_theta" in nested):
        raise ValueError(
            f"model.rope_theta {rope_theta} and model.window {window} cannot be set: config.json must state rope_theta and "
            f"max_position_embeddings at its top and not scale positions (rope_type is {kind}); prepare a folder by hand and "
            "give its path, without these settings"
        )
    config = dict(config)
    if rope_theta is not None:
        config["rope_theta"] = float(rope_theta)
        if nested:
            config["rope_parameters"] = {**nested, "rope_theta": float(rope_theta)}
    if window is not None:
        config["max_position_embeddings"] = window
        if config.get("use_sliding_window") is False:
            unused = {"sliding_window": window, "max_window_layers": config.get("num_hidden_layers")}
            config |= {name: value for name, value in unused.items() if config.get(name) is not None}
    return config


def chat_template(template: Template) -> str:
    """A template as a tokenizer's Jinja chat template: one user message becomes the prompt that was trained with, and any
    other conversation, which never was, is refused."""
    before, after = (json.dumps(text, ensure_ascii=False) for text in template.text.split("{problem}"))
    refusal = "this model is prompted with one user message and nothing else"
    return (
        "{% if messages | length != 1 or messages[0].role != 'user' %}"
        f'{{{{ raise_exception("{refusal}") }}}}{{% endif %}}{{{{ {before} + messages[0].content + {after} }}}}'
    )


def refuse_untrainable(config: Any, prompt: int, response: int) -> None:
    """Raise ValueError for a model whose window is too short, or with dropout: its gradient depends on how an update is cut up
    and where a run resumed. `config`: as transformers has it; `prompt`, `response`: their longest, in tokens."""
    rates = {key: value for key, value in config.to_dict().items() if key.endswith(("dropout", "pdrop", "dropout_rate"))}
    if used := {key: value for key, value in rates.items() if value}:
        raise ValueError(
            f"the model drops units at random ({', '.join(f'{key} {value}' for key, value in used.items())}); set these to 0 "
            "in its config.json: a random mask depends on how an update is cut up, and a resumed run would draw another one"
        )
    if prompt + response > config.max_position_embeddings:
        raise ValueError(
            f"max_prompt_tokens {prompt} and max_response_tokens {response} are more than the model's window of "
            f"{config.max_position_embeddings} tokens; lower one of them, or raise model.window"
        )
