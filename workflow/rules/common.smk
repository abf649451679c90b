# The checked configuration and the functions the rules share.
import json

import yaml

from engine import record
from engine.checkpoint import NO_RESULT
from workflow.captions import FIGURE, TABLE, reported
from workflow.forecast import forecast
from workflow.layout import headline, notes
from workflow.plan import checked, engine_fingerprint

PLAN = checked(config, Path(workflow.basedir) / "workflow/schemas/config.schema.yaml")
HOME = str(PLAN.home)
ENGINE = engine_fingerprint()
ANALYSIS = record.fingerprint(Path("analysis"))
# What every result's provenance says besides its files. Not a parameter of rules: one run more must not redo the others.
ABOUT = f"config={PLAN.digest} seeds={','.join(map(str, PLAN.seeds))}"
# Neither is who is told: another logger must not train again. Nor how much is in memory at a time: a stage that ran out of it goes on.
LOG_TO = " ".join(config["log_to"])
SIZES = json.dumps(PLAN.sizes()).replace("{", "{{").replace("}", "}}")
# Rules call `python`: the one Snakemake itself runs on, also when its environment is not activated.
# A prefix of our own replaces Snakemake's strict mode, so that is part of it. A process is one thread: jobs run side by side.
shell.prefix(
    f'set -euo pipefail; export OMP_NUM_THREADS=1; started=$(date +%s); about="{ABOUT}"; log_to="{LOG_TO}"; sizes=\'{SIZES}\'; export PATH="{Path(sys.executable).parent}:$PATH"; '
)


# The base model and the checkpoints of others: nothing is trained for them.
STARTS = "|".join(["base", *config["checkpoints"]])
# Folders with rows and tables of their own.
HOMES = [
    HOME,
    f"{HOME}/bug_study",
    *(str(study.home) for study in PLAN.studies.values()),
]


wildcard_constraints:
    run=r"[a-z0-9_]+(-[a-z0-9_]+)?(\+[a-z0-9_]+)?",
    start=STARTS,
    study="|".join(PLAN.studies) or "(?!)",
    home="|".join(HOMES),
    seed=r"\d+",
    stage="[a-z0-9_]+",
    benchmark="[a-z0-9_]+",


def model_files(wildcards):
    """What is here of a model; the rest comes from the hub."""
    return sorted(map(str, Path(PLAN.model(wildcards.start)["path"]).glob("*")))


def stage_spec(wildcards):
    return PLAN.stage_spec(wildcards.run, wildcards.seed, wildcards.stage)


def train_spec(wildcards):
    """A stage without its sizes, which it is told beside."""
    spec = json.loads(stage_spec(wildcards))
    spec["train"] = {
        key: value for key, value in spec["train"].items() if key not in NO_RESULT
    }
    return json.dumps(spec, sort_keys=True)


def stage_threads(wildcards):
    """Processes of a stage on one machine."""
    train = json.loads(stage_spec(wildcards))["train"]
    return train["ranks"] // train["nodes"]


def start_spec(wildcards):
    """A stage that publishes a model as it is: no setting of training redoes it."""
    spec = json.loads(PLAN.stage_spec(wildcards.start, wildcards.seed, "base"))
    spec["train"] = {"device": "cpu", "ranks": 1}
    return json.dumps(spec, sort_keys=True)


def start_template(wildcards):
    spec = json.loads(PLAN.stage_spec(wildcards.start, wildcards.seed, "base"))
    return spec["template"]


def stage_start(wildcards):
    return json.loads(stage_spec(wildcards))["train"]["start"]


def preflight_done(wildcards):
    start, data = stage_start(wildcards), stage_data(wildcards)
    return f"{HOME}/preflight/{start}.{data}.seed{wildcards.seed}.json"


def stage_data(wildcards):
    return Path(json.loads(stage_spec(wildcards))["data"]).stem


def stage_gpus(wildcards):
    """Devices of a stage, on all its nodes together; none where it trains on the CPU."""
    train = json.loads(stage_spec(wildcards))["train"]
    return train["ranks"] if train["device"] == "cuda" else 0


def stage_nodes(wildcards):
    return json.loads(stage_spec(wildcards))["train"]["nodes"]


def stage_starter(wildcards):
    """Where a stage has several nodes, Slurm must start it in the job itself, not in a step of one node."""
    return "srun" if stage_nodes(wildcards) > 1 else ""


def evaluation_gpus(wildcards):
    return 1 if config["evaluation"]["device"] == "cuda" else 0


def evaluation_spec(wildcards):
    """An evaluation without its sizes, which it is told beside."""
    spec = json.loads(PLAN.evaluation_spec(wildcards.run, wildcards.seed))
    del spec["evaluation"]["sample_batch_tokens"]
    return json.dumps(spec, sort_keys=True)


def run_grader(wildcards):
    return PLAN.evaluation.of(PLAN.run(wildcards.run).clean)["grader"]


def exceptions(home):
    """The rows that may be evaluated otherwise than the rest."""
    return [
        run.label for run in rows_of(home) if run.clean in PLAN.evaluation.exceptions
    ]


def parent_done(wildcards):
    return str(
        PLAN.parent(wildcards.run, wildcards.seed, wildcards.stage) / "done.json"
    )


