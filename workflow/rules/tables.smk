# The certificate, tables and figures, from files alone.


rule notes:
    input:
        told_sources(),
    output:
        "{home}/notes.json",
    log:
        "{home}/logs/notes.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        text=notes_text,
    shell:
        "python -m engine.benchmarks notes {params.text:q} {output} {input} 2>&1 | tee {log}"


rule certificate:
    input:
        done=lambda wildcards: done_files(wildcards.home),
        golds=expand(
            f"{HOME}/data/{{name}}.golds.json",
            name=[*PLAN.corpora.names, *PLAN.benchmarks],
        ),
    output:
        certificate="{home}/certificate.json",
        page="{home}/certificate.md",
        provenance="{home}/certificate.provenance.json",
    log:
        "{home}/logs/certificate.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        stages=lambda wildcards: [
            f"{folder}/certificate.json" for folder in stage_folders(wildcards.home)
        ],
        analysis=ANALYSIS,
    shell:
        "python -m analysis.certificate --stages {params.stages} --golds {input.golds} --out {output.certificate}"
        " 2>&1 | tee {log}; python -m engine.provenance {output.provenance} --started $started --inputs {input} --outputs {output}"
        " --about $about"


rule tables:
    input:
        scores=f"{HOME}/scores.csv",
        problems=f"{HOME}/items.parquet",
        certificate=f"{HOME}/certificate.json",
        notes=f"{HOME}/notes.json",
        audit=rules.grader_audit.output.summary,
        done=done_files(HOME),
    output:
        *reported(f"{HOME}/tables/main", "Tables", "main", TABLE),
        *reported(
            f"{HOME}/tables/intervals", "Tables", "intervals and differences", TABLE
        ),
        *reported(f"{HOME}/tables/responses", "Tables", "responses", TABLE),
        *reported(f"{HOME}/tables/costs", "Tables", "costs", TABLE),
        provenance=f"{HOME}/tables/provenance.json",
    log:
        f"{HOME}/logs/tables.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
        runs=[run.label for run in PLAN.runs],
        titles=benchmark_titles(),
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis.tables --scores {input.scores} --items {input.problems} --done {input.done} --notes {input.notes}"
        " --certificate {input.certificate} --audit {input.audit} --runs {params.runs} --benchmarks {params.titles:q}"
        " --out-dir {params.folder} 2>&1 | tee {log}; python -m engine.provenance {output.provenance} --started $started --inputs {input} --outputs {output}"
        " --about $about"


# Each figure with its title in Snakemake's report; the caption is workflow/report/<name>.rst.
FIGURES = {
    "averages": "means with intervals",
    "differences": "paired differences",
    "cost": "accuracy against cost",
    "pass_at_k": "pass@k",
    "training": "training curves",
    "guidance": "use of expert prefixes",
    "terms": "gradient norm by part of the loss",
    "weights": "weights of expert tokens",
}


rule figures:
    input:
        problems=f"{HOME}/items.parquet",
        notes=f"{HOME}/notes.json",
        done=done_files(HOME),
    output:
        *[
            report(
                f"{HOME}/figures/{name}.{kind}",
                caption=f"../report/{name}.rst",
                category="Figures",
                labels={"figure": title, "file": label},
            )
            for name, title in FIGURES.items()
            for kind, label in (("png", "picture (PNG)"), ("pdf", "vector (PDF)"))
        ],
        provenance=f"{HOME}/figures/provenance.json",
    log:
        f"{HOME}/logs/figures.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
        runs=labels(HOME),
        baseline=notes(PLAN).get("baseline") or labels(HOME)[0],
        over=headline(PLAN)[0],
        titles=headline_titles(),
        metrics=[
            f"{folder}/metrics.jsonl" for folder in stage_folders(HOME, trained=True)
        ],
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis.figures --items {input.problems} --metrics {params.metrics} --done {input.done} --notes {input.notes}"
        " --runs {params.runs} --baseline {params.baseline} --benchmarks {params.titles:q} --over {params.over:q} --out-dir {params.folder}"
        " 2>&1 | tee {log}; python -m engine.provenance {output.provenance} --started $started --inputs {input} --outputs {output}"
        " --about $about"


rule report:
    input:
        tables=rules.tables.output,
        figures=rules.figures.output,
        papers=lambda wildcards: [*PAPER_TABLES, *STUDIES, *PILOTS],
        graders=rules.grader_audit.output.summary,
        certificate=f"{HOME}/certificate.md",
        template="analysis/report.html.j2",
        captions=sorted(map(str, Path("workflow/report").glob("*.rst"))),
    output:
        page=report(
            f"{HOME}/report.html",
            caption="../report/report.rst",
            category="Report",
            labels={"page": "everything on one page", "file": "HTML"},
        ),
        configuration=f"{HOME}/configuration.yaml",
        provenance=f"{HOME}/report.provenance.json",
    log:
        f"{HOME}/logs/report.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
        studies=[f"{name}={HOME}/{name}" for name in PLAN.studies]
        + [f"{name}={HOME}/pilots" for name in config["pilots"]],
        # a function: what is in its braces is no wildcard
        configuration=lambda wildcards: yaml.safe_dump(
            dict(config), sort_keys=False, allow_unicode=True, width=120
        ),
    shell:
        "printf '%s' {params.configuration:q} > {output.configuration};"
        " python -m analysis.report --home $(dirname {output.page}) --out {output.page} --studies {params.studies}"
        " 2>&1 | tee {log}; python -m engine.provenance {output.provenance} --started $started --inputs {input} --outputs {output}"
        " --about $about"


rule bug_study:
    input:
        scores=f"{HOME}/bug_study/scores.csv",
        problems=f"{HOME}/bug_study/items.parquet",
        certificate=f"{HOME}/bug_study/certificate.json",
    output:
        *reported(f"{HOME}/bug_study/bug_study", "Tables", "bug study", TABLE),
        *reported(f"{HOME}/bug_study/bug_study", "Figures", "bug study", FIGURE),
        provenance=f"{HOME}/bug_study/provenance.json",
    log:
        f"{HOME}/logs/bug_study.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
        runs=labels(f"{HOME}/bug_study"),
        bugs=list(PLAN.bugs),
        bug_texts=[f"{name}={entry['about']}" for name, entry in PLAN.bugs.items()],
        certificates=final_certificates(f"{HOME}/bug_study"),
        titles=headline_titles(),
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis.bug_study --scores {input.scores} --items {input.problems} --runs {params.runs} --bugs {params.bugs}"
        " --about {params.bug_texts:q} --benchmarks {params.titles:q} --certificate {input.certificate}"
        " --certificates {params.certificates} --out-dir {params.folder} --figures-dir {params.folder}"
        " 2>&1 | tee {log}; python -m engine.provenance {output.provenance} --started $started --inputs {input} --outputs {output}"
        " --about $about"
