"""Finding and building methods: a method is a file in a folder, named by its stem; nothing is registered anywhere.

Loading does not import torch, so the Snakefile can read every method's stages in milliseconds.
"""

import dataclasses
import difflib
import importlib.util
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from engine import reduce
from engine.words import Stage

MATCHED = "matched"  # the preset without overrides: a method's own defaults under the run's shared settings


def nearest(kind: str, name: str, known: Iterable[str], remedy: str = "") -> ValueError:
    """The error for an unknown name: it says which name, what the nearest known one is, and what to do."""
    known = sorted(known)
    match = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    guess = f"; did you mean {match[0]!r}?" if match else ""
    return ValueError(f"unknown {kind} {name!r}{guess} (known: {', '.join(known) or 'none'}){remedy}")


def names(folder: Path) -> list[str]:
    """The methods of a folder: its Python files, private ones and __init__ left out."""
    return sorted(path.stem for path in folder.glob("*.py") if not path.stem.startswith("_"))


def load(name: str, folder: Path) -> ModuleType:
    """Import one method file. Raises ValueError, naming the file, if it is unknown, does not import or defines nothing."""
    path = folder / f"{name}.py"
    if not path.is_file():
        raise nearest("method", name, names(folder), f"; a method is a file {folder}/<name>.py")
    return _imported(name, path, path.stat().st_mtime_ns)


@cache
def _imported(name: str, path: Path, _changed: int) -> ModuleType:
    """A plan asks for the same few files thousands of times."""
    spec = importlib.util.spec_from_file_location(f"assay_method_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up while the file is being executed
    try:
        spec.loader.exec_module(module)
    except (ImportError, SyntaxError, NameError, AttributeError, TypeError, ValueError) as error:
        raise ValueError(f"method file {path} does not import: {type(error).__name__}: {error}") from error
    if not hasattr(module, "Method") and not hasattr(module, "stages"):
        raise ValueError(
            f"method file {path} defines neither a class `Method` nor `stages`; see the files in methods/ for the shape"
        )
    return module


def stages(name: str, folder: Path) -> tuple[Stage, ...]:
    """The stages of a method: its own list, or one stage with the method's name. Parents must come before their children."""
    listed = tuple(getattr(load(name, folder), "stages", (Stage(name, method=name),)))
    seen: set[str] = set()
    for stage in listed:
        if stage.parent is not None and stage.parent not in seen:
            raise nearest(f"parent stage in method {name!r},", stage.parent, seen, "; list parents before their children")
        if stage.name in seen:
            raise ValueError(
                f"method {name!r} has two stages named {stage.name!r}; stage names are folder names, make them differ"
            )
        seen.add(stage.name)
    return listed


def presets(name: str, folder: Path) -> Mapping[str, Mapping[str, Any]]:
    """What a method file names besides its defaults: preset -> the settings it changes."""
    return getattr(getattr(load(name, folder), "Method", None), "presets", {})


def preset(name: str, label: str, folder: Path) -> Mapping[str, Any]:
    """The overrides a method file gives under a preset's name; none for `matched`."""
    known = presets(name, folder)
    if label == MATCHED:
        return {}
    if label not in known:
        raise nearest(f"preset of method {name!r}:", label, [*known, MATCHED])
    return known[label]


def build(name: str, settings: Mapping[str, Any], folder: Path) -> Any:
    """The method with its settings. Raises ValueError for a setting it does not have or one of another type."""
    module = load(name, folder)
    if not hasattr(module, "Method"):
        raise ValueError(f"method {name!r} only combines stages; there is no single `Method` in {folder}/{name}.py to build")
    method_class: Any = module.Method
    if not dataclasses.is_dataclass(method_class):
        raise ValueError(f"`Method` in {folder}/{name}.py is no dataclass; put @dataclass(frozen=True) above it")
    defaults = {field.name: field.default for field in dataclasses.fields(method_class)}
    return module.Method(**{key: _checked(name, key, value, defaults) for key, value in settings.items()})


def settings(method: Any) -> dict[str, Any]:
    """Every setting of a built method as JSON values, for records and digests."""
    values = {field.name: getattr(method, field.name) for field in dataclasses.fields(method)}
    return {key: str(value) if isinstance(value, reduce.Denominator) else value for key, value in values.items()}


def _checked(name: str, key: str, value: Any, defaults: Mapping[str, Any]) -> Any:
    """A setting as the method's field wants it: denominators by name, lists as tuples, numbers of the default's kind."""
    if key not in defaults:
        raise nearest(f"setting of method {name!r}:", key, defaults)
    default = defaults[key]
    if isinstance(default, reduce.Denominator) and not isinstance(value, reduce.Denominator):
        return reduce.named(str(value))
    if default is None and (value is None or (isinstance(value, int | float) and not isinstance(value, bool))):
        return value
    if isinstance(default, tuple) and isinstance(value, list | tuple):
        return tuple(value)
    if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    expected = type(default)
    if default is not dataclasses.MISSING and type(value) is not expected:
        wanted = "a number or nothing" if default is None else expected.__name__
        raise ValueError(f"setting {key!r} of method {name!r} is {value!r}; its default {default!r} says it must be {wanted}")
    return value
