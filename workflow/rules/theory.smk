# The paper's theory as numbers on small games, its figure and its page.
localrules:
    plot_theory,


rule theory:
    input:
        code=sorted(glob.glob(f"{workflow.basedir}/dm2core/theory/*.py")),
    output:
        table=f"{RESULTS}/theory/theory.csv",
        curves=f"{RESULTS}/theory/curves.csv",
        example=f"{RESULTS}/theory/counterexample.txt",
        manifest=f"{RESULTS}/theory/theory.manifest.json",
    log:
        f"{RESULTS}/logs/theory.log",
    benchmark:
        f"{RESULTS}/benchmarks/theory.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=30,
    params:
        games=2 if CONFIG.scale == "smoke" else 12,
        out=out_folder,
    message:
        "Theory: lemmas and theorems on small games"
    shell:
        "python -m dm2core theory --games {params.games} --out {params.out:q} > {log:q} 2>&1"


rule plot_theory:
    input:
        table=f"{RESULTS}/theory/theory.csv",
        curves=f"{RESULTS}/theory/curves.csv",
        example=f"{RESULTS}/theory/counterexample.txt",
        manifest=f"{RESULTS}/theory/theory.manifest.json",
        script=f"{SCRIPTS}/plot_theory.py",
        code=f"{ANALYSIS}/theory_figure.py",
    output:
        pdf=report(
            "figures/theory.pdf", caption="../report/theory.rst", category="Theory", labels={"shows": "PDF"}
        ),
        png=report(
            "figures/theory.png",
            caption="../report/theory.rst",
            category="Theory",
            labels={"shows": "figure"},
        ),
        csv=report(
            "figures/theory.csv",
            caption="../report/theory.rst",
            category="Theory",
            labels={"shows": "every number"},
        ),
        manifest="figures/theory.manifest.json",
    log:
        f"{RESULTS}/logs/plot_theory.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/theory.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=10,
    params:
        out=out_folder,
        # The page holds the full table, so only a run of full size writes it.
        page=lambda wildcards: (
            "" if CONFIG.scale == "smoke" else shlex.join(["--page", f"{workflow.basedir}/docs/theory.md"])
        ),
    message:
        "Figure: figures/theory"
    shell:
        "python {input.script:q} --table {input.table:q} --curves {input.curves:q} --example {input.example:q}"
        " --out {params.out:q} {params.page}"
        " > {log:q} 2>&1"
