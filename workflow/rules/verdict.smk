# The claims judged by the cells that are finished; and how far the statistics can be trusted.
localrules:
    verdict,
    measure_coverage,


rule verdict:
    input:
        failed=glob.glob(f"{RESULTS}/failed.csv"),
        claims=f"{workflow.basedir}/{CONFIG.claims}",
        theory=f"{RESULTS}/theory/theory.csv",
        paper=PAPER_CURVES,
        transfers=sorted(glob.glob("results/transfer/*-*.json")),
        script=f"{SCRIPTS}/judge.py",
    output:
        multiext(
            f"{RESULTS}/verdict/",
            "verdict.md",
            "runs.parquet",
            "runs.csv",
            "marl_eval.json",
            "verdict.manifest.json",
        ),
        html=report(
            f"{RESULTS}/verdict/verdict.html",
            caption="../report/verdict.rst",
            category="Verdict",
            labels={"shows": "the claims and how they stand"},
        ),
        csv=report(
            f"{RESULTS}/verdict/verdict.csv",
            caption="../report/verdict_data.rst",
            category="Verdict",
            labels={"shows": "the same as data"},
        ),
    log:
        f"{RESULTS}/logs/verdict.log",
    benchmark:
        f"{RESULTS}/benchmarks/verdict.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=10,
    params:
        out=out_folder,
        paper=curves_folder,
        # Not inputs: asking for the verdict must never start training. New results, and another plan, change these.
        cells=finished_digest,
        plan=Path(CONFIG_FILE).stem,
    message:
        "Verdict: {RESULTS}/verdict/verdict.md"
    shell:
        'python {input.script:q} --config "$DM2_CONFIG" --claims {input.claims:q} --paper {params.paper:q}'
        " --theory {input.theory:q} --out {params.out:q} > {log:q} 2>&1"


rule measure_coverage:
    input:
        script=f"{SCRIPTS}/measure_coverage.py",
    output:
        touch(f"{RESULTS}/statistics_measured"),
    log:
        f"{RESULTS}/logs/measure_coverage.log",
    benchmark:
        f"{RESULTS}/benchmarks/measure_coverage.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=30,
    params:
        page=f"{workflow.basedir}/docs/statistics.md",
    message:
        "docs/statistics.md: measured coverage and errors"
    shell:
        "python {input.script:q} --page {params.page:q} > {log:q} 2>&1"
