localrules:
    plot_demo_ablation,


rule plot_demo_ablation:
    input:
        tables=[f"{RESULTS}/tables/{name}.parquet" for name in CONFIG.demo_ablation.maps],
        demonstrators=[f"{RESULTS}/tables/{name}_demonstrators.csv" for name in CONFIG.demo_ablation.maps],
        manifests=[f"{RESULTS}/tables/{name}.manifest.json" for name in CONFIG.demo_ablation.maps],
        script=f"{SCRIPTS}/plot_demo_ablation.py",
        code=[f"{ANALYSIS}/figures.py", f"{ANALYSIS}/paper_curves.py"],
        paper=PAPER_CURVES,
    output:
        pdf=report(
            "figures/demo_ablation.pdf",
            caption="../report/demo_ablation.rst",
            category="Demonstration ablation",
            labels={"shows": "PDF"},
        ),
        png=report(
            "figures/demo_ablation.png",
            caption="../report/demo_ablation.rst",
            category="Demonstration ablation",
            labels={"shows": "figure"},
        ),
        csv=report(
            "figures/demo_ablation.csv",
            caption="../report/demo_ablation_data.rst",
            category="Demonstration ablation",
            labels={"shows": "every point"},
        ),
        manifest="figures/demo_ablation.manifest.json",
    log:
        f"{RESULTS}/logs/plot_demo_ablation.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/demo_ablation.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=10,
    params:
        tables=tables_folder,
        out=out_folder,
    message:
        "Figure: figures/demo_ablation"
    shell:
        'python {input.script:q} --config "$DM2_CONFIG" --tables {params.tables:q} --out {params.out:q} > {log:q} 2>&1'
