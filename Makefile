# Each target sets up its own environment from a fresh clone; nothing but Python 3.11 or newer is needed.
PYTHON ?= python3
VENV   := .venv
OLDEST := .venv-oldest
BIN    := $(VENV)/bin

.PHONY: demo test test-pages lint bench results docs export web site test-oldest clean

demo: $(VENV)/.installed
	$(BIN)/rnas-zoo demo

test: $(VENV)/.installed
	$(BIN)/python -m pytest

# The code blocks of the documentation, with budgets cut down.
test-pages: $(VENV)/.installed
	$(BIN)/python -m pytest -m pages --dist worksteal

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/.installed
	@for script in benchmarks/*.py; do echo "== $$script"; $(BIN)/python $$script || exit 1; done

# The tables of results, from the evidence in model_cards/.
results: $(VENV)/.installed
	$(BIN)/python -m rnas_zoo.hub.results_page docs/results.md README.md

# The reference of commands and of the Python interface, from the code.
docs: $(VENV)/.installed
	$(BIN)/python docs/reference.py

# The index of ONNX files, from the files and the evidence in model_cards/.
export: $(VENV)/.installed
	$(BIN)/python -m rnas_zoo.hub.export_index export/index.json

# The web page, into export/web/dist/; onnxruntime-web comes from npm.
web: $(VENV)/.installed
	$(BIN)/python export/web/build.py

# The zoo page, into site/: a leaderboard and a page per model; with the web page if `make web` has built it.
site: $(VENV)/.installed
	$(BIN)/rnas-zoo site -o site --overwrite $(if $(wildcard export/web/dist/index.html),--web-demo export/web/dist)

test-oldest: $(OLDEST)/.installed
	$(OLDEST)/bin/python -m pytest
	$(OLDEST)/bin/python -m pytest -m pages --dist worksteal

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "rnas_zoo needs Python 3.11 or newer: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test]'
	touch $@

$(VENV)/.installed-lint: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,lint]'
	touch $@

# The lower bounds of pyproject.toml, as constraints.
$(OLDEST)/.installed: pyproject.toml
	$(PYTHON) -m venv $(OLDEST)
	$(PYTHON) -c 'import re, tomllib; \
	  specs = tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]; \
	  bounds = [re.match(r"([\w-]+)>=([\d.]+)", spec).groups() for spec in specs]; \
	  print("\n".join(f"{name}=={version}.*" for name, version in bounds))' > $(OLDEST)/oldest.txt
	$(OLDEST)/bin/python -m pip install --quiet --disable-pip-version-check -c $(OLDEST)/oldest.txt -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) demo site
