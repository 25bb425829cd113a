# make sweep: install, then nine runs, their table and figures.   make test: install, then every check.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
# make test RESOLUTION=lowest-direct tests the oldest dependencies that pyproject.toml allows.
RESOLUTION ?= highest
# Python compiles a module when it is first imported; pip would compile many that are never imported. The result must be
# cached, since over a hundred processes import the same modules.
unexport PYTHONDONTWRITEBYTECODE
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# uv takes a fifth of pip's time but ignores pip's settings: pip installs where they name an index, or where uv fails.
UV := $(BIN)/uv pip install --quiet --resolution $(RESOLUTION) --python $(BIN)/python
install = { ! $(BIN)/python -m pip config list | grep -q '[.]index-url=' && $(PIP) uv && $(UV) $(1); } || { test $(RESOLUTION) = highest && $(PIP) $(1); }

.PHONY: sweep test test-ray lint install clean

sweep: $(VENV)/.installed
	$(BIN)/python -m aetlab.run -m dose=inf,50k,7k reg=tv,lasso,pos
	$(BIN)/python -m aetlab.report

# The linters run as tests (tests/test_linters.py), at the same time as the other tests. Three processes keep two cores busy
# where one of them waits.
# Python compiles the tests once while the kernels are compiled; the three processes would all compile them.
test: $(VENV)/.installed-test
	$(BIN)/python -m aetlab.cli.precompile & kernels=$$!; $(BIN)/python -m pytest -q --collect-only > /dev/null; wait $$kernels
	$(BIN)/python -m pytest -q -n 3 --dist worksteal

# Ray has an environment of its own: its plugin needs other versions of packages that the tests use. Compiled kernels lie
# in the package, by the versions of Python and Numba, so that both environments share them where they agree.
test-ray:
	$(MAKE) VENV=.venv-ray .venv-ray/.installed-ray
	.venv-ray/bin/python -m aetlab.cli.precompile
	.venv-ray/bin/python -m pytest -q tests/test_ray.py

lint: $(VENV)/.installed-test
	$(BIN)/python -m pytest -q tests/test_linters.py

install: $(VENV)/.installed

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "aetlab needs Python 3.11 or newer; this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.made pyproject.toml
	$(call install,-e .)
	$(BIN)/python -m aetlab.doctor --try
	@touch $@

$(VENV)/.installed-test: $(VENV)/.made pyproject.toml
	$(call install,-e '.[test]')
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-ray: $(VENV)/.made pyproject.toml
	$(call install,-e '.[test-ray]')
	@touch $@

clean:
	rm -rf $(VENV) .venv-ray build dist *.egg-info
