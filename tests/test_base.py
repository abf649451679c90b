"""Base preparation: what is published of a model folder, whole or in shards, and what transformers makes of it."""

import errno
import json
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import engine
from engine import model, record
from engine.data import Template
from engine.model import INDEX
from engine.stage import checked_model, run
from tests.conftest import METHODS, ROOT, TRAIN

BASE = ROOT / "miniature" / "base"
TEMPLATES = sorted((ROOT / "config" / "templates").glob("*.txt"))
PROBLEM = 'Let $x=\\frac{1}{2}$ and {{ 7 * 7 }} {% raise %} "quoted" \\n\n\\boxed{}'


@pytest.fixture
def base(spec: dict) -> dict:
    """The specification of a published base model; its `model` is to be filled in."""
    return {**spec, "run": "base", "stage": "base", "method": None, "parent": None}


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """The miniature in several files."""
    folder = tmp_path / "shards"
    loaded: Any = AutoModelForCausalLM.from_pretrained(BASE)
    loaded.save_pretrained(folder, max_shard_size="800KB")
    for path in BASE.glob("tokenizer*.json"):
        shutil.copy(path, folder)
    assert len(model.weight_files(folder)) > 2
    return folder


def publish(base: dict, out: Path, **settings: Any) -> Path:
    run({**base, "model": settings}, out)
    return out / "model"


def logits(folder: Path) -> torch.Tensor:
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder)
    return loaded(torch.arange(2, 60)[None]).logits


def frequencies(folder: Path) -> torch.Tensor:
    loaded: Any = AutoModelForCausalLM.from_pretrained(folder)
    return loaded.model.rotary_emb.inv_freq


def test_shards_are_published_trained_and_checked_like_one_file(base: dict, spec: dict, shards: Path, tmp_path: Path) -> None:
    pinned = {path.name: record.file_sha256(path) for path in model.weight_files(shards)}
    found = publish(base, tmp_path / "published", path=str(shards), sha256=pinned)
    assert torch.equal(logits(found), logits(BASE))
    done = record.read_json(tmp_path / "published" / "done.json")
    assert done["parameters"] == model.parameter_count(BASE) == 720640
    assert done["identity"]["model"].items() > pinned.items()
    (check,) = record.read_json(tmp_path / "published" / "certificate.json")["checks"]
    assert check["status"] == "passed" and check["measured"] == f"sha256 of {len(pinned)} files"

    short = {**TRAIN, "updates": 1}
    method = {"name": "sft", "folder": str(METHODS), "settings": {}}
    trained = {**spec, "run": "sft", "stage": "sft", "method": method, "train": short}
    outs = tmp_path / "from_shards", tmp_path / "from_one"
    run({**trained, "parent": str(tmp_path / "published")}, outs[0])
    run({**trained, "parent": str(tmp_path / "base")}, outs[1])
    ours, theirs = ((out / "model" / "model.safetensors").read_bytes() for out in outs)
    assert ours == theirs != (BASE / "model.safetensors").read_bytes()

    shard = sorted(found.glob("model-*"))[1]
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match=rf"{shard.name} is damaged or replaced"):
        checked_model(tmp_path / "published")


def test_shards_that_are_not_what_the_index_says_are_refused(base: dict, shards: Path, tmp_path: Path) -> None:
    first, second, *_ = names = [path.name for path in model.weight_files(shards)]
    index = (shards / INDEX).read_text()
    whole = {path.name: path.read_bytes() for path in shards.iterdir()}

    def refused(message: str, **settings: Any) -> None:
        with pytest.raises(ValueError, match=message):
            publish(base, tmp_path / "out", path=str(shards), **settings)
        assert not (tmp_path / "out" / "done.json").exists()
        for name, content in whole.items():
            (shards / name).write_bytes(content)

    (shards / first).unlink()
    refused(rf"lacks {first}, which {INDEX} lists; download it again")
    shutil.copy(shards / first, shards / "model-00009-of-00009.safetensors")
    refused(rf"holds model-00009-of-00009.safetensors, which {INDEX} does not belong to")
    (shards / "model-00009-of-00009.safetensors").unlink()
    shutil.copy(BASE / "model.safetensors", shards)
    refused(rf"holds model.safetensors, which {INDEX} does not belong to")
    (shards / "model.safetensors").unlink()
    (shards / INDEX).unlink()
    refused(r"lacks model.safetensors, which shards without model.safetensors.index.json cannot replace")
    (shards / INDEX).write_text("{}")
    refused("has no weight_map")
    (shards / second).write_bytes((shards / second).read_bytes()[:-100])
    refused(rf"{second} is not a readable safetensors file")
    swapped = index.replace(first, "x").replace(second, first).replace('"x"', f'"{second}"')
    assert swapped != index
    (shards / INDEX).write_text(swapped)
    refused(r"does not hold the tensors that .* says")
    digests = {name: record.file_sha256(shards / name) for name in names}
    refused(rf"{second} has sha256 .*, the configuration says 00", sha256={**digests, second: "00"})
    refused(r"model.sha256 names .* give one for each", sha256={first: digests[first]})
    refused(r"is one digest and the weights of .* are in \d files", sha256=digests[first])


