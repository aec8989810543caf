# The verbs: setup, demo, test, check, bench, figures, clean. Everything stays inside this folder.
PYTHON ?= python3
WORKERS ?= 2
ENV := .venv
LOCK := requirements.txt
BIN := $(ENV)/bin
STAMP := $(ENV)/.ready
TORCH := $(shell sed -n 's/^torch==//p' requirements.txt)
QUIET := --quiet host reason # jobs and the logs of failed ones are shown
export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PYTHONNOUSERSITE := 1
export PATH := $(CURDIR)/$(BIN):$(PATH)

# Without a home that can be written, everything that wants one gets a folder here.
ifneq ($(shell test -n "$$HOME" && test -d "$$HOME" && test -w "$$HOME" && echo yes),yes)
export HOME := $(CURDIR)/.cache/home
export XDG_CACHE_HOME := $(CURDIR)/.cache
export XDG_CONFIG_HOME := $(CURDIR)/.cache/config
export XDG_DATA_HOME := $(CURDIR)/.cache/data
export MPLCONFIGDIR := $(CURDIR)/.cache/matplotlib
endif

.PHONY: setup demo test test-smac test-slurm check compile lint drills drills-slurm bench bench-peers figures figures-from-reference campaign begun publish report mlflow clean
.DEFAULT_GOAL := help
.SILENT:

help:
	echo "make setup    the environment in .venv (the other verbs call it)"
	echo "make demo     regenerate figures/demo_ablation from nothing (SCALE=smoke: in minutes, shows nothing)"
	echo "make test     tests and checks"
	echo "make test-smac  the real StarCraft II's interface, against a stand-in for the game (docs/starcraft.md)"
	echo "make test-slurm   jobs killed on a Slurm of its own, 2 minutes (root; apt-get install slurm-wlm munge)"
	echo "make drills-slurm   everything that can happen to a job there, 17 minutes -> results/drills, docs/slurm.md"
	echo "make check    format, lint, types, import order, workflow lint"
	echo "make drills   kill -9, full disks, bit flips and leaks in large numbers -> results/drills/*.log"
	echo "make bench    speed of the simulator and the updates -> results/benchmarks/summary.json"
	echo "make bench-peers  JaxMARL's SMAX in .venv-bench, so that make bench compares with it"
	echo "make figures  redraw the figures from finished cells, without training"
	echo "make figures-from-reference  the published figures and verdict from results/reference, without training, and their bytes checked"
	echo "make campaign   the reproduction, stage by stage, resumable: hours (docs/campaign.md)"
	echo "make begun      the stage of it that is under way, resumable, in a folder of its own"
	echo "make publish    figures, verdict and computed pages of what make campaign has finished, to be committed"
	echo "make report   figures, verdict, battles and provenance as one HTML page that needs nothing else (SCALE=smoke)"
	echo "make mlflow   deliver finished cells to MLflow and open its pages at http://127.0.0.1:5000 (PORT=5000)"
	echo "make clean    remove caches; results/ and figures/ stay"

setup: $(STAMP)
	mkdir -p .cache/home

$(STAMP): $(LOCK) pyproject.toml
	mkdir -p .cache/home
	test -x $(BIN)/python || $(PYTHON) -m venv $(ENV) || { rm -rf $(ENV); \
	  echo "python3 -m venv failed: install Python 3.11 or 3.12 with its venv package" >&2; exit 1; }
	# No NVIDIA GPU: the CPU build of torch, a tenth of the download.
	if ! { command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; }; then \
	  $(BIN)/pip install -q "torch==$(TORCH)+cpu" 2>/dev/null || \
	  $(BIN)/pip install -q "torch==$(TORCH)+cpu" --extra-index-url https://download.pytorch.org/whl/cpu 2>/dev/null || \
	  echo "no CPU build of torch found; taking the default one"; \
	fi
	$(BIN)/pip install -q -r $(LOCK)
	$(BIN)/pip install -q --no-deps -e .
	touch $(STAMP)

