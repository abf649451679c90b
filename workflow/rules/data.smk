# Training problems and benchmarks, generated, read, or joined and filtered, as checked JSON lines; and the grader checked on their
# gold answers.


rule data:
    input:
        source_file,
    output:
        data=f"{HOME}/data/{{name}}.jsonl",
        source=f"{HOME}/data/{{name}}.source.json",
    log:
        f"{HOME}/logs/data/{{name}}.log",
    wildcard_constraints:
        name=DATA_AS_IS,
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        spec=data_spec,
        engine=ENGINE,
    shell:
        "python -m engine.benchmarks build {params.spec:q} {output.data} {output.source} 2>&1 | tee {log}"


# A corpus: joined, filtered and checked against the benchmarks, with a report of what was left out and why.
rule corpus:
    input:
        corpus_files,
        corpus_benchmarks,
        template=config["template"],
    output:
        data=f"{HOME}/data/{{name}}.jsonl",
        tokens=f"{HOME}/data/{{name}}.tokens.arrow",
        source=f"{HOME}/data/{{name}}.source.json",
    log:
        f"{HOME}/logs/data/{{name}}.log",
    wildcard_constraints:
        name=DATA_PREPARED,
    conda:
        "../envs/assay.yaml"
    threads: 2
    params:
        spec=corpus_spec,
        engine=ENGINE,
    shell:
        "python -m engine.corpus build {params.spec:q} {output.data} {output.source} --workers {threads} 2>&1 | tee {log}"


# What training shares with the tests, for the footers.
rule overlap:
    input:
        data=f"{HOME}/data/{{name}}.jsonl",
        source=f"{HOME}/data/{{name}}.source.json",
        benchmarks=benchmark_files(),
    output:
        f"{HOME}/data/{{name}}.overlap.json",
    log:
        f"{HOME}/logs/data/{{name}}.overlap.log",
    wildcard_constraints:
        name=DATA_PREPARED,
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        engine=ENGINE,
    shell:
        "python -m engine.overlap {input.data} {input.benchmarks} --source {input.source} --out {output} 2>&1 | tee {log}"


rule golds:
    input:
        f"{HOME}/data/{{name}}.jsonl",
    output:
        f"{HOME}/data/{{name}}.golds.json",
    log:
        f"{HOME}/logs/data/{{name}}.golds.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        known=known_golds,
        engine=ENGINE,
    shell:
        "python -m engine.evaluate golds {input} {output} --known {params.known} 2>&1 | tee {log}"
