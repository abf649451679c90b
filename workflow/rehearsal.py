"""A rehearsal: every rule of a configuration, in minutes on two cores.

    snakemake --cores all --configfile config/paper.yaml --config rehearse=true

Rows, studies, presets, thresholds, templates of others' checkpoints, tables and figures are those of the configuration. What
costs is replaced: models by the miniature, data by its chains in the published schema, benchmarks by its own, and sizes by a
few updates of a few problems. Its numbers say that the rules work, nothing else, and every table says so.
"""

from typing import Any

from engine import benchmarks

TEXT = "REHEARSAL on the miniature: these numbers say that the rules work and nothing else"
MODEL = {"path": "miniature/base", "sha256": "2791fe2d062bde0d5afc0aec11979e0e5e366b2ad9967f35b7a1395a8a0cd4c2"}
TEMPLATE = "config/templates/miniature.txt"
BENCHMARKS = ("mini_sums", "mini_mixed", "mini_long", "mini_words", "mini_marathon")
GENERAL = "mini_choice"
SAMPLES = 2  # where the configuration takes several
PROBLEMS = 12  # of each benchmark

# Shared settings that are replaced outright, and those that may only become smaller.
CPU = {"device": "cpu", "dtype": "float32", "sample_batch_tokens": 65536}
TRAIN = {**CPU, "max_prompt_tokens": 512, "max_response_tokens": 80, "micro_batch_tokens": 1024, "ranks": 1, "nodes": 1}
EVALUATION = {**CPU, "max_prompt_tokens": 2048, "max_new_tokens": 48, "problems": PROBLEMS}
DATA = {"miniature": "miniature", "openr1_48k_complement": "miniature_complement", "openr1_46k_weak": "miniature_weak"}
OTHER_DATA = "miniature_openr1"
AT_MOST = {"updates": 2, "prompts_per_update": 4, "warmup_updates": 1, "checkpoint_every": 1}
PILOT = {"problems": 8, "samples": 2}


def rehearsed(config: dict[str, Any]) -> dict[str, Any]:
    """The settings of a completed configuration that a rehearsal replaces."""
    catalogue = benchmarks.read_yaml(benchmarks.CATALOGUE)
    general = [name for name in config["benchmarks"] if catalogue.get(name, {}).get("group") == "general"]
    names = dict(zip([name for name in config["benchmarks"] if name not in general], BENCHMARKS, strict=False))
    names |= dict.fromkeys(general, GENERAL)
    asked = {name: config["evaluation"]["samples"].get(name, catalogue[name]["samples"]) for name in names if name in catalogue}
    return {
        "profile": f"{config['profile']}_rehearsal",
        "seeds": config["seeds"][:1],
        "model": {**{key: config["model"][key] for key in ("rope_theta", "window") if key in config["model"]}, **MODEL},
        "checkpoints": {
            label: {**{key: entry[key] for key in ("template",) if key in entry}, **MODEL}
            for label, entry in config["checkpoints"].items()
        },
        "sampler": "transformers",
        "hardware": {},
        "template": TEMPLATE,
        "train_data": DATA.get(config["train_data"], OTHER_DATA),
        "other_data": {name: DATA.get(source, OTHER_DATA) for name, source in config["other_data"].items()},
        "train_known_golds": [],
        "gold_patches": [],
        "benchmarks": list(dict.fromkeys(names.values())),
        "train": smaller({**config["train"], **TRAIN}),
        "overrides": {label: smaller(settings) for label, settings in config["overrides"].items()},
        "variants": {
            method: {name: smaller(settings) for name, settings in variants.items()}
            for method, variants in config["variants"].items()
        },
        "studies": {
            name: {**study, **({"seeds": study["seeds"][:1]} if "seeds" in study else {})}
            for name, study in config["studies"].items()
        },
        "prefix_pilot": {**config["prefix_pilot"], **PILOT},
        "evaluation": {
            **config["evaluation"],
            **EVALUATION,
            "template": TEMPLATE if config["evaluation"]["template"] else "",
            "samples": {names[name]: SAMPLES for name, count in asked.items() if count > 1},
        },
    }


def smaller(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings of training with sizes fit for a rehearsal; those that it replaces outright cannot be overridden."""
    kept = {key: value for key, value in settings.items() if key not in TRAIN or value == TRAIN[key]}
    return {key: min(value, AT_MOST[key]) if key in AT_MOST else value for key, value in kept.items()}
