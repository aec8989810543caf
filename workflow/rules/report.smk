# What `make report` puts on one page: the figures that are there, the verdict, battles, and where it all comes from.
localrules:
    animate_battle,
    report_parts,
    write_provenance,


rule report_parts:
    input:
        report_files(),
        [f"{RESULTS}/report/replay_{map}.png" for map in replayed_maps()],
        f"{RESULTS}/report/provenance.html",


# Snakemake's page offers a GIF, and HTML above 2 MB, as a download at best; a PNG of any size plays in it.
rule animate_battle:
    input:
        gif="figures/replay_{map}.gif",
        script=f"{SCRIPTS}/animate_battle.py",
    output:
        report(
            f"{RESULTS}/report/replay_{{map}}.png",
            caption="../report/replay.rst",
            category="Battles",
            labels={"shows": "{map}: animation"},
        ),
    log:
        f"{RESULTS}/logs/animate_battle/{{map}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/animate_battle/{{map}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=10,
    message:
        "Animation: {output}"
    shell:
        "python {input.script:q} --gif {input.gif:q} --out {output:q} > {log:q} 2>&1"


rule write_provenance:
    input:
        manifests=[f"{os.path.splitext(path)[0]}.manifest.json" for path in report_files()],
        script=f"{SCRIPTS}/write_provenance.py",
        code=[f"{ANALYSIS}/provenance_page.py", f"{ANALYSIS}/html.py"],
    output:
        report(
            f"{RESULTS}/report/provenance.html",
            caption="../report/provenance.rst",
            category="Provenance",
            labels={"shows": "every result"},
        ),
    log:
        f"{RESULTS}/logs/write_provenance.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_provenance.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=10,
    message:
        "Provenance: {output}"
    shell:
        'python {input.script:q} --config "$DM2_CONFIG" --out {output:q} > {log:q} 2>&1'
