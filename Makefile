# Two commands: `make book` and `make test`. Each sets up all it needs; `make help` lists the rest.
PYTHON ?= python3
JOBS ?= 2
PROFILE ?= quick
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help setup book test results long-results check-results bench look pdf browser lint format plotly check-lock lock serve clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-13s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo
	@echo "  options: PYTHON=python3.12 (for a new .venv), JOBS=4, PROFILE=quick|paper|gpu (make book), PORT=8000 (make serve), ONLY=name (make results)"

setup: $(READY)  ## the virtual environment .venv with the exact versions of requirements.lock

# Installed again only when the lock file or pyproject.toml changes.
$(READY): requirements.lock pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "There is no $(PYTHON) here. Choose a Python 3.11 to 3.13: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "$(PYTHON) is not a Python 3.11 to 3.13. Choose one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(PY) || $(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  echo "Python cannot make virtual environments. On Debian or Ubuntu: sudo apt-get install python3-venv"; exit 1; }
	@echo "Installing the packages of requirements.lock into $(VENV) ..."
	@$(PY) -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

book: setup  ## execute the notebooks that changed and build the pages: _build/html/index.html
	$(PY) book/build.py --jobs $(JOBS) --profile $(PROFILE)

test: book browser  ## all tests, those of the built pages in a headless browser included
	$(PY) -m pytest -n $(JOBS) --dist worksteal

results: setup  ## make data/results anew, all or ONLY=name; what an interrupted call finished is kept
	$(PY) -m study.experiments make --jobs $(JOBS) $(ONLY)

# In this order, because a table's settings are those that another one chose; two and four bits of cifar come last.
LONG := tuning tuning_second tuned_subset adaptive_wide cifar_trial cifar adaptive_small_tuning adaptive_small \
        characters_tuning characters tuning_two_bits tuned_subset cifar adaptive_vae_mnist

long-results: setup  ## the tables of many hours, unit by unit: stop it at any moment, and the same command goes on
	@$(PY) -m study.experiments list $(sort $(LONG))
	@for name in $(LONG); do $(PY) -m study.experiments make --jobs $(JOBS) $$name || exit $$?; done

check-results: setup  ## recompute a sample of data/results and report what differs
	$(PY) -m study.experiments check --jobs $(JOBS) $(ONLY)

bench: setup  ## time many seeds in one run against one by one, and a step of each method against SGD; measure its memory
	$(PY) -m study.speed.bench
	KINETO_LOG_LEVEL=99 $(PY) -m study.speed.memory  # torch's profiler is talkative

look: book browser  ## a table of each page: time to the first figure, longest task, weight, what is cut, words
	$(PY) book/look.py

pdf: book browser  ## the whole book as one PDF, which the pages then link: _build/html/quantised-training-reproduced.pdf
	$(PY) book/pdf.py

browser: setup  ## find a Chromium for the page tests, or install one
	@$(PY) tests/browser.py

lint: setup  ## style of the code, and notebooks in their normal form
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) book/notebook_style.py notebooks/*.md book/index.md book/playground.md

format: setup  ## correct what `make lint` finds, where a machine can
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .
	$(PY) book/notebook_style.py --write notebooks/*.md book/index.md book/playground.md

# Needs node. The version is that of the plotly.js within the locked plotly, so that pages and notebooks draw alike.
PLOTLY = $$($(PY) -c 'from plotly.offline import get_plotlyjs_version as v; print(v())')

plotly: setup  ## bundle the part of plotly.js that the book draws with (book/plotly.js), after plotly was renewed
	npm install --prefix _build/plotly --no-audit --no-fund --ignore-scripts plotly.js@$(PLOTLY) esbuild@0.28.2 stream-browserify@3
	rm -f book/_static/plotly-*.min.js
	NODE_PATH=_build/plotly/node_modules _build/plotly/node_modules/.bin/esbuild book/plotly.js --bundle --minify --format=iife \
	  --global-name=Plotly --target=es2020 --define:global=window --define:define.amd=false --alias:stream=stream-browserify \
	  --banner:js="/*! plotly.js $(PLOTLY), a part of it (book/plotly.js). Copyright Plotly, Inc. MIT license. */" --outdir=_build/plotly/out
	mv _build/plotly/out/plotly.js book/_static/plotly-$(PLOTLY).min.js

check-lock: setup  ## is there a wheel for every pinned version, on every system that README names (asks the package index)
	$(PY) tests/wheels.py

# torch stays at the version that requirements.lock names; all others move to their newest.
lock:  ## renew requirements.lock from the ranges in pyproject.toml
	rm -rf _build/lock && $(PYTHON) -m venv _build/lock
	_build/lock/bin/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.lock)" '.[dev]'
	{ sed -n '/^#/p' requirements.lock; \
	  _build/lock/bin/python -m pip freeze --exclude quantized-training | sed 's/+[^ ]*$$//' | grep -v '^nvidia-\|^cuda-\|^triton'; } > _build/requirements.lock
	mv _build/requirements.lock requirements.lock
	rm -rf _build/lock

serve: book  ## read the book at http://localhost:8000 (PORT=...)
	$(PY) -m http.server $(or $(PORT),8000) --bind 127.0.0.1 --directory _build/html

clean:  ## remove what was built; .venv stays
	rm -rf _build build
