# Every command sets up .venv when it is missing. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest
# Each notebook and each file of tests runs on one of two workers; a cell may take ten minutes on a slow machine.
PAIR := -n 2 --dist loadfile --no-loadscope-reorder
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout=600
MAIN := $(wildcard notebooks/*.ipynb)
REST := $(wildcard notebooks/appendix/*.ipynb notebooks/solutions/*.ipynb)
# The C library gives each large tensor back to the system and asks for it anew; keeping up to 1 GB saves a tenth.
KEEP := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=1073741824

.PHONY: help demo lab check lint test test-all places browser notebooks bench peers kaggle single site publish clean clean-all

help:
	@echo "make demo       the albatross: zero its features, write out/ (a minute or two)"
	@echo "make lab        open the notebooks in JupyterLab"
	@echo "make check      linter and unit tests (a minute)"
	@echo "make test       linter, all tests of the helpers, the main notebooks against their outputs"
	@echo "make test-all   make test, then solutions and appendices, make places, make browser"
	@echo "make places     whole notebooks in rebuilt Colab and Kaggle places, as single files, offline (an hour)"
	@echo "make browser    move the sliders of 02 to 06 in JupyterLab (needs Chromium and its driver)"
	@echo "make notebooks  run all notebooks in place and write their outputs"
	@echo "make bench      measure the strength of the attack (hours)"
	@echo "make peers      ten photos under six other recipes (hours)"
	@echo "make kaggle     pack a data set and the notebooks for Kaggle (OWNER=your Kaggle name)"
	@echo "make single     notebooks that need no other file, in out/single/"
	@echo "make site       all pages as static HTML with a search, in out/site/"
	@echo "make publish    write the address of the repository everywhere (REPO=owner/name)"
	@echo "make clean      remove .venv and caches; make clean-all removes out/, too"

# For readers; .dev adds what tests and tools need.
.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(INSTALL) ".[lab]"
	@touch $@

.venv/.dev: .venv/.ready
	$(INSTALL) ".[dev]"
	@touch $@

demo: .venv/.ready
	@$(KEEP) $(BIN)/python tools/demo.py

lab: .venv/.ready
	$(BIN)/jupyter lab notebooks

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

check: lint
	OMP_NUM_THREADS=1 $(PYTEST) $(PAIR) tests

test: lint
	$(KEEP) OMP_NUM_THREADS=1 $(PYTEST) $(PAIR) $(NBVAL) -m "not places" $(MAIN) tests

test-all: test
	$(KEEP) OMP_NUM_THREADS=1 $(PYTEST) $(PAIR) $(NBVAL) $(REST)
	$(MAKE) places browser

places: .venv/.dev
	$(PYTEST) -m places tests
	$(BIN)/python tests/everywhere.py

browser: .venv/.dev
	$(KEEP) $(PYTEST) -rs tests/browser.py

notebooks: .venv/.dev
	$(BIN)/python tools/sync_notebooks.py
	$(BIN)/jupyter nbconvert --to notebook --execute --inplace --NotebookClient.store_widget_state=False \
		--log-level=WARN $(MAIN) $(REST)
	$(BIN)/python tools/sync_notebooks.py

bench: .venv/.ready
	$(BIN)/python -m experiments bench

peers: .venv/.ready
	$(INSTALL) ".[peers]"
	$(BIN)/python -m experiments peers

kaggle: .venv/.dev
	@$(BIN)/python tools/pack_kaggle.py $(if $(OWNER),--owner "$(OWNER)")

single: .venv/.dev
	@$(BIN)/python tools/single_file.py

site: .venv/.ready
	$(INSTALL) ".[site]"
	$(BIN)/python -m sphinx -q -W --keep-going -b html -c site -d out/doctrees . out/site
	cp out/site/README.html out/site/index.html
	@echo "out/site/index.html"

publish: .venv/.dev
	@$(BIN)/python tools/publish.py "$(REPO)"

clean:
	rm -rf .venv .pytest_cache .ruff_cache *.egg-info build
	find . -name __pycache__ -prune -exec rm -rf {} +

clean-all: clean
	rm -rf out
