rule sample_demos:
    input:
        experts=expert_policies,
    output:
        demos=f"{RESULTS}/demos/{{map}}/{{demos_id}}/demos.npz",
        card=f"{RESULTS}/demos/{{map}}/{{demos_id}}/card.json",
        text=f"{RESULTS}/demos/{{map}}/{{demos_id}}/card.md",
        battles=[] if GAMES else f"{RESULTS}/demos/{{map}}/{{demos_id}}/battles.npz",
        manifest=f"{RESULTS}/demos/{{map}}/{{demos_id}}/manifest.json",
    log:
        f"{RESULTS}/logs/sample_demos/{{map}}/{{demos_id}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/demos/{{map}}/{{demos_id}}.tsv"
    # Minutes each in the simulator: four share one Slurm job (slurm/profile.yaml), which is sent again as one.
    group:
        "one_set" if GAMES else "small"
    conda:
        "../../environment-smac.yml" if GAMES else "../../environment.yml"
    threads: battle_threads
    resources:
        mem_mb=demos_memory,
        runtime=demos_minutes,
    params:
        digest=demos_digest,
        experts=expert_folders,
        out=out_folder,
    message:
        "Demonstrations: {wildcards.demos_id} on {wildcards.map}"
    shell:
        'python -m dm2core demos --config "$DM2_CONFIG" --map {wildcards.map} --id {wildcards.demos_id}'
        " --experts {params.experts:q} --out {params.out:q} > {log:q} 2>&1"
