# Everything runs in .venv, which the first target that needs it creates: make edit, make test.
# pip takes torch from wherever this machine's pip configuration points; a CPU build is enough for everything here.

PYTHON ?= $(shell for p in python3.11 python3 python3.12 python3.13; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# Named after the contents of both files: a changed pin or dependency installs again, a fresh checkout's new dates do not.
READY := .venv/.ready-$(firstword $(shell cat pyproject.toml constraints.txt | cksum))
OFFLINE := HF_HUB_OFFLINE=1
# The processes that tests start find what others have compiled, also where the environment forbids to keep it.
TEST := $(OFFLINE) OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n 2 --dist worksteal

.PHONY: edit test test-fast test-hostile test-browser lint types docs docs-pictures package clean
.DELETE_ON_ERROR:

edit: $(READY)  ## the five edits on sample photographs, into out/
	$(OFFLINE) $(BIN)/python -m photofound.demos.samples --out out

test: $(READY)  ## the whole suite but for browser and hostile
	$(TEST) -m "not browser and not hostile" $(PYTEST_ARGS)

test-fast: $(READY)  ## without the slow tests: under a minute on two cores
	$(TEST) -m "not browser and not hostile and not slow" $(PYTEST_ARGS)

test-hostile: $(READY)  ## long soaks of hostile pictures, requests and training data; each has a short part in make test
	$(TEST) -m hostile $(PYTEST_ARGS)

# Chromium is the distribution's; playwright only drives it and downloads nothing.
test-browser: $(READY)  ## the demo in a browser; as root on Debian it installs Chromium
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[browser]'
	@command -v chromium >/dev/null || { test "$$(id -u)" = 0 && apt-get update -q && apt-get install -qy chromium; } \
		|| { echo "Chromium is missing: install it, on Debian by 'apt-get install chromium' as root" >&2; exit 2; }
	$(OFFLINE) $(BIN)/python -m pytest -m browser tests/test_browser.py $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The wheel is built from a copy, since setuptools also packs what an earlier build left in build/lib.
types: $(READY)
	rm -rf build/types && mkdir -p build/types/source
	cp -R photofound tasks training demos pyproject.toml README.md LICENSE build/types/source
	rm -rf build/types/source/photofound/weights
	$(BIN)/pip wheel -q --no-deps --no-build-isolation --no-index -w build/types build/types/source
	$(BIN)/pip install -q --no-deps --no-index --target build/types/site build/types/*.whl
	cd build/types && MYPYPATH=site ../../$(BIN)/mypy --config-file ../../pyproject.toml --cache-dir ../../.mypy_cache -p photofound

# The reference is read from a copy in which tasks, training and demos are inside photofound, as they are once installed.
# What is built is looked at by tests of its own: links, names of the reference, the search's index.
docs: $(READY)
	rm -rf build/docs build/site && mkdir -p build/docs
	cp -R photofound build/docs && cp -R tasks training demos build/docs/photofound
	rm -rf build/docs/photofound/weights
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	! grep -rlE '<(link|script|img|iframe)[^>]+(href|src)="?(https?:)?//' build/site  # pages fetch nothing from elsewhere
	$(OFFLINE) $(BIN)/python -m pytest tests/built_pages.py

docs-pictures: $(READY)  ## the pictures of docs/tasks, by the embedded model
	$(OFFLINE) $(BIN)/python -m photofound.demos.pictures --out docs/pictures

# pyroma's ninth point is check-manifest's: the repository and the source distribution hold the same. A tenth would need an
# e-mail address of the project, which there is not.
package: $(READY)  ## the source distribution and the wheel, into dist/, and what is known to go wrong with them
	rm -rf dist *.egg-info
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[package]'
	$(BIN)/python -m build --no-isolation --outdir dist .
	$(BIN)/check-wheel-contents dist
	$(BIN)/twine check --strict dist/*
	PATH=$(CURDIR)/$(BIN):$$PATH $(BIN)/pyroma --min 9 .
	rm -rf *.egg-info

clean:
	rm -rf build dist out *.egg-info .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './.venv/*' -prune -exec rm -rf {} +

# torch goes first and alone, so that a machine's own build of it is taken before anything can ask for another.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "photofound needs Python 3.11 or later: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q -c constraints.txt torch setuptools
	$(BIN)/python -m pip install -q -c constraints.txt --no-build-isolation -e '.[test,dev,docs]'
	rm -f .venv/.ready-*
	touch $@
