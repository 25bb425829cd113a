# make sweep: from a fresh clone to nine runs, their table and figures.   make test: every check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# Python compiles what is imported when it first is: most of what pip would compile never is. It must be let keep that:
# over a hundred processes import the same.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile

.PHONY: sweep test lint install clean

sweep: $(VENV)/.installed
	$(BIN)/python -m aetlab.run -m dose=inf,50k,7k reg=tv,lasso,pos
	$(BIN)/python -m aetlab.report

# The linters need few packages: they run while the others are installed.
test:
	@$(MAKE) --no-print-directory -j2 --output-sync=target lint $(VENV)/.installed-test
	$(BIN)/python -m pytest -q -n 2 --dist worksteal

lint: $(VENV)/.installed-lint
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

install: $(VENV)/.installed

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "aetlab needs Python 3.11 or newer; this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	$(PIP) -e .
	$(BIN)/python -m aetlab.doctor --try
	@touch $@

$(VENV)/.installed-lint: $(VENV)/.made pyproject.toml
	$(PIP) -e '.[lint]'
	@touch $@

$(VENV)/.installed-test: $(VENV)/.installed-lint
	$(PIP) -e '.[test]'
	@touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) build dist *.egg-info
