# `make demo` and `make test` do all the set-up that they need. Everything is installed through constraints.txt.
PYTHON ?= python3
VENV ?= .venv
OUT ?= out/demo
BIN = $(VENV)/bin

.PHONY: demo test lint audit bench clean

demo: $(VENV)/.installed
	$(BIN)/offramp demo --out $(OUT)

test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python benchmarks/reliability/supply.py

# Asks a database of known holes, which takes the network; in an environment of its own, for it brings much.
audit:
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip install -q --disable-pip-version-check pip-audit
	$(VENV)-audit/bin/pip-audit --no-deps --disable-pip -r constraints.txt

bench: $(VENV)/.installed
	$(BIN)/python benchmarks/stages.py
	$(BIN)/python benchmarks/cold_start.py

# torch is asked for first and alone: with its pinned version installed, nothing below pulls another build of it.
$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[train,compress,openvino,video,report,ray,test]'
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-audit out build
