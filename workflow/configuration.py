"""A configuration as it is read: given the types its schema asks for, its defaults, and on request the sizes of a rehearsal."""

import re
from pathlib import Path
from typing import Any

import yaml

from engine.methods import nearest
from workflow.rehearsal import rehearsed

SCHEMA = Path("workflow/schemas/config.schema.yaml")


def typed(value: Any, schema: dict, name: str = "") -> Any:
    """A setting in the type its schema asks for, and all settings inside it.

    Snakemake leaves what is nested in `--config train={updates: 3}` or `seeds=[0,1]` as text. Raises ValueError for the first
    setting the schema does not know, with the nearest one it does.
    """
    if isinstance(value, dict):
        known = schema.get("properties", {})
        for key in value:
            if key not in known and schema.get("additionalProperties") is False:
                raise nearest("setting", f"{name}{key}", [f"{name}{setting}" for setting in known])
        others = schema.get("additionalProperties") or {}
        return {key: typed(item, known.get(key, others), f"{name}{key}.") for key, item in value.items()}
    if isinstance(value, list):
        return [typed(item, schema.get("items", {}), name) for item in value]
    if isinstance(value, str) and schema.get("type") != "string":
        found = yaml.safe_load(value)
        is_number = isinstance(found, str) and re.fullmatch(r"[+-]?[\d.]+[eE][+-]?\d+", found)
        return float(found) if is_number else found  # YAML 1.1 takes 3e-4 for text
    return value


def completed(config: dict, schema: Path = SCHEMA) -> dict:
    """Complete the configuration in place: types, defaults, and a rehearsal's sizes if it asks for one; returns the schema.

    Raises ValueError or snakemake's WorkflowError for what the schema does not allow.
    """
    from snakemake.utils import validate

    known = yaml.safe_load(schema.read_text())
    config.update(typed(config, known))
    validate(config, str(schema.resolve()))
    if config["rehearse"]:
        config.update(rehearsed(config))
        validate(config, str(schema.resolve()))
    return known
