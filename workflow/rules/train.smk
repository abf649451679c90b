# Checkpoints: the base model, checked, and every stage that starts from it.
# A stage's folder holds more than its declared output (weights, metrics, resumable state): Snakemake deletes declared outputs
# before a rerun, and resumable state must survive that.


rule base:
    input:
        model=model_files,
        template=start_template,
    output:
        f"{HOME}/{{start}}/seed{{seed}}/base/done.json",
    log:
        f"{HOME}/logs/{{start}}/seed{{seed}}/base.log",
    conda:
        "../envs/assay.yaml"
    params:
        spec=start_spec,
        engine=ENGINE,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m engine.stage --out {params.folder} --spec {params.spec:q} 2>&1 | tee {log}"


# Whether the model ends its answers under the template, asked before anything is paid for.
rule preflight:
    input:
        done=f"{HOME}/{{start}}/seed{{seed}}/base/done.json",
        data=f"{HOME}/data/{{data}}.jsonl",
        template=start_template,
    output:
        f"{HOME}/preflight/{{start}}.{{data}}.seed{{seed}}.json",
    log:
        f"{HOME}/logs/preflight/{{start}}.{{data}}.seed{{seed}}.log",
    wildcard_constraints:
        data="[a-z0-9_]+",
    conda:
        "../envs/assay.yaml"
    resources:
        gpu=evaluation_gpus,
    params:
        spec=lambda wildcards: PLAN.preflight_spec(
            wildcards.start, wildcards.data, wildcards.seed
        ),
        engine=ENGINE,
    shell:
        "python -m engine.lease --gpus {resources.gpu} -- python -m engine.pilot preflight --spec {params.spec:q} --out {output}"
        ' --sizes "$sizes" 2>&1 | tee {log}'


rule train:
    input:
        parent=parent_done,
        method=method_file,
        data=lambda wildcards: f"{HOME}/data/{stage_data(wildcards)}.jsonl",
        golds=lambda wildcards: f"{HOME}/data/{stage_data(wildcards)}.golds.json",
        preflight=preflight_done,
        template=lambda wildcards: json.loads(stage_spec(wildcards))["template"],
    output:
        f"{HOME}/{{run}}/seed{{seed}}/{{stage}}/done.json",
    log:
        f"{HOME}/logs/{{run}}/seed{{seed}}/{{stage}}.log",
    benchmark:
        f"{HOME}/logs/{{run}}/seed{{seed}}/{{stage}}.benchmark.tsv"
    wildcard_constraints:
        run=rf"(?!({STARTS})/)[a-z0-9_]+(-[a-z0-9_]+)?(\+[a-z0-9_]+)?",
    conda:
        "../envs/assay.yaml"
    threads: stage_threads
    resources:
        gpu=stage_gpus,
        nodes=stage_nodes,
        tasks=stage_nodes,
        mpi=stage_starter,
    params:
        spec=train_spec,
        gpus_here=lambda wildcards: stage_gpus(wildcards) // stage_nodes(wildcards),
        touched=method_time,
        engine=ENGINE,
        folder=subpath(output[0], parent=True),
    shell:
        "python -m engine.lease --gpus {params.gpus_here} -- python -m engine.stage --out {params.folder} --spec {params.spec:q}"
        ' --sizes "$sizes" --log-to $log_to 2>&1 | tee {log}'


rule pretrain:
    input:
        "miniature/pretrain.py",
        "miniature/world.py",
    output:
        directory("results/pretrain/base"),
    log:
        "results/pretrain/pretrain.log",
    conda:
        "../envs/assay.yaml"
    threads: 2
    shell:
        "OMP_NUM_THREADS={threads} python -m miniature.pretrain {output} 2>&1 | tee {log}"
