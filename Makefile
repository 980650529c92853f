# Everything here sets itself up: `make demo`, `make run`, `make test`, `make bench`, `make check`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin

.PHONY: demo run test test-long mutations torture check check-gpu extras bench notebooks clean

# One stamp an extra, so that each target installs what it needs and no more.
$(VENV)/.made:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.with-%: $(VENV)/.made pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[$*]'
	@touch $@

demo: $(VENV)/.with-demo
	$(BIN)/mmsb demo

# Seconds to half an hour: SIZE=tiny, small, 20m.
SIZE ?= small
run: $(VENV)/.with-demo
	$(BIN)/python -m mmsb_jax.demo.language --size $(SIZE)

# A worker a file: the tests of one share what they compile.
TESTS ?= tests
test: $(VENV)/.with-dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(TESTS)

test-long: $(VENV)/.with-dev
	$(BIN)/python -m pytest -m long -s

# Minutes: breaks the package in thirty places, one after another, and sees the tests fail.
mutations: $(VENV)/.with-dev
	$(BIN)/python -m tests.mutations

# Hours; it says how many. A tenth: `make torture SCALE=0.1`. Some entries: `make torture ENTRIES="5 6"`.
SCALE ?= 1
torture: $(VENV)/.with-dev $(VENV)/.with-fuzz
	TORTURE_SCALE=$(SCALE) $(BIN)/python -m tests.torture $(ENTRIES)

check: $(VENV)/.with-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports --no-logo

# Compiles the programs of the hot path for a GPU; none is needed, but some gigabytes of packages,
# and a Python that has JAX 0.11 or newer: `make check-gpu PYTHON=python3.13`.
.venv-gpu/.made:
	$(PYTHON) -m venv .venv-gpu
	.venv-gpu/bin/python -m pip install --quiet --disable-pip-version-check 'jax[cuda13]' -e .
	@touch $@

check-gpu: .venv-gpu/.made
	.venv-gpu/bin/python -m tools.check_gpu

# A new pip: older ones download whatever they resolve.
extras: $(VENV)/.made
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python .ci/extras.py

# Five minutes. The large forms: `make bench BENCH=--long`. Accept a run: `make bench BENCH=--accept`.
BENCH ?=
bench: $(VENV)/.with-bench
	$(BIN)/python -m benchmarks $(BENCH)

notebooks: $(VENV)/.with-docs
	$(BIN)/python notebooks/run.py

clean:
	rm -rf .venv .venv-* build dist .pytest_cache .hypothesis .ruff_cache
