# The figures of config key `figures`: learning curves of configured panels, and the switchboard.
localrules:
    collect_figure,
    plot_figure,


rule collect_figure:
    input:
        metrics=figure_metrics,
        manifests=figure_manifests,
        cards=figure_cards,
        script=f"{SCRIPTS}/collect.py",
        code=f"{ANALYSIS}/scores.py",
    output:
        parquet=f"{RESULTS}/tables/figures/{{figure}}.parquet",
        csv=f"{RESULTS}/tables/figures/{{figure}}.csv",
        demonstrators=f"{RESULTS}/tables/figures/{{figure}}_demonstrators.csv",
        manifest=f"{RESULTS}/tables/figures/{{figure}}.manifest.json",
    log:
        f"{RESULTS}/logs/collect_figure/{{figure}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/tables/figure_{{figure}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=10,
    params:
        digest=figure_digest,
        out=out_folder,
    message:
        "Table: every evaluation on figure {wildcards.figure}"
    shell:
        'python {input.script:q} --config "$DM2_CONFIG" --figure {wildcards.figure} --out {params.out:q} > {log:q} 2>&1'


rule plot_figure:
    input:
        tables=[
            f"{RESULTS}/tables/figures/{{figure}}.parquet",
            f"{RESULTS}/tables/figures/{{figure}}_demonstrators.csv",
            f"{RESULTS}/tables/figures/{{figure}}.manifest.json",
        ],
        script=f"{SCRIPTS}/plot_figure.py",
        code=[f"{ANALYSIS}/{name}.py" for name in ("figures", "curve_figures", "paper_curves", "switchboard")],
        paper=PAPER_CURVES,
    output:
        pdf=report(
            "figures/{figure}.pdf",
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{figure}",
            labels={"shows": "PDF"},
        ),
        png=report(
            "figures/{figure}.png",
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{figure}",
            labels={"shows": "figure"},
        ),
        csv=report(
            "figures/{figure}.csv",
            caption="../report/figure.rst",
            category="Figures",
            subcategory="{figure}",
            labels={"shows": "every point"},
        ),
        manifest="figures/{figure}.manifest.json",
    log:
        f"{RESULTS}/logs/plot_figure/{{figure}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/{{figure}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=10,
    params:
        tables=tables_folder,
        out=out_folder,
        plan=figure_plan,
    message:
        "Figure: figures/{wildcards.figure}"
    shell:
        'python {input.script:q} --config "$DM2_CONFIG" --figure {wildcards.figure} --tables {params.tables:q}'
        " --out {params.out:q} > {log:q} 2>&1"
