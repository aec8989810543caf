"""figures/demo_ablation from nothing: experts, demonstrations, cells, tables, figure. See README.md."""

from snakemake.utils import min_version

min_version("9.0")


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/experts.smk"
include: "workflow/rules/demos.smk"
include: "workflow/rules/train.smk"
include: "workflow/rules/packs.smk"
include: "workflow/rules/tables.smk"
include: "workflow/rules/figures.smk"
include: "workflow/rules/curves.smk"
include: "workflow/rules/theory.smk"
include: "workflow/rules/replay.smk"
include: "workflow/rules/simulator.smk"
include: "workflow/rules/verdict.smk"
include: "workflow/rules/tracking.smk"
include: "workflow/rules/report.smk"


localrules:
    all,
    cells,


rule all:
    default_target: True
    input:
        "figures/demo_ablation.pdf",
        "figures/demo_ablation.png",


rule cells:
    input:
        cell_files("manifest.json", SELECTED),
