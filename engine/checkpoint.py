"""Resumable checkpoints of a stage: whole or absent, and used only by the very stage that wrote them.

state/step-000020/      DeepSpeed's shards and about.json: identity, step, the method's memory, sha256 of every file
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

from engine import record

log = logging.getLogger("assay")
KEPT = 2  # the newest ones


def save(trainer: Any, state: Path, step: int, identity: dict[str, Any], memory: dict[str, Any]) -> None:
    """Write the checkpoint after `step` updates under a temporary name, then rename it and drop the old ones.

    Raises ValueError if the method keeps something in its memory that is not a JSON value.
    """
    _check_memory(memory)
    folder = state / f"step-{step:06d}"
    temporary = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    trainer.save(temporary)
    files = {str(p.relative_to(temporary)): record.file_sha256(p) for p in sorted(temporary.rglob("*")) if p.is_file()}
    record.write_json(temporary / "about.json", {"identity": identity, "step": step, "memory": memory, "files": files})
    shutil.rmtree(folder, ignore_errors=True)
    temporary.replace(folder)
    for old in sorted(state.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old)


def newest(state: Path, identity: dict[str, Any], updates_logged: int) -> tuple[Path, dict[str, Any]] | None:
    """The newest usable checkpoint with its about.json. What is passed over is said in a warning: one of another stage, one
    with a damaged file, one whose lines of metrics are missing."""
    for folder in sorted(state.glob("step-*"), reverse=True):
        if not (folder / "about.json").exists():
            log.warning("not using the checkpoint %s: incomplete", folder)
            continue
        about = json.loads((folder / "about.json").read_text())
        changed = [key for key in identity if about["identity"].get(key) != identity[key]]
        if changed:
            log.warning("not using the checkpoint %s: it was made with another %s", folder, ", ".join(changed))
            continue
        broken = [name for name, sha in about["files"].items() if not _is(folder / name, sha)]
        if broken or updates_logged < about["step"]:
            log.warning("not using the checkpoint %s: damaged or without its metrics (%s)", folder, ", ".join(broken))
            continue
        return folder, about
    return None


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
