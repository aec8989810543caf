# What `make report` puts on one page: the figures that are there, the verdict, battles, and where it all comes from.
localrules:
    report_parts,
    write_battles,
    write_provenance,


rule report_parts:
    input:
        report_files(),
        f"{RESULTS}/report/battles.html",
        f"{RESULTS}/report/provenance.html",


# Snakemake's page offers a GIF as a download; inside a page it plays.
rule write_battles:
    input:
        replays=[f"figures/replay_{map}.gif" for map in CONFIG.demo_ablation.maps],
        script=f"{SCRIPTS}/write_battles.py",
        code=f"{ANALYSIS}/html.py",
    output:
        report(
            f"{RESULTS}/report/battles.html",
            caption="../report/replay.rst",
            category="Battles",
            labels={"shows": "animation"},
        ),
    log:
        f"{RESULTS}/logs/write_battles.log",
    benchmark:
        f"{RESULTS}/benchmarks/write_battles.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=10,
    message:
        "Battles: {output}"
    shell:
        "python {input.script:q} --replays {input.replays:q} --out {output:q} > {log:q} 2>&1"


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
