# Tables and figures, from files alone.


rule notes:
    output:
        f"{HOME}/notes.json",
    log:
        f"{HOME}/logs/notes.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        text=notes_text(),
    shell:
        "printf '%s\\n' {params.text:q} > {output} 2> {log}"


rule tables:
    input:
        scores=rules.score.output.scores,
        problems=rules.score.output.problems,
        notes=rules.notes.output,
        done=PLAN.done_files(),
    output:
        report(
            multiext(f"{HOME}/tables/main", ".csv", ".md", ".tex", ".txt"),
            category="Results",
            labels={"table": "main"},
        ),
        report(
            multiext(f"{HOME}/tables/intervals", ".csv", ".md", ".tex", ".txt"),
            category="Results",
            labels={"table": "intervals and differences"},
        ),
        report(
            multiext(f"{HOME}/tables/responses", ".csv", ".md", ".tex", ".txt"),
            category="Results",
            labels={"table": "responses"},
        ),
        report(
            multiext(f"{HOME}/tables/costs", ".csv", ".md", ".tex", ".txt"),
            category="Results",
            labels={"table": "costs"},
        ),
    log:
        f"{HOME}/logs/tables.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
        runs=config["runs"],
        titles=[f"{name}={entry['title']}" for name, entry in PLAN.benchmarks.items()],
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis.tables --scores {input.scores} --items {input.problems} --done {input.done} --notes {input.notes}"
        " --runs {params.runs} --benchmarks {params.titles:q} --out-dir {params.folder} 2>&1 | tee {log}"


rule figures:
    input:
        problems=rules.score.output.problems,
        done=PLAN.done_files(),
    output:
        report(
            multiext(f"{HOME}/figures/training", ".pdf", ".png"),
            category="Figures",
            labels={"figure": "training"},
        ),
        report(
            multiext(f"{HOME}/figures/averages", ".pdf", ".png"),
            category="Figures",
            labels={"figure": "averages"},
        ),
    log:
        f"{HOME}/logs/figures.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
        runs=config["runs"],
        benchmarks=list(PLAN.benchmarks),
        metrics=PLAN.metrics_files(),
        folder=subpath(output[0], parent=True),
    shell:
        "python -m analysis.figures --items {input.problems} --metrics {params.metrics} --runs {params.runs}"
        " --benchmarks {params.benchmarks} --out-dir {params.folder} 2>&1 | tee {log}"
