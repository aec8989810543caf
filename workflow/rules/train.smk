rule train_cell:
    input:
        demos=cell_demos,
    output:
        metrics=f"{RESULTS}/cells/{{map}}/{{method}}/{{demos}}/seed{{seed}}/metrics.parquet",
        policy=f"{RESULTS}/cells/{{map}}/{{method}}/{{demos}}/seed{{seed}}/policy.safetensors",
        manifest=f"{RESULTS}/cells/{{map}}/{{method}}/{{demos}}/seed{{seed}}/manifest.json",
    log:
        f"{RESULTS}/logs/train_cell/{{map}}/{{method}}/{{demos}}/seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/cells/{{map}}/{{method}}/{{demos}}/seed{{seed}}.tsv"
    conda:
        "../../environment-smac.yml" if GAMES else "../../environment.yml"
    threads: battle_threads
    resources:
        mem_mb=cell_memory,
        runtime=minutes_on_map("env_steps"),
    params:
        digest=cell_digest,
        demos=demos_option,
        out=out_folder,
        state=state_folder,
    message:
        "Cell: {wildcards.method} on {wildcards.map}, demonstrations {wildcards.demos}, seed {wildcards.seed}"
    shell:
        'python -m dm2core train --config "$DM2_CONFIG" --map {wildcards.map} --method {wildcards.method}'
        " {params.demos} --seed {wildcards.seed} --out {params.out:q} --state {params.state:q} > {log:q} 2>&1"
