localrules:
    collect_scores,


rule collect_scores:
    input:
        metrics=map_cells,
        manifests=map_manifests,
        cards=map_cards,
        script=f"{SCRIPTS}/collect.py",
        code=f"{ANALYSIS}/scores.py",
    output:
        parquet=f"{RESULTS}/tables/{{map}}.parquet",
        csv=f"{RESULTS}/tables/{{map}}.csv",
        demonstrators=f"{RESULTS}/tables/{{map}}_demonstrators.csv",
        manifest=f"{RESULTS}/tables/{{map}}.manifest.json",
    log:
        f"{RESULTS}/logs/collect_scores/{{map}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables/{{map}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=10,
    params:
        digest=table_digest,
        out=out_folder,
    message:
        "Table: every evaluation on {wildcards.map}"
    shell:
        'python {input.script:q} --config "$DM2_CONFIG" --map {wildcards.map} --out {params.out:q} > {log:q} 2>&1'
