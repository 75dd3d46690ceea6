# The two commands of the README: `make demo` and `make test`; `make bench` fills docs/performance.md.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: demo test lint types imports tests soak bench bench-peer lock clean

demo: $(STAMP)
	$(BIN)/python -m actors.main live --demo
	$(BIN)/python -m actors.main replay journal/2024-05-01.db

test: lint types imports tests

$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $(STAMP)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

tests: $(STAMP)
	$(BIN)/python -m pytest -n 3 --dist worksteal

# The large counts: minutes to hours, not part of `make test`. They need the extras, which are in no lock file.
soak: $(STAMP)
	@$(BIN)/python -c "import distributed, optuna" 2>/dev/null || $(BIN)/python -m pip install --quiet \
		--disable-pip-version-check --no-build-isolation -e '.[search,dask]' || \
		echo "skipped: what needs optuna or distributed, which cannot be installed here"
	$(BIN)/python -m pytest -m soak -n 0 -s tests

# Every row of docs/performance.md: half an hour to an hour on a quiet machine.
bench: $(STAMP)
	$(BIN)/python tests/bench/run.py

# NautilusTrader in an environment of its own (it needs pandas < 3), then the rows that compare with it.
PEER  := build/peer/.venv
bench-peer: $(STAMP)
	@test -x $(PEER)/bin/python || $(PYTHON) -m venv $(PEER)
	@$(PEER)/bin/python -c "import nautilus_trader" 2>/dev/null || \
		$(PEER)/bin/python -m pip install --quiet --disable-pip-version-check "nautilus_trader==1.221.0" "pandas<3" || \
		{ rm -rf $(PEER); echo "skipped: NautilusTrader 1.221.0 cannot be installed here"; }
	@test ! -x $(PEER)/bin/python || $(BIN)/python tests/bench/run.py --only replay

# Pinned versions with hashes; no registry address is written.
lock: $(STAMP)
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-header --no-emit-index-url \
		--no-emit-find-links --no-emit-trusted-host --extra dev --output-file requirements.lock pyproject.toml

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