demo: setup
	$(BIN)/dm2 status --watch --lines $(if $(SCALE),--set scale=$(SCALE)) & watch=$$!; trap "kill $$watch 2>/dev/null" EXIT; \
	trap "exit 130" INT; trap "exit 143" TERM; \
	$(BIN)/snakemake --cores all $(QUIET) \
	  $(if $(SCALE),--configfile config/scale/$(SCALE).yaml) -- figures/demo_ablation.pdf && \
	echo "figures/demo_ablation.pdf and .png are there; results/demos/*/*/card.md say who demonstrated"

figures: setup
	$(BIN)/snakemake --cores all --allowed-rules collect_scores plot_demo_ablation \
	  $(if $(SCALE),--configfile config/scale/$(SCALE).yaml) -- figures/demo_ablation.pdf

# Figures first: the verdict is over the cells that are finished when Snakemake starts.
report: setup
	config="$(if $(SCALE),--configfile config/scale/$(SCALE).yaml)"; snakemake="$(BIN)/snakemake $(QUIET)"; \
	page="$$($(BIN)/dm2 config $(if $(SCALE),--set scale=$(SCALE)) | sed -n 's/^results: //p')/report/report.html"; \
	$$snakemake --cores all $$config -- figures/demo_ablation.pdf && \
	$$snakemake --cores all --forcerun write_provenance $$config -- report_parts && \
	$$snakemake $$config --report "$$page" -- report_parts && echo "$$page"

# The campaign's figures, in the order of its stages.
STAGES := demo_ablation core core_extra ablation_elsewhere gail_only bc_pretrain demo_quality tuning state_action qmix_arch
REFERENCE := results/reference/campaign
# Figures of runs at scale quick, each with results of its own.
QUICK := switchboard methods
# Maps on which a battle of IPPO and of DM2 was recorded.
BATTLES := 3s_vs_3z
DRAWN := $(STAGES) $(QUICK) $(BATTLES:%=replay_%)
RULES := --allowed-rules collect_scores plot_demo_ablation collect_figure plot_figure verdict replay_pair
DRAW = rm -rf $(REFERENCE)/tables $(REFERENCE)/verdict $(QUICK:%=results/reference/%/tables) $(DRAWN:%=figures/%.*) && \
  $(BIN)/snakemake $(STAGES:%=figures/%.pdf) $(BATTLES:%=figures/replay_%.gif) $(REFERENCE)/verdict/verdict.md --cores all \
    --configfile config/scale/campaign.yaml $(QUIET) $(RULES) && \
  for name in $(QUICK); do \
    $(BIN)/snakemake figures/$$name.pdf --cores all --config scale=quick results=results/reference/$$name \
      $(QUIET) $(RULES) || exit 1; \
  done

figures-from-reference: setup
	$(DRAW)
	cd figures && sha256sum --check --quiet ../results/reference/SHA256SUMS
	echo "in figures/, byte for byte the published ones: $(DRAWN); $(REFERENCE)/verdict/verdict.md judges"

# Demonstrations are kept as their battles, which are fought again for what was seen in them.
RECALL = kept="$$(find $(1)/demos -name battles.npz)"; test -z "$$kept" || $(BIN)/dm2 recall-demos $$(dirname $$kept)

# A clone gives files times that say nothing about what was made of what; digests decide what runs again.
campaign: setup
	$(call RECALL,$(REFERENCE))
	find $(REFERENCE)/cells -type f -exec touch {} +
	for figure in $(STAGES); do \
	  nice -n 19 $(BIN)/snakemake cells --configfile config/scale/campaign.yaml --config only_figure=$$figure \
	    --cores all --keep-going $(QUIET) || exit 1; \
	done
	for map in $(BATTLES); do \
	  battles="$(REFERENCE)/battles/$$map"; test -f $$battles/ippo.npz -a -f $$battles/dm2.npz || \
	  $(BIN)/snakemake $$battles/ippo.npz $$battles/dm2.npz --configfile config/scale/campaign.yaml --cores all \
	    --allowed-rules record_battle $(QUIET) || exit 1; \
	done

begun: setup
	mkdir -p results/reference/begun/cells results/reference/begun/demos
	$(call RECALL,results/reference/begun)
	find results/reference/begun/cells -type f -exec touch {} +
	nice -n 19 $(BIN)/snakemake cells --configfile config/scale/campaign.yaml config/begun.yaml --cores all \
	  --keep-going $(QUIET)