def method_file(wildcards):
    return PLAN.method_file(wildcards.run, wildcards.stage)


def method_time(wildcards):
    # Snakemake compares small files by checksum; with its time a touched method file counts as changed.
    return Path(method_file(wildcards)).stat().st_mtime


def checkpoint_done(wildcards):
    return str(PLAN.final(wildcards.run, wildcards.seed) / "done.json")


def rows_of(home):
    """The rows of the tables in a folder: the configuration's runs, a study's, or all of the bug study's."""
    if home == HOME:
        return PLAN.runs
    name = Path(home).name
    return PLAN.studies[name].runs if name in PLAN.studies else PLAN.bug_study()


def seeds_of(home):
    name = Path(home).name
    own = home != HOME and name in PLAN.studies
    return PLAN.studies[name].seeds if own else PLAN.seeds


def labels(home):
    return [run.label for run in rows_of(home)]


def stage_folders(home, trained=False):
    return PLAN.stage_folders(rows_of(home), seeds_of(home), trained)


def done_files(home):
    return [f"{folder}/done.json" for folder in stage_folders(home)]


def evaluated(home, what):
    return expand(
        f"{HOME}/{{run}}/seed{{seed}}/eval/{{benchmark}}.{what}.parquet",
        run=labels(home),
        seed=seeds_of(home),
        benchmark=PLAN.benchmarks,
    )


def final_certificates(home):
    return [
        f"{PLAN.final(label, seed)}/certificate.json"
        for label in labels(home)
        for seed in seeds_of(home)
    ]


def notes_text(wildcards):
    return json.dumps(notes(PLAN, PLAN.studies.get(Path(wildcards.home).name)))


def benchmark_titles():
    return [f"{name}={entry['title']}" for name, entry in PLAN.benchmarks.items()]


def headline_titles():
    return [f"{name}={entry['title']}" for name, entry in headline(PLAN)[1].items()]


def data_spec(wildcards):
    return json.dumps(PLAN.data_spec(wildcards.name), sort_keys=True)


DATA_PREPARED = (
    "|".join(name for name in PLAN.corpora.names if PLAN.corpora.prepared(name))
    or "(?!)"
)
DATA_AS_IS = "|".join(
    [
        *(name for name in PLAN.corpora.names if not PLAN.corpora.prepared(name)),
        *PLAN.benchmarks,
    ]
)


def corpus_files(wildcards):
    """What is here of a corpus; the rest comes from the hub."""
    return PLAN.corpora.files(wildcards.name)


def corpus_spec(wildcards):
    """Of wildcards alone: what is made from inputs or threads, Snakemake does not compare with the last time."""
    spec = {
        **PLAN.corpora.spec(wildcards.name),
        "model": PLAN.model("base"),
        "template": config["template"],
        "benchmarks": corpus_benchmarks(wildcards),
    }
    return json.dumps(spec, sort_keys=True)


def benchmark_files():
    return [f"{HOME}/data/{name}.jsonl" for name in PLAN.benchmarks]


def corpus_benchmarks(wildcards):
    """Only a corpus that leaves out what is tested depends on what is: another benchmark must not train everything again."""
    return benchmark_files() if PLAN.corpora.drops(wildcards.name) else []


def known_golds(wildcards):
    return PLAN.known_golds(wildcards.name)


def source_file(wildcards):
    """What a data file is made from, if it is here; the job itself says what to do where it is not."""
    spec = PLAN.data_spec(wildcards.name)
    made = "miniature/world.py" if spec["source"] == "miniature" else spec["source"]
    return made if Path(made).is_file() else []


def told_sources():
    """What the footer says of data: the digest of benchmarks that have none of their own, and corpora."""
    unpinned = [name for name, one in PLAN.benchmarks.items() if "sha256" not in one]
    prepared = [name for name in PLAN.corpora.names if PLAN.corpora.prepared(name)]
    return [
        *(f"{HOME}/data/{name}.source.json" for name in unpinned),
        *(f"{HOME}/data/{name}.overlap.json" for name in prepared),
    ]


def evaluation_template(wildcards):
    return PLAN.evaluation.of(PLAN.run(wildcards.run).clean)["template"]


def study_arguments(study):
    """What `analysis.study` is told besides its files."""
    axis = [f"{label}={value}" for label, value in PLAN.axis(study).items()]
    pairs = [
        f"{run}={paper}={method}"
        for run, papers in study.published.items()
        for paper, method in papers.items()
    ]
    return [
        *("--name", study.name, "--over", headline(PLAN)[0]),
        *("--runs", *(run.label for run in study.runs)),
        *("--baseline", study.baseline),
        *(["--axis", study.axis, *axis] if axis else []),
        *(["--published", "results/published", "--pairs", *pairs] if pairs else []),
        *("--benchmarks", *headline_titles()),
    ]


def pilot_files(name):
    """Figure and table of a pilot."""
    return [
        *reported(f"{HOME}/pilots/{name}", "Pilots", name, FIGURE),
        *reported(f"{HOME}/pilots/{name}", "Pilots", name, TABLE),
    ]


def configured(setting, output):
    """The files of a table that only some configurations ask for."""
    if not config[setting]:
        raise ValueError(
            f"this configuration has no `{setting}`; config/paper.yaml shows one"
        )
    return output
