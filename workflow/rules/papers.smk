# Tables beside the results: what presets change, what steps add, what papers print, and whether that adds up.
from workflow.layout import fidelity


rule fidelity:
    input:
        settings="results/published/settings.csv",
    output:
        *reported(f"{HOME}/tables/fidelity", "Tables", "fidelity", TABLE),
        plan=f"{HOME}/tables/fidelity.json",
        provenance=f"{HOME}/tables/fidelity.provenance.json",
    log:
        f"{HOME}/logs/fidelity.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
        text=json.dumps(fidelity(PLAN)),
        folder=subpath(output[0], parent=True),
    shell:
        "printf '%s\\n' {params.text:q} > {output.plan}; python -m analysis.fidelity --settings {output.plan}"
        " --documented {input.settings} --out-dir {params.folder} 2>&1 | tee {log};"
        " python -m engine.provenance {output.provenance} --started $started --inputs {input} --outputs {output} --about $about"


rule arithmetic:
    input:
        published=sorted(map(str, Path("results/published").glob("*.csv"))),
    output:
        *reported(
            f"{HOME}/tables/arithmetic",
            "Tables",
            "arithmetic of published tables",
            TABLE,
        ),
        provenance=f"{HOME}/tables/arithmetic.provenance.json",
    log:
        f"{HOME}/logs/arithmetic.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis.arithmetic --published results/published --out-dir {params.folder} 2>&1 | tee {log};"
        " python -m engine.provenance {output.provenance} --started $started --inputs {input} --outputs {output} --about $about"


rule ablation:
    input:
        scores=f"{HOME}/scores.csv",
        problems=f"{HOME}/items.parquet",
        certificate=f"{HOME}/certificate.json",
        notes=f"{HOME}/notes.json",
    output:
        *reported(f"{HOME}/tables/ablation", "Tables", "ablation", TABLE),
        provenance=f"{HOME}/tables/ablation.provenance.json",
    log:
        f"{HOME}/logs/ablation.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
        titles=benchmark_titles(),
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis.ablation --scores {input.scores} --items {input.problems} --notes {input.notes}"
        " --certificate {input.certificate} --benchmarks {params.titles:q} --out-dir {params.folder} 2>&1 | tee {log};"
        " python -m engine.provenance {output.provenance} --started $started --inputs {input} --outputs {output} --about $about"


rule published:
    input:
        scores=f"{HOME}/scores.csv",
        problems=f"{HOME}/items.parquet",
        certificate=f"{HOME}/certificate.json",
        notes=f"{HOME}/notes.json",
        published=rules.arithmetic.input.published,
    output:
        *reported(f"{HOME}/tables/published", "Tables", "published", TABLE),
        provenance=f"{HOME}/tables/published.provenance.json",
    log:
        f"{HOME}/logs/published.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
        titles=benchmark_titles(),
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis.published --scores {input.scores} --items {input.problems} --notes {input.notes}"
        " --certificate {input.certificate} --benchmarks {params.titles:q} --published results/published"
        " --out-dir {params.folder} 2>&1 | tee {log};"
        " python -m engine.provenance {output.provenance} --started $started --inputs {input} --outputs {output} --about $about"


# A comparison beside the main one: table and figure in a folder of its own.
rule study:
    input:
        scores=f"{HOME}/{{study}}/scores.csv",
        problems=f"{HOME}/{{study}}/items.parquet",
        certificate=f"{HOME}/{{study}}/certificate.json",
        notes=f"{HOME}/{{study}}/notes.json",
        done=lambda wildcards: done_files(f"{HOME}/{wildcards.study}"),
        published=rules.arithmetic.input.published,
    output:
        *[
            report(
                f"{HOME}/{{study}}/{{study}}.{kind}",
                caption="../report/study.rst",
                category="Studies",
                labels={"study": "{study}", "file": kind.upper()},
            )
            for kind in (*TABLE, *FIGURE)
        ],
        provenance=f"{HOME}/{{study}}/provenance.json",
    log:
        f"{HOME}/logs/{{study}}.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
        arguments=lambda wildcards: study_arguments(PLAN.studies[wildcards.study]),
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis.study --scores {input.scores} --items {input.problems} --notes {input.notes}"
        " --certificate {input.certificate} --done {input.done} {params.arguments:q} --out-dir {params.folder} 2>&1 | tee {log};"
        " python -m engine.provenance {output.provenance} --started $started --inputs {input} --outputs {output} --about $about"


