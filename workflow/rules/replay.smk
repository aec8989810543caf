# Two teams in the same battle from the same start: IPPO and DM2. The recordings draw the battle again without the policies.
localrules:
    record_battle,
    replay_pair,


rule record_battle:
    input:
        policy=replayed_policy,
    output:
        recording=f"{RESULTS}/battles/{{map}}/{{method}}.npz",
        manifest=f"{RESULTS}/battles/{{map}}/{{method}}.manifest.json",
    log:
        f"{RESULTS}/logs/record_battle/{{map}}/{{method}}.log",
    benchmark:
        f"{RESULTS}/benchmarks/battles/{{map}}/{{method}}.tsv"
    wildcard_constraints:
        method="ippo|dm2",
    conda:
        "../../environment.yml"
    threads: 1
    resources:
        mem_mb=memory,
        runtime=10,
    params:
        seed=CONFIG.eval_seed,
        maps=own_maps(),
    message:
        "Record: {wildcards.method} on {wildcards.map}"
    shell:
        "python -m dm2core replay --who {input.policy:q} --map {wildcards.map} --seed {params.seed}"
        " {params.maps} --out {output.recording:q} > {log:q} 2>&1"


rule replay_pair:
    input:
        battles=[f"{RESULTS}/battles/{{map}}/{method}.npz" for method in ("ippo", "dm2")],
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
        maps=own_maps(),
    message:
        "Replay: IPPO and DM2 on {wildcards.map}"
    shell:
        "python -m dm2core replay --who {input.battles:q} --map {wildcards.map} {params.maps} --out {output.gif:q}"
        " > {log:q} 2>&1"
