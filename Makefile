# A clean checkout needs only python 3.11 or newer and make. `make demo` trains an encoder, `make test` runs the tests.
# SETTINGS are further settings of the demo: make demo SETTINGS="--trainer.seed 1".
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
RUN ?= runs/demo-$(shell date +%Y%m%d-%H%M%S)
SETTINGS ?=

.PHONY: demo test test-slow test-all lint types docs site clean

demo: $(VENV)/.installed
	$(BIN)/ssl-inv pretrain demo --output $(RUN) $(SETTINGS)

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m "not slow" -n auto --maxprocesses 8 --dist worksteal

test-slow: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -m slow -n auto --maxprocesses 8 --dist worksteal

test-all: test test-slow

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/lint-imports

types: $(VENV)/.installed-dev
	$(BIN)/mypy
	$(BIN)/mypy --config-file benchmarks/mypy.ini benchmarks docs

docs: $(VENV)/.installed
	$(BIN)/python docs/build.py

site: $(VENV)/.installed-site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev,heic,notebook,onnx,tensorboard,video,wandb]"
	touch $@ $(VENV)/.installed

$(VENV)/.installed-site: $(VENV)/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[site]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