# Before training: how far an expert's opening carries the base model.
rule prefix_samples:
    input:
        done=f"{HOME}/{config['prefix_pilot']['start']}/seed{PLAN.seeds[0]}/base/done.json",
        data=f"{HOME}/data/{config['prefix_pilot']['data']}.jsonl",
    output:
        f"{HOME}/pilots/prefixes.parquet",
    log:
        f"{HOME}/logs/pilots/prefixes.log",
    conda:
        "../envs/assay.yaml"
    resources:
        gpu=evaluation_gpus,
    params:
        spec=PLAN.prefix_pilot_spec(),
        engine=ENGINE,
    shell:
        "python -m engine.lease --gpus {resources.gpu} -- python -m engine.pilot prefixes --spec {params.spec:q} --out {output}"
        " 2>&1 | tee {log}"


rule fig2_prefix_pilot:
    input:
        rules.prefix_samples.output,
    output:
        *pilot_files("fig2_prefix_pilot"),
    log:
        f"{HOME}/logs/pilots/fig2_prefix_pilot.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis.prefix_pilot --data {input} --out-dir {params.folder} 2>&1 | tee {log}"


rule mixture:
    input:
        "miniature/mixture.py",
    output:
        f"{HOME}/pilots/mixture.csv",
    log:
        f"{HOME}/logs/pilots/mixture.log",
    conda:
        "../envs/assay.yaml"
    shell:
        "python -m miniature.mixture {output} 2>&1 | tee {log}"


rule fig3_mixture_pilot:
    input:
        rules.mixture.output,
    output:
        *pilot_files("fig3_mixture_pilot"),
    log:
        f"{HOME}/logs/pilots/fig3_mixture_pilot.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis.mixture --data {input} --out-dir {params.folder} 2>&1 | tee {log}"


rule proposition:
    output:
        *reported(f"{HOME}/pilots/proposition", "Pilots", "Proposition 1", TABLE),
    log:
        f"{HOME}/logs/pilots/proposition.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis.proposition --out-dir {params.folder} 2>&1 | tee {log}"


rule prefix_use_histogram:
    input:
        done_files(HOME),
    output:
        *pilot_files("prefix_use_histogram"),
    log:
        f"{HOME}/logs/pilots/prefix_use_histogram.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
        metrics=rules.figures.params.metrics,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis.prefix_use --metrics {params.metrics} --out-dir {params.folder} 2>&1 | tee {log}"


# What the papers call their tables and figures. Each study is a target by its own name, too.
rule table1:
    input:
        rules.tables.output,
        lambda wildcards: rules.published.output if config["published"] else [],


rule table2_ablation:
    input:
        lambda wildcards: configured("ablation", rules.ablation.output),


rule fig4_dynamics:
    input:
        [path for path in rules.figures.output if Path(path).stem == "training"],


rule fig6_passk:
    input:
        [path for path in rules.figures.output if Path(path).stem == "pass_at_k"],


for name in PLAN.studies:

    rule:
        name:
            name
        input:
            expand(rules.study.output, study=name),


STUDIES = expand(rules.study.output, study=PLAN.studies)
PILOTS = [path for name in config["pilots"] for path in getattr(rules, name).output]

# The tables of this configuration: an ablation and counterparts in print only where it names some.
PAPER_TABLES = [
    *rules.fidelity.output,
    *rules.arithmetic.output,
    *(rules.ablation.output if config["ablation"] else []),
    *(rules.published.output if config["published"] else []),
]
