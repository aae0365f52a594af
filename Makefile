# Two commands: `make demo` sets everything up and runs the main job, `make test` sets everything up and tests.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Every file that is installed is held against the hashes of a lock file.
INSTALL := $(BIN)/python -m pip install --quiet --no-deps
LOCKED := $(INSTALL) --require-hashes --requirement

.PHONY: demo test test-vllm lint docs lock clean

demo: $(VENV)/.installed
	$(BIN)/python -m cascade.simulate

# CASCADE_LONG=1 draws a thousand examples of every property and a thousand promises.
test: $(VENV)/.installed-dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile

# vLLM pins other versions than ours: it has an environment of its own, which is kept in the user's cache.
test-vllm:
	PYTHON=$(PYTHON) .ci/vllm

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet --clean

lock: $(VENV)/.installed-dev
	$(BIN)/python -m pip install --quiet uv
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m experiments.lock

clean:
	rm -rf runs

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# Torch is fetched from wherever pip finds it, a CPU build among others, and its file is then held against the hashes.
# PyPI's torch for Linux loads CUDA's libraries; its CPU build has none.
define install
	$(BIN)/python -m pip download --quiet --no-deps --dest $(VENV)/torch --constraint constraints.txt torch
	$(LOCKED) requirements-torch.lock --no-index --find-links $(VENV)/torch
	rm -r $(VENV)/torch
	$(LOCKED) $(1)
	if $(BIN)/python -c "import sys, importlib.metadata as m; sys.exit('nvidia' not in str(m.requires('torch')))"; then \
		$(LOCKED) requirements-cuda.lock; fi
	$(INSTALL) --no-build-isolation --editable .
endef

$(VENV)/.installed: pyproject.toml requirements.lock | $(BIN)/python
	$(call install,requirements.lock)
	touch $@

$(VENV)/.installed-dev: pyproject.toml requirements-dev.lock | $(BIN)/python
	$(call install,requirements-dev.lock)
	touch $@ $(VENV)/.installed