def test_rotary_base_and_window_reach_the_model(base: dict, tmp_path: Path) -> None:
    plain = publish(base, tmp_path / "plain", path=str(BASE))
    assert record.read_json(plain / "config.json") == record.read_json(BASE / "config.json")
    prepared = publish(base, tmp_path / "prepared", path=str(BASE), rope_theta=40000, window=16384)
    before, after = frequencies(plain), frequencies(prepared)
    exponents = torch.arange(0, 32, 2) / 32
    torch.testing.assert_close(before, 10_000.0**-exponents)
    torch.testing.assert_close(after, 40_000.0**-exponents)
    assert (logits(prepared) - logits(plain)).abs().max() > 0.01
    loaded: Any = AutoModelForCausalLM.from_pretrained(prepared)
    assert loaded.config.max_position_embeddings == 16384 and loaded.config.sliding_window is None
    loaded.save_pretrained(tmp_path / "saved")  # as a trained stage does
    torch.testing.assert_close(frequencies(tmp_path / "saved"), after)


def test_an_older_config_is_prepared_too(base: dict, tmp_path: Path) -> None:
    """As Qwen2.5-Math's own: the base at the top, a sliding window that is not used."""
    folder = tmp_path / "older"
    shutil.copytree(BASE, folder)
    config = record.read_json(folder / "config.json")
    for name in ("rope_parameters", "layer_types", "dtype"):
        config.pop(name)
    older = {**config, "rope_theta": 10000, "sliding_window": 4096, "max_window_layers": 3, "torch_dtype": "float32"}
    record.write_json(folder / "config.json", older)
    found = publish(base, tmp_path / "out", path=str(folder), rope_theta=40000, window=16384)
    changed = record.read_json(found / "config.json")
    assert changed["rope_theta"] == 40000 and changed["sliding_window"] == 16384 and changed["max_window_layers"] == 3
    torch.testing.assert_close(frequencies(found), 40_000.0 ** -(torch.arange(0, 32, 2) / 32))


@pytest.mark.parametrize(
    "config",
    [
        {"max_position_embeddings": 9, "rope_theta": 1e4, "rope_scaling": {"type": "yarn", "factor": 4.0}},
        {"max_position_embeddings": 9, "rope_parameters": {"rope_type": "llama3", "rope_theta": 5e5}},
        {"max_position_embeddings": 9, "rope_parameters": {"full_attention": {"rope_theta": 1e4}}},
        {"max_position_embeddings": 9},
        {"text_config": {"max_position_embeddings": 9, "rope_theta": 1e4}},
    ],
)
def test_a_model_that_keeps_its_positions_elsewhere_is_refused(config: dict) -> None:
    assert model.positioned(config, None, None) == config
    with pytest.raises(ValueError, match=r"model\.rope_theta 40000 and model.window None cannot be set"):
        model.positioned(config, 40000, None)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_the_chat_template_is_the_runs_prompt(base: dict, tmp_path: Path, path: Path) -> None:
    """Of the published model and of what is trained from it, where a folder has one of its own to begin with."""
    folder = tmp_path / "chatty"
    shutil.copytree(BASE, folder)
    config = record.read_json(folder / "tokenizer_config.json")
    record.write_json(folder / "tokenizer_config.json", {**config, "chat_template": "{{ messages }}"})
    found = publish({**base, "template": str(path)}, tmp_path / "out", path=str(folder))
    tokenizer = AutoTokenizer.from_pretrained(found)
    said = [{"role": "user", "content": PROBLEM}]
    wanted = Template.read(path).render(PROBLEM)
    assert tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True) == wanted
    assert tokenizer.apply_chat_template(said)["input_ids"] == tokenizer.encode(wanted, add_special_tokens=False)
    with pytest.raises(Exception, match="one user message and nothing else"):
        tokenizer.apply_chat_template([*said, {"role": "assistant", "content": "5"}], tokenize=False)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again.apply_chat_template(said, tokenize=False) == wanted


@pytest.mark.parametrize(
    "text", ["{problem}", "\\boxed{{}} \"'\t\r\n\\n é \U0001f600 \u2028{problem}\n\n{# no #}{% raw %}<think>\n"]
)
def test_a_chat_template_escapes_whatever_the_text_holds(text: str) -> None:
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    tokenizer.chat_template = model.chat_template(Template(text))
    said = [{"role": "user", "content": PROBLEM}]
    assert tokenizer.apply_chat_template(said, tokenize=False) == Template(text).render(PROBLEM)


