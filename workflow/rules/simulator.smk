# The simulator measured without DM2, and the page that says so. Only IPPO at scale paper compares with the paper, so
# only its tables go beside the committed ones.
REFERENCE = "results/reference/simulator"
CALIBRATED = REFERENCE if (CONFIG.scale, CONFIG.env) == ("paper", "embedded") else f"{RESULTS}/simulator"
MEASURED = [f"{REFERENCE}/{name}.csv" for name in ("encoding", "motion", "scripted", "shields", "choices")]
RECORDINGS = sorted(glob.glob(f"{workflow.basedir}/tests/data/golden_smac/*.npz"))


localrules:
    calibration,
    calibrate_ippo,
    calibrate_buffer,
    write_simulator_doc,


rule calibration:
    input:
        expand(f"{CALIBRATED}/ippo_{{map}}.csv", map=CONFIG.calibration.maps),


rule measure_simulator:
    input:
        recordings=RECORDINGS,
        script=f"{SCRIPTS}/measure_simulator.py",
        choices=f"{ANALYSIS}/choices.py",
        simulator=sorted(glob.glob(f"{workflow.basedir}/dm2core/env/*.*")),
    output:
        MEASURED,
    log:
        f"{RESULTS}/logs/measure_simulator.log",
    benchmark:
        f"{RESULTS}/benchmarks/simulator.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=20,
    params:
        out=out_folder,
    message:
        "Simulator: recordings, scripted policies, shields, choices"
    shell:
        "python {input.script:q} --recordings {input.recordings:q} --out {params.out:q} > {log:q} 2>&1"


rule calibrate_ippo:
    input:
        metrics=calibration_metrics,
        script=f"{SCRIPTS}/collect_calibration.py",
        code=f"{ANALYSIS}/calibration.py",
    output:
        f"{CALIBRATED}/ippo_{{map}}.csv",
    log:
        f"{RESULTS}/logs/calibrate_ippo/{{map}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/calibration/{{map}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=10,
    params:
        digest=calibration_digest,
    message:
        "Calibration: IPPO on {wildcards.map} beside the paper's"
    shell:
        'python {input.script:q} --config "$DM2_CONFIG" --map {wildcards.map} --out {output:q} > {log:q} 2>&1'


# The released settings of 5m_vs_6m differ from the paper's table (D19): the same curve under the table's.
rule calibrate_buffer:
    input:
        metrics=buffer_metrics,
        script=f"{SCRIPTS}/collect_calibration.py",
        code=f"{ANALYSIS}/calibration.py",
    output:
        f"{CALIBRATED}/ippo1024_{{map}}.csv",
    log:
        f"{RESULTS}/logs/calibrate_buffer/{{map}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/calibration/{{map}}_1024.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=10,
    params:
        digest=buffer_digest,
        method=PAPER_BUFFER,
    message:
        "Calibration: IPPO on {wildcards.map} with the buffer that the paper names"
    shell:
        'python {input.script:q} --config "$DM2_CONFIG" --map {wildcards.map} --method {params.method}'
        " --out {output:q} > {log:q} 2>&1"


rule write_simulator_doc:
    input:
        measured=MEASURED,
        facts=f"{workflow.basedir}/resources/smac_facts.yaml",
        curves=f"{workflow.basedir}/resources/paper_curves",
        script=f"{SCRIPTS}/write_simulator_doc.py",
        code=[
            f"{ANALYSIS}/{name}.py"
            for name in ("simulator_page", "simulator_text", "calibration", "choices")
        ],
    output:
        "docs/simulator.md",
    log:
        f"{RESULTS}/logs/write_simulator_doc.log",
    benchmark:
        f"{RESULTS}/benchmarks/simulator_doc.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=10,
    params:
        tables=measured_folder,
        # Not inputs: asking for the page must never start days of training. New tables change this digest.
        calibrated=calibrated_digest,
    message:
        "Page: docs/simulator.md"
    shell:
        "python {input.script:q} --tables {params.tables:q} --facts {input.facts:q} --curves {input.curves:q}"
        " --out {output:q} > {log:q} 2>&1"
