# Every target works in a fresh clone: the environment is made first where it is missing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready

.PHONY: demo test lint install clean

install: $(READY)

# torch goes first, in the version that constraints.txt pins, so that no other package chooses one. On Linux the package
# index may hand out a CUDA build of several GB: point pip at a CPU build (PIP_INDEX_URL, PIP_FIND_LINKS) to avoid it.
$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt torch
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $(READY)

demo: $(READY)
	rm -rf runs/demo submissions/demo
	$(BIN)/emukit train cnn-gru --data demo --members 0,1,2 --out runs/demo
	$(BIN)/emukit submit runs/demo --out submissions/demo
	$(BIN)/emukit score submissions/demo/submission.csv demo --save
	$(BIN)/emukit leaderboard runs/demo submissions/demo --no-published

lint: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# One thread a worker: the arrays are small, and two workers keep two cores busy.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --durations=8

# The environment alone: runs/ holds hours of training.
clean:
	rm -rf $(VENV)
