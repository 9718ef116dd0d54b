# Every target works in a fresh clone: the environment is made first where it is missing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# What the command needs, and what developing it needs besides.
READY  := $(VENV)/.ready
DEV    := $(VENV)/.dev

.PHONY: demo test test-fast lint docs install clean

install: $(DEV)

# torch goes first, in the version that constraints.txt pins, so that no other package chooses one. On Linux the package
# index may hand out a CUDA build of several GB: point pip at a CPU build (PIP_INDEX_URL, PIP_FIND_LINKS) to avoid it.
$(READY): pyproject.toml constraints.txt
	@echo "making $(VENV) with emukit and what it needs: PyTorch is by far the largest download"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt torch
	$(BIN)/python -m pip install -c constraints.txt -e .
	@touch $(READY)

$(DEV): $(READY)
	@echo "adding what the tests and the optional parts need"
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $(DEV)

demo: $(READY)
	@rm -rf runs/demo submissions/demo
	@echo "1/5 training a CNN-GRU on the built-in demo climate, about two minutes on two cores"
	$(BIN)/emukit train cnn-gru --data demo --members 0,1,2 --out runs/demo
	@echo "2/5 writing and checking a submission"
	$(BIN)/emukit submit runs/demo --out submissions/demo
	@echo "3/5 scoring it against the truth, which the demo climate knows"
	$(BIN)/emukit score submissions/demo/submission.csv --data demo --save
	@echo "4/5 the leaderboard"
	$(BIN)/emukit leaderboard runs/demo submissions/demo --no-published
	@echo "5/5 the same as pages, with maps and curves"
	$(BIN)/emukit report runs/demo submissions/demo --no-published --out report/demo
	@echo "done. Open report/demo/index.html in a browser; the run is runs/demo, the submission submissions/demo."

lint: $(DEV)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# The pages of docs/ that are made from the code.
docs: $(DEV)
	$(BIN)/python docs/make_commands.py
	$(BIN)/python docs/make_cards.py
	$(BIN)/python docs/make_architecture.py

# The order of the tests: another every day, so that tests that lean on others are found, and a red day can be repeated.
ORDER ?= $(shell date -u +%Y%m%d)

# One worker takes all tests of a module: what they share is made once. The order of modules is that of tests/conftest.py.
DIVIDE = -n 2 --dist loadfile --no-loadscope-reorder
# One thread a worker: the arrays are small, and two workers keep two cores busy.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(DIVIDE) --durations=8 --randomly-seed=$(ORDER)

# What needs no process of its own, no training and no real store: under a minute, for while one writes.
FAST = tests/data tests/losses tests/metrics tests/recipes tests/submission tests/competitions $(wildcard tests/test_*.py)
test-fast: $(DEV)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q $(DIVIDE) -m "not slow and not real" --randomly-seed=$(ORDER) $(FAST)

# The environment alone: runs/ holds hours of training.
clean:
	rm -rf $(VENV)
