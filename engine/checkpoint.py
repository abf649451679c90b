"""Resumable checkpoints of a stage: whole or absent, on the disk before they count, and refused by any other stage.

state/step-000020/      DeepSpeed's shards and about.json: identity, step, the method's memory, sha256 of every file
"""

import json
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine import record
from engine.explore import ALONE, Ranks

log = logging.getLogger("assay")
KEPT = 2  # the newest ones
# Settings of how much is in memory at once. They change a result by rounding alone, so a stage that ran out of memory goes on
# with smaller ones.
RESIZABLE = ("micro_batch_tokens", "sample_batch_tokens")
NO_RESULT = (*RESIZABLE, "checkpoint_every")  # settings that are no part of what a stage is


def save(trainer: Any, state: Path, step: int, identity: dict[str, Any], memory: dict[str, Any], ranks: Ranks = ALONE) -> None:
    """Write the checkpoint after `step` updates under a temporary name, wait for the disk, rename it, drop the old ones. Every
    rank writes its part of it, and the first one the rest.

    Raises ValueError if the method keeps something in its memory that is not a JSON value.
    """
    _check_memory(memory)
    folder = state / f"step-{step:06d}"
    temporary = folder.with_name(f".{folder.name}.tmp")
    if ranks.rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
    ranks.gather({})  # until there is room, and until all have written
    trainer.save(temporary)
    ranks.gather({})
    if ranks.rank > 0:
        return
    files = {str(p.relative_to(temporary)): record.file_sha256(p) for p in sorted(temporary.rglob("*")) if p.is_file()}
    about = {"identity": identity, "step": step, "memory": memory, "files": files}
    record.write_json(temporary / "about.json", {**about, "seal": record.digest(about)})
    record.sync(temporary)
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    record.sync(state)
    for old in sorted(state.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def newest(state: Path, identity: dict[str, Any], updates_logged: int) -> tuple[Path, dict[str, Any]] | None:
    """The newest usable checkpoint with its about.json; None if there is none.

    One that is incomplete, damaged or ahead of the metrics is passed over for the one before, with a warning. One that another
    configuration wrote raises ValueError naming what differs: its work is not thrown away, and not continued as something else.
    Another size of what is in memory at once is no other configuration.
    """
    for folder in sorted(state.glob("step-*"), reverse=True):
        about = _about(folder)
        if about is None:
            log.warning("not using the checkpoint %s: about.json is missing or damaged; trying the one before", folder)
            continue
        if changed := record.differences(about["identity"], identity):
            raise ValueError(
                f"{folder} is a checkpoint of another configuration: {'; '.join(changed)}. Restore what changed to continue "
                f"it, or delete {state} to start over"
            )
        broken = [name for name, sha in about["files"].items() if not _is(folder / name, sha)]
        if broken:
            log.warning("not using the checkpoint %s: damaged (%s); trying the one before", folder, ", ".join(broken))
            continue
        if updates_logged < about["step"]:
            log.warning(
                "not using the checkpoint %s: only %d updates are logged; trying the one before", folder, updates_logged
            )
            continue
        return folder, about
    return None


def resized(timings: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """For a stage that went on with other sizes: since which update (the first is 0) which were used. Empty for any other."""
    used: list[dict[str, Any]] = []
    for update, row in enumerate(timings):
        sizes = {name: row[name] for name in RESIZABLE}
        if not used or any(used[-1][name] != size for name, size in sizes.items()):
            used.append({"since_update": update, **sizes})
    return {"resized": used} if len(used) > 1 else {}


def _about(folder: Path) -> dict[str, Any] | None:
    """A checkpoint's about.json, if it is whole."""
    try:
        about = record.read_json(folder / "about.json")
    except (OSError, ValueError):
        return None
    seal = about.pop("seal", None) if isinstance(about, dict) else None
    return about if seal == record.digest(about) else None


def _is(path: Path, sha256: str) -> bool:
    return path.exists() and record.file_sha256(path) == sha256


def _check_memory(memory: dict[str, Any]) -> None:
    """What would come back different must not be saved: a resumed run has to be the same run."""
    remedy = "keep only JSON values in context.memory (text keys, lists, numbers), so that a resume restores it exactly"
    try:
        if json.loads(json.dumps(memory)) != memory:
            raise ValueError(f"context.memory {memory!r} changes when saved; {remedy}")
    except TypeError as error:
        raise ValueError(f"context.memory cannot be saved ({error}); {remedy}") from error
