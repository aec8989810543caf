# What `make report` puts on one page: the figures that are there, the verdict, battles, and where it all comes from.
localrules:
    report_parts,
    write_provenance,


rule report_parts:
    input:
        report_files(),
        f"{RESULTS}/report/provenance.html",


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
