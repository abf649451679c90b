"""What can be built.

snakemake --cores all                                         everything the configuration asks for, ends with the main table
snakemake --cores all --config seeds=[0,1,2]                  the same with three seeds
snakemake --cores all --configfile config/real_smoke.yaml     another configuration
snakemake -n                                                  the plan only
snakemake --cores all --config inject=mean_of_means           every row trained with a known bug (config/bugs.yaml), and marked
snakemake --cores all hybrids                                 every method there is (config/hybrids.yaml)
snakemake --cores all bug_study                               how far each known bug moves each method
snakemake --cores all pretrain                                the miniature base model, from scratch
snakemake table1 --cores all --configfile config/paper.yaml   one table of the paper; so table2_ablation, fig2_prefix_pilot,
    fig3_mixture_pilot, fig4_dynamics, fig6_passk, prefix_use_histogram, proposition, and every study by its name
snakemake --cores all --configfile config/paper.yaml --config rehearse=true    every rule of it, with the miniature
"""

import os
import shlex
import sys
import time
from pathlib import Path

from snakemake.resources import Resource
from snakemake.utils import min_version

min_version("9.20")
STARTED = time.time()

# The rules import this repository's own modules, wherever Snakemake itself is installed.
sys.path.insert(0, workflow.basedir)
# What the user typed; jobs are started with commands of Snakemake's own. It goes into every result's provenance.
TYPED = os.environ.setdefault("ASSAY_COMMAND", shlex.join(["snakemake", *sys.argv[1:]]))
# The configuration where none is given: what is typed says which, for jobs on other machines have only that.
DEFAULT = "hybrids" if "hybrids" in shlex.split(TYPED) else "miniature"

if "profile" not in config:

    configfile: f"config/{DEFAULT}.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/data.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/evaluate.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/papers.smk"


# On this machine no more jobs at a time than it has GPUs for; which ones each gets is the lease's business (engine/lease.py).
if workflow.local_exec and "gpu" not in workflow.global_resources:
    if gpus := config["hardware"].get("gpus"):
        workflow.global_resources["gpu"] = Resource("gpu", gpus)


rule all:
    default_target: True
    input:
        rules.tables.output,
        rules.figures.output,
        rules.grader_audit.output,
        PAPER_TABLES,
        STUDIES,
        PILOTS,
        rules.report.output,


# All of a configuration; without one it is config/hybrids.yaml.
rule hybrids:
    input:
        rules.all.input,


onstart:
    sys.stderr.write(forecast(PLAN) + "\n")


onsuccess:
    for table in (
        Path(HOME, "tables", "main.txt"),
        Path(HOME, "bug_study", "bug_study.txt"),
    ):
        if table.exists() and table.stat().st_mtime >= STARTED:
            print(table.read_text())