def test_a_trained_stage_has_its_own_prompt_as_chat_template(spec: dict, tmp_path: Path) -> None:
    path = ROOT / "config" / "templates" / "luffy.txt"
    method = {"name": "sft", "folder": str(METHODS), "settings": {}}
    longer = {**TRAIN, "updates": 1, "max_prompt_tokens": 256}
    run({**spec, "method": method, "template": str(path), "train": longer}, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out" / "model")
    said = [{"role": "user", "content": PROBLEM}]
    assert tokenizer.apply_chat_template(said, tokenize=False) == Template.read(path).render(PROBLEM)


def test_a_tokenizer_without_padding_pads_with_its_end(base: dict, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(BASE, folder)
    config = record.read_json(folder / "tokenizer_config.json")
    config.pop("pad_token")
    record.write_json(folder / "tokenizer_config.json", config)
    assert AutoTokenizer.from_pretrained(folder).pad_token_id not in (0, 1)  # None, or one the class adds to the vocabulary
    tokenizer = AutoTokenizer.from_pretrained(publish(base, tmp_path / "out", path=str(folder)))
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1


def test_large_files_are_linked_and_small_ones_copied(base: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, elsewhere = tmp_path / "snapshot", tmp_path / "blobs"
    shutil.copytree(BASE, elsewhere)
    folder.mkdir()
    for path in elsewhere.iterdir():  # as a snapshot of the hub: names that lead to the files
        (folder / path.name).symlink_to(path)
    (folder / ".cache").mkdir()
    weights = elsewhere / "model.safetensors"
    monkeypatch.setattr(model, "LINKED", weights.stat().st_size)
    found = publish(base, tmp_path / "out", path=str(folder), rope_theta=40000)
    assert (found / "model.safetensors").samefile(weights) and not (found / "model.safetensors").is_symlink()
    assert not (found / "config.json").samefile(elsewhere / "config.json") and not (found / ".cache").exists()
    assert (elsewhere / "config.json").read_bytes() == (BASE / "config.json").read_bytes()
    shutil.rmtree(tmp_path / "out")
    assert weights.stat().st_nlink == 1

    def refuse(number: int) -> None:
        def link(*_: object) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr(os, "link", link)

    for number in (errno.EXDEV, errno.EPERM):
        refuse(number)
        found = publish(base, tmp_path / str(number), path=str(folder))
        assert not (found / "model.safetensors").samefile(weights)
        assert (found / "model.safetensors").read_bytes() == weights.read_bytes()
    refuse(errno.ENOSPC)
    with pytest.raises(OSError, match="No space left"):
        publish(base, tmp_path / "full", path=str(folder))


def test_a_local_folder_goes_before_the_hub_and_an_unpinned_commit_is_recorded(
    base: dict, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def model_folder(name: str, repository: dict, place: Path) -> Path:
        asked.append((name, repository, place))
        return BASE

    hub = SimpleNamespace(model_folder=model_folder, commit=lambda path: f"commit of {path.name}")
    monkeypatch.setitem(sys.modules, "engine.hub", hub)
    monkeypatch.setattr(engine, "hub", hub, raising=False)
    model._snapshot.cache_clear()
    place = tmp_path / "models" / "tiny"
    for revision, recorded in (("", "commit of base"), ("abc", None)):
        hosted = {"name": "tiny", "path": str(place), "hub": {"id": "someone/tiny", "revision": revision}, "sha256": ""}
        found = publish(base, tmp_path / f"out-{revision}", **hosted)
        assert torch.equal(logits(found), logits(BASE))
        identity = record.read_json(tmp_path / f"out-{revision}" / "done.json")["identity"]
        assert identity.get("commit") == recorded
        assert asked.pop() == ("tiny", hosted["hub"], place) and not asked  # once
    shutil.copytree(BASE, place)
    publish(base, tmp_path / "local", **{**hosted, "hub": {"id": "someone/tiny", "revision": ""}})
    assert not asked and "commit" not in record.read_json(tmp_path / "local" / "done.json")["identity"]


def test_the_base_that_is_published_is_the_one_in_its_record(base: dict, tmp_path: Path) -> None:
    """Another setting is another stage; the weights stay the same."""
    publish(base, tmp_path / "out", path=str(BASE))
    first = record.read_json(tmp_path / "out" / "done.json")
    publish(base, tmp_path / "out", path=str(BASE), rope_theta=40000)
    second = record.read_json(tmp_path / "out" / "done.json")
    assert first["digest"] != second["digest"]
    changed = {name for name in first["outputs"] if first["outputs"][name] != second["outputs"][name]}
    assert changed == {"model/config.json"} and json.loads((BASE / "config.json").read_text())
