# Every command makes .venv when it is missing. `make help` lists them.
PYTHON ?= python3
BIN := .venv/bin
NOTEBOOKS := $(wildcard notebooks/*.ipynb notebooks/solutions/*.ipynb)
NBVAL := --nbval --nbval-current-env --nbval-cell-timeout=600
# Two files at a time on one thread each: faster than one on two. conftest.py says which.
PAIRS := -n 2 --dist loadfile --no-loadscope-reorder
# The C library keeps freed memory: by default it gives each large tensor back to the system and asks anew.
KEEP := MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=8589934592 MALLOC_TOP_PAD_=268435456
EXECUTE := --to notebook --execute --inplace --NotebookClient.store_widget_state=False

.PHONY: help demo lab test browser notebooks bench peers everywhere kaggle single site publish clean

help:
	@echo "make demo       blind VGG-16: the Albatross demonstration, results in out/ (about two minutes)"
	@echo "make lab        open JupyterLab on the notebooks"
	@echo "make test       lint, helpers, and every notebook against its committed outputs"
	@echo "make browser    move every slider of 03 and 04 in JupyterLab (needs Chromium and its driver)"
	@echo "make notebooks  execute all notebooks in place and write the outputs"
	@echo "make bench      measure strength and speed of the attack (slow)"
	@echo "make peers      ours beside other recipes, into data/bench/ (slow)"
	@echo "make everywhere run whole notebooks in rebuilt Colab and Kaggle places, in single files, in empty folders (slow)"
	@echo "make kaggle     pack a data set and the notebooks for Kaggle (OWNER=your Kaggle name)"
	@echo "make single     notebooks that need no other file, in out/single/"
	@echo "make site       all pages as static HTML with a search, in out/site/"
	@echo "make publish    write the address of the repository everywhere (REPO=owner/name)"
	@echo "make clean      remove .venv and out/"

.venv/.ready: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[dev]"
	@touch $@

demo: .venv/.ready
	@$(KEEP) $(BIN)/python tools/demo.py

lab: .venv/.ready
	$(BIN)/jupyter lab notebooks

test: .venv/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(KEEP) OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(NBVAL) $(PAIRS) notebooks tests

browser: .venv/.ready
	$(KEEP) $(BIN)/python -m pytest -rs tests/browser.py

notebooks: .venv/.ready
	$(BIN)/python tools/sync_notebooks.py
	for notebook in $(NOTEBOOKS); do $(BIN)/jupyter nbconvert $(EXECUTE) --log-level=WARN $$notebook || exit 1; done
	$(BIN)/python tools/sync_notebooks.py

bench: .venv/.ready
	$(BIN)/python tests/bench.py

peers: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[bench]"
	$(BIN)/python tests/peers.py

everywhere: .venv/.ready
	$(BIN)/python tests/everywhere.py

kaggle: .venv/.ready
	@$(BIN)/python tools/pack_kaggle.py $(if $(OWNER),--owner "$(OWNER)")

single: .venv/.ready
	@$(BIN)/python tools/single_file.py

site: .venv/.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e ".[site]"
	$(BIN)/python -m sphinx -q -W --keep-going -b html -c site -d out/doctrees . out/site
	cp out/site/README.html out/site/index.html
	@echo "out/site/index.html"

publish: .venv/.ready
	@$(BIN)/python tools/publish.py "$(REPO)"

clean:
	rm -rf .venv out
