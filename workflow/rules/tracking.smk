# A figure's finished cells in MLflow. One process delivers; no figure waits for it, and the store can be made again.
localrules:
    track,


rule track:
    input:
        metrics=figure_metrics,
        manifests=figure_manifests,
        cards=figure_cards,
    output:
        touch(f"{RESULTS}/mlflow/{{figure}}.imported"),
    log:
        f"{RESULTS}/logs/track/{{figure}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/track_{{figure}}.tsv"
    wildcard_constraints:
        figure="|".join(("demo_ablation", *FIGURES)),
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=30,
    message:
        "MLflow: cells of figure {wildcards.figure}"
    shell:
        'python -m dm2core track --config "$DM2_CONFIG" --figure {wildcards.figure} > {log:q} 2>&1'
