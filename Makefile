PYTHON ?= python3
PIP_INSTALL = .venv/bin/python -m pip install --quiet --constraint constraints.txt

.PHONY: help tutorial test check notebook bench soak results-quick
.DELETE_ON_ERROR:

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

tutorial: .venv/tutorial.stamp ## run the tutorial, e.g. make tutorial ARGS="--fast --section 1"
	.venv/bin/python transformers_and_attention_mechanisms.py $(ARGS)

test: .venv/dev.stamp ## run the tests, e.g. make test ARGS="tests/attention -k mask"
	.venv/bin/python -m pytest $(ARGS)

check: .venv/dev.stamp ## all that CI asks: style, types, layers, tests with coverage, notebook
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/basedpyright
	.venv/bin/lint-imports
	.venv/bin/python tools/build_notebook.py --check
	.venv/bin/coverage run -m pytest
	.venv/bin/coverage report

notebook: .venv/dev.stamp ## build the notebook from the script and execute it
	.venv/bin/python tools/build_notebook.py $(ARGS)

soak: .venv/dev.stamp ## kill a training run fifty times, and compare the weights to the bit
	.venv/bin/python tools/soak.py $(ARGS)

results-quick: .venv/dev.stamp ## score the models that ship again, about 6 minutes (QKV_DATA: the folder of the data)
	.venv/bin/python benchmarks/zoo.py $(ARGS)

bench: .venv/dev.stamp ## run every benchmark
	@for file in benchmarks/[!_]*.py; do \
		echo "== $$file"; .venv/bin/python "$$file" $(ARGS) || exit 1; \
	done

.venv/tutorial.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("qkv needs Python 3.11 or newer; %s is Python %s. Name a newer one: make PYTHON=python3.12" % (sys.executable, sys.version.split()[0]))'
	@test -x .venv/bin/pip || $(PYTHON) -m venv .venv
	@echo "Installing qkv and what the tutorial needs into .venv (once, some minutes)"
	@$(PIP_INSTALL) --editable '.[train,tutorial,zoo]'
	@touch $@

.venv/dev.stamp: .venv/tutorial.stamp
	@echo "Installing the tools of development into .venv"
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@
