# Med-RLVR. `make help` lists the targets; `make TARGET key=value` hands Hydra overrides through.
PYTHON ?= python3
PY := .venv/bin/python
# All command-line variables are overrides, but for those that make itself uses.
OVERRIDES = $(filter-out PYTHON=% PY=% EXPERIMENT=% HARDWARE=%,$(MAKEOVERRIDES))
BANK := data/bank/manifest.json
# On a machine with a CUDA GPU the paper's experiment is the default, elsewhere the laptop's.
export EXPERIMENT ?= $(if $(wildcard /dev/nvidia0),paper,laptop)

.DEFAULT_GOAL := help
.PHONY: help setup prep plan rlvr sft sft-grid eval report card test e2e lint bench lock laptop-model clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

setup: .venv/ready ## create .venv and install the lock for this machine (about 3 minutes, 4 GB)

.venv/ready: requirements/install.py requirements/cpu.lock requirements/gpu.lock
	@$(PYTHON) requirements/install.py

$(BANK): .venv/ready $(wildcard data_prep/*.py data_prep/sources/*.py dev/laptop/facts/*.yaml) recipes/laptop_model/tokenizer.json
	@$(PY) -m data_prep.run data=bank experiment=laptop

prep: setup ## prepare a data set: make prep data=medqa data.source=FOLDER
	@$(PY) -m data_prep.run $(OVERRIDES)

plan: setup ## memory, time and disk of a run: make plan experiment=paper hardware=8x80gb
	@$(PY) -m recipes.plan $(OVERRIDES)

rlvr: setup $(BANK) ## train by PPO with the verifiable reward
	@$(PY) -m recipes.rlvr $(OVERRIDES)

sft: setup $(BANK) ## train the SFT baseline
	@$(PY) -m recipes.sft $(OVERRIDES)

sft-grid: setup $(BANK) ## SFT baseline over learning rates and epochs, the best on dev is kept
	@$(PY) -m recipes.sft_grid $(OVERRIDES)

eval: setup $(BANK) ## evaluate base, SFT and RLVR: accuracy with n and 95 % interval
	@$(PY) -m eval.run $(OVERRIDES)
report: setup ## training dynamics of a run: make report run=runs/rlvr/NAME (several: run=[A,B])
	@$(PY) -m eval.dynamics.report $(OVERRIDES)
card: setup ## model card of a trained model: make card run=runs/rlvr/NAME
	@$(PY) -m eval.card $(OVERRIDES)

test: setup $(BANK) ## unit tests (a minute), then one end-to-end run (6 minutes)
	@$(PY) -m pytest -q --numprocesses auto --maxprocesses 8 --dist loadfile
	@$(PY) -m pytest -q -m e2e tests/test_e2e.py

e2e: setup $(BANK) ## every end-to-end test: training, resume, two ranks, real servers (an hour)
	@$(PY) -m pytest -q -m 'e2e or slow'

lint: setup ## ruff and mypy
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

bench: setup ## the benchmarks, each against what people use instead
	@for file in bench/*.py; do echo "== $$file"; $(PY) $$file || exit 1; done

lock: setup ## resolve requirements/*.in anew
	@$(PY) requirements/lock.py

laptop-model: setup ## make recipes/laptop_model again (half an hour)
	@$(PY) -m dev.laptop.documents && $(PY) -m dev.laptop.pretrain

clean: ## remove prepared data and caches; runs/ and .venv stay
	@rm -rf data .pytest_cache .ruff_cache .mypy_cache .hypothesis
