rule train_expert:
    output:
        metrics=f"{RESULTS}/experts/{{map}}/{{method}}/seed{{seed}}/metrics.parquet",
        policy=f"{RESULTS}/experts/{{map}}/{{method}}/seed{{seed}}/policy.safetensors",
        checkpoints=f"{RESULTS}/experts/{{map}}/{{method}}/seed{{seed}}/checkpoints.safetensors",
        manifest=f"{RESULTS}/experts/{{map}}/{{method}}/seed{{seed}}/manifest.json",
    log:
        f"{RESULTS}/logs/train_expert/{{map}}/{{method}}/seed{{seed}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/experts/{{map}}/{{method}}/seed{{seed}}.tsv"
    conda:
        "../../environment-smac.yml" if GAMES else "../../environment.yml"
    threads: battle_threads
    resources:
        mem_mb=cell_memory,
        runtime=minutes_on_map("expert_env_steps"),
    params:
        digest=expert_digest,
        out=out_folder,
        state=state_folder,
    message:
        "Expert: {wildcards.method} on {wildcards.map}, seed {wildcards.seed}"
    shell:
        'python -m dm2core train --config "$DM2_CONFIG" --map {wildcards.map} --method {wildcards.method}'
        " --expert --seed {wildcards.seed} --out {params.out:q} --state {params.state:q} > {log:q} 2>&1"
