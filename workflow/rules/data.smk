# Training problems and benchmarks, generated or read, as checked JSON lines.


rule data:
    input:
        source_file,
    output:
        f"{HOME}/data/{{name}}.jsonl",
    log:
        f"{HOME}/logs/data/{{name}}.log",
    localrule: True
    conda:
        "../envs/assay.yaml"
    params:
        source=data_source,
        engine=ENGINE,
    shell:
        "python -m engine.data {params.source:q} {wildcards.name} {output} 2>&1 | tee {log}"
