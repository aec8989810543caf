# With packs.cells > 0: one job per pack of cells instead of one per cell. A pack's files are not deleted before it runs
# again (update), and a cell that is finished is left alone, because one more seed shifts every pack.
for number, pack in enumerate(grid.packs(CONFIG)):

    rule:
        name:
            f"train_pack_{number}"
        input:
            demos=pack_demos(pack),
        output:
            metrics=update(cell_files("metrics.parquet", pack)),
            policy=update(cell_files("policy.safetensors", pack)),
            manifest=update(cell_files("manifest.json", pack)),
        log:
            f"{RESULTS}/logs/train_pack/{number}.log",
        benchmark:
            f"{RESULTS}/benchmarks/packs/{number}.tsv"
        conda:
            "../../environment.yml"
        threads: CONFIG.packs.threads
        resources:
            mem_mb=pack_memory(pack),
            runtime=minutes_for(CONFIG.budget_on(pack[0].map_name).env_steps),
            gpu=int(CONFIG.packs.device == "cuda"),
        params:
            digest=pack_digest(pack),
            cells=pack_options(pack),
            map=pack[0].map_name,
            device=CONFIG.packs.device,
        message:
            f"Pack {number}: {len(pack)} cells on {pack[0].map_name}"
        shell:
            'python -m dm2core train-pack --config "$DM2_CONFIG" --map {params.map} {params.cells:q}'
            " --device {params.device} --threads {threads} --replace > {log:q} 2>&1"

    workflow.ruleorder(f"train_pack_{number}", "train_cell")
