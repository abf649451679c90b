# Samples, grades and scores. Samples are written once; grading again never generates again.


rule generate:
    input:
        done=checkpoint_done,
        data=expand(f"{HOME}/data/{{benchmark}}.jsonl", benchmark=PLAN.benchmarks),
        template=config["template"],
    output:
        expand(
            f"{HOME}/{{{{run}}}}/seed{{{{seed}}}}/eval/{{benchmark}}.samples.jsonl",
            benchmark=PLAN.benchmarks,
        ),
    log:
        f"{HOME}/logs/{{run}}/seed{{seed}}/generate.log",
    conda:
        "../envs/assay.yaml"
    threads: 1
    params:
        spec=evaluation_spec,
        engine=ENGINE,
        folder=subpath(output[0], parent=True),
    shell:
        "OMP_NUM_THREADS={threads} python -m engine.evaluate generate --out {params.folder} --spec {params.spec:q} 2>&1 | tee {log}"


rule grade:
    input:
        f"{HOME}/{{run}}/seed{{seed}}/eval/{{benchmark}}.samples.jsonl",
    output:
        f"{HOME}/{{run}}/seed{{seed}}/eval/{{benchmark}}.grades.jsonl",
    log:
        f"{HOME}/logs/{{run}}/seed{{seed}}/grade-{{benchmark}}.log",
    conda:
        "../envs/assay.yaml"
    params:
        engine=ENGINE,
    shell:
        "python -m engine.evaluate grade {input} {output} 2>&1 | tee {log}"


rule score:
    input:
        expand(
            f"{HOME}/{{run}}/seed{{seed}}/eval/{{benchmark}}.grades.jsonl",
            run=config["runs"],
            seed=PLAN.seeds,
            benchmark=PLAN.benchmarks,
        ),
    output:
        scores=f"{HOME}/scores.csv",
        problems=f"{HOME}/items.csv",
    log:
        f"{HOME}/logs/score.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        analysis=ANALYSIS,
    shell:
        "python -m analysis.scores --out {output.scores} {input} 2>&1 | tee {log}"