publish: setup
	$(DRAW)
	$(BIN)/python workflow/scripts/publish.py --scale campaign --figures $(DRAWN) --readme README.md --page docs/results.md \
	  --quick $(QUICK:%=results/reference/%) --switches docs/deviations.md --scales docs/scales.md

mlflow: setup
	$(BIN)/dm2 track $(if $(SCALE),--set scale=$(SCALE))
	uri="$$($(BIN)/dm2 config $(if $(SCALE),--set scale=$(SCALE)) | sed -n "/^mlflow:/{n;s/^  uri: //p}" | tr -d "\"'")"; \
	case "$$uri" in http*) echo "its pages: $$uri"; exit 0;; esac; \
	echo "the first experiment's charts: http://127.0.0.1:$(or $(PORT),5000)/#/experiments/1/runs?workflowType=machine_learning&compareRunsMode=CHART"; \
	echo "the others: choose Model training at the top left (docs/mlflow.md); Ctrl-C ends the server"; \
	MLFLOW_DISABLE_TELEMETRY=1 DO_NOT_TRACK=1 $(BIN)/mlflow ui --host 127.0.0.1 --port $(or $(PORT),5000) \
	  --backend-store-uri "$${uri:-sqlite:///$$($(BIN)/dm2 config $(if $(SCALE),--set scale=$(SCALE)) | sed -n 's/^results: //p')/mlflow/mlflow.db}"

# The kernels, once and beside the checks: each of the tests' processes would compile them, at the same time.
compile: setup
	OMP_NUM_THREADS=1 $(BIN)/dm2 train --config config/config.yaml --set scale=smoke --map 3m --method dm2_sil --seed 1 \
	  --out .cache/compile >.cache/compile.log 2>&1 || { cat .cache/compile.log >&2; exit 1; }

check: setup
	$(BIN)/ruff format -q --check .
	$(BIN)/ruff check -q .
	$(BIN)/mypy --no-error-summary
	$(BIN)/lint-imports --no-logo >.cache/imports.log 2>&1 || { cat .cache/imports.log; exit 1; }
	$(BIN)/snakefmt --check Snakefile workflow/rules 2>.cache/snakefmt.log || { cat .cache/snakefmt.log; exit 1; }
	$(BIN)/codespell
	$(BIN)/snakemake --lint >.cache/lint.log 2>&1 || { cat .cache/lint.log; exit 1; }
	$(BIN)/python workflow/scripts/ban_unsafe.py dm2core workflow tests benchmarks
	echo "checks passed"

test: setup
	$(MAKE) --no-print-directory -j2 check compile
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(WORKERS) --dist loadfile -m "not slow and not slurm and not smac and not drill"

drills: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m drill tests/drills

test-slurm: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m "slurm and not slow" tests/slurm

drills-slurm: setup
	mkdir -p results/drills
	OMP_NUM_THREADS=1 bash -o pipefail -c '$(BIN)/pytest -v -s -m slurm tests/slurm 2>&1 | tee results/drills/slurm.log'

bench: setup
	mkdir -p results/benchmarks
	$(BIN)/python -m benchmarks

# The real game's interface against a stand-in, in an environment of its own: smac comes from its repository, by commit.
.PHONY: test-smac
SMAC := git+https://github.com/oxwhirl/smac.git@d6aab33f76abc3849c50463a8592a84f59a5ef84
test-smac:
	$(MAKE) --no-print-directory ENV=.venv-smac LOCK=requirements-smac.txt setup
	.venv-smac/bin/pip install -q -r tests/smac/requirements.txt
	.venv-smac/bin/python -c "import smac.env" 2>/dev/null || .venv-smac/bin/pip install -q "$(SMAC)" || \
	  echo "smac cannot be had from its repository: its tests are skipped; SMAC=FOLDER names a copy of that commit" >&2
	OMP_NUM_THREADS=1 .venv-smac/bin/python -m pytest -q -m smac tests/smac

bench-peers: .venv-bench/.ready

.venv-bench/.ready: benchmarks/requirements-peers.txt
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	.venv-bench/bin/pip install -q -r benchmarks/requirements-peers.txt
	touch $@

clean:
	rm -rf .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache .snakemake/log
	find dm2core workflow tests -name __pycache__ -type d -prune -exec rm -rf {} +
