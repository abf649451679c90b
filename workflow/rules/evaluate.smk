# Samples, grades and scores. Samples are written once; grading again never generates again.


rule generate:
    input:
        done=checkpoint_done,
        data=expand(f"{HOME}/data/{{benchmark}}.jsonl", benchmark=PLAN.benchmarks),
        template=evaluation_template,
    output:
        samples=expand(
            f"{HOME}/{{{{run}}}}/seed{{{{seed}}}}/eval/{{benchmark}}.samples.parquet",
            benchmark=PLAN.benchmarks,
        ),
        provenance=f"{HOME}/{{run}}/seed{{seed}}/eval/samples.provenance.json",
    log:
        f"{HOME}/logs/{{run}}/seed{{seed}}/generate.log",
    conda:
        "../envs/assay.yaml"
    threads: 1
    resources:
        gpu=evaluation_gpus,
    params:
        spec=evaluation_spec,
        engine=ENGINE,
        folder=subpath(output[0], parent=True),
        sampling=f"sampling={notes(PLAN)['sampling']}",
    shell:
        "python -m engine.lease --gpus {resources.gpu} -- python -m engine.evaluate generate --out {params.folder} --spec {params.spec:q}"
        ' --sizes "$sizes" 2>&1 | tee {log};'
        " python -m engine.provenance {output.provenance} --started $started --inputs {input} --outputs {output}"
        " --about $about {params.sampling:q}"


rule grade:
    input:
        samples=rules.generate.output.samples,
        golds=expand(f"{HOME}/data/{{benchmark}}.golds.json", benchmark=PLAN.benchmarks),
    output:
        expand(
            f"{HOME}/{{{{run}}}}/seed{{{{seed}}}}/eval/{{benchmark}}.grades.parquet",
            benchmark=PLAN.benchmarks,
        ),
    log:
        f"{HOME}/logs/{{run}}/seed{{seed}}/grade.log",
    conda:
        "../envs/assay.yaml"
    params:
        engine=ENGINE,
        grader=run_grader,
    shell:
        "python -m engine.evaluate grade {input.samples} --grader {params.grader} --cache results/verdicts.sqlite"
        " 2>&1 | tee {log}"


rule grader_audit:
    input:
        grades=evaluated(HOME, "grades"),
        samples=evaluated(HOME, "samples"),
    output:
        cells=report(
            f"{HOME}/audit/audit.csv",
            caption="../report/grader_audit.rst",
            category="Grading",
            labels={"table": "accuracy by grader"},
        ),
        disagreements=report(
            f"{HOME}/audit/audit_disagreements.csv",
            caption="../report/grader_audit.rst",
            category="Grading",
            labels={"table": "disagreements"},
        ),
        summary=f"{HOME}/audit/audit.json",
        provenance=f"{HOME}/audit/provenance.json",
    log:
        f"{HOME}/logs/audit.log",
    conda:
        "../envs/assay.yaml"
    threads: 2
    params:
        engine=ENGINE,
    shell:
        "python -m engine.audit --grades {input.grades} --samples {input.samples} --out {output.cells}"
        " --workers {threads} --cache results/verdicts.sqlite 2>&1 | tee {log}; python -m engine.provenance {output.provenance} --started $started"
        " --inputs {input} --outputs {output} --about $about"


rule score:
    input:
        grades=lambda wildcards: evaluated(wildcards.home, "grades"),
        samples=lambda wildcards: evaluated(wildcards.home, "samples"),
        certificate="{home}/certificate.json",
    output:
        scores="{home}/scores.csv",
        problems="{home}/items.parquet",
        provenance="{home}/scores.provenance.json",
    log:
        "{home}/logs/score.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        certificates=lambda wildcards: final_certificates(wildcards.home),
        exceptions=lambda wildcards: exceptions(wildcards.home),
        analysis=ANALYSIS,
    shell:
        "python -m analysis.scores --out {output.scores} {input.grades} --certificates {params.certificates}"
        " --exceptions {params.exceptions}"
        " 2>&1 | tee {log}; python -m engine.provenance {output.provenance} --started $started --inputs {input} --outputs {output}"
        " --about $about"
