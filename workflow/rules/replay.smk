# Two teams in the same battle from the same start: IPPO and DM2 with joint, concurrent demonstrations.
localrules:
    replay_pair,


rule replay_pair:
    input:
        policies=replay_policies,
    output:
        gif="figures/replay_{map}.gif",
        png=report(
            "figures/replay_{map}.png",
            caption="../report/replay.rst",
            category="Battles",
            labels={"shows": "{map}: six moments"},
        ),
        manifest="figures/replay_{map}.manifest.json",
    log:
        f"{RESULTS}/logs/replay_pair/{{map}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/figures/replay_{{map}}.tsv"
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=10,
    params:
        seed=CONFIG.eval_seed,
    message:
        "Replay: IPPO and DM2 on {wildcards.map}"
    shell:
        "python -m dm2core replay --who {input.policies:q} --map {wildcards.map} --seed {params.seed}"
        " --out {output.gif:q} > {log:q} 2>&1"
