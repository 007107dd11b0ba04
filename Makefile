# make run    set everything up and run it: Redis, worker, web, and a Label Studio with a demo project
# make benchmark   what this project does beside what others do, in one table: selection, label errors, accuracy, speed
# make demo   the same, labelled by itself to watch it: ends with core-set against random in one plot
# make dist   dist/: wheel, sdist, their bill of materials and checksums
# make docs   the documentation as a site, in build/site
# make test   set everything up and run all tests; `make test-fast`: those without Label Studio, browser and Docker
PYTHON ?= python3
LABEL_STUDIO_VERSION := 1.23.2
BIN := .venv/bin
SHELL := bash
.SHELLFLAGS := -o pipefail -c
# What pip has fetched so far, on one line that grows.
PROGRESS := awk '/^ *(Downloading|Using cached|Processing) / && !/\.metadata / { packages++; \
    if (match($$0, /\([0-9.]+ [kMG]B\)/)) { split(substr($$0, RSTART + 1, RLENGTH - 2), size, " "); \
    mb += size[1] * (size[2] == "GB" ? 1000 : size[2] == "MB" ? 1 : .001) } \
    printf "\r  %d packages, %d MB", packages, mb; fflush() } \
    /^Installing collected/ { printf "; unpacking" ; fflush() } END { print "" }'

# Set, as to https://download.pytorch.org/whl/cpu: torch of the locked version from that index, and nothing of CUDA.
ifdef TORCH_INDEX_URL
TORCH_FIRST := grep -oE '^torch(vision)?==[0-9.]+' requirements.txt > .venv/torch.txt && \
    $(BIN)/pip install --no-deps --index-url $(TORCH_INDEX_URL) -r .venv/torch.txt &&
LEFT_OUT := ^(torch|triton|nvidia-|cuda-)
DOWNLOAD := less than 1 GB
else
LEFT_OUT := ^$$
DOWNLOAD := about 3 GB
endif

.PHONY: run demo test all-tests test-fast docker-test soak matrix check lock licences docs dist benchmark install label-studio clean

run: install $(if $(LABEL_STUDIO_URL),,label-studio)
	$(BIN)/coreset-backend run

demo: install label-studio
	MODEL_DIR=data/demo $(BIN)/coreset-backend demo

# Many tests wait for processes, so five files at a time keep two cores busy; the longest files begin first.
# Hypothesis tries the same examples in every run, however long a busy machine takes to draw them.
PARALLEL := -n 5 --dist loadfile --no-loadscope-reorder --hypothesis-profile=ci
# One thread each: with more, the threads of five processes wait for each other on two cores, up to five times as long.
test test-fast: export OMP_NUM_THREADS := 1
# pytest keeps each test file with its assertions rewritten, or each of the five rewrites all of them at every run.
test test-fast: export PYTHONDONTWRITEBYTECODE :=

# mypy and the documentation fill the time in which tests wait; what fails in one of the three fails the whole.
test: install label-studio .venv/.dev .release/.installed
	$(MAKE) --no-print-directory --jobs=3 check docs all-tests

all-tests:
	$(BIN)/pytest $(PARALLEL) --durations=20

test-fast: install .venv/.dev
	$(BIN)/pytest $(PARALLEL) -m "not e2e and not slow and not browser" --ignore=tests/docker

# The images built, the stack brought up, killed and upgraded; takes a Docker engine, or root to start one.
docker-test: install label-studio .venv/.dev
	$(BIN)/pytest -m docker tests/docker

# Every fault in every phase of a round, a crowd of annotators; then the web process among slow clients, and for an hour under load and beside a training.
soak: install label-studio .venv/.dev
	$(BIN)/pytest -m soak
	$(BIN)/python benchmarks/load.py --soak 3600

# The story on several releases of Label Studio, from 1.12.1 to the newest, on SQLite and PostgreSQL: an hour.
matrix: install .venv/.dev
	$(BIN)/python tests/support/matrix.py

check: .venv/.dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

install: .venv/.installed
label-studio: .label-studio/.installed

.venv/bin/python:
	@$(PYTHON) -m venv .venv

.venv/.installed: requirements.txt pyproject.toml .venv/bin/python
	@echo "Installing the backend: $$(grep -c == $<) packages, $(DOWNLOAD) to download without a cache; some 2 minutes."
	@{ $(TORCH_FIRST) grep -vE '$(LEFT_OUT)' requirements.txt > .venv/locked.txt && \
	    $(BIN)/pip install --no-deps -r .venv/locked.txt; } | $(PROGRESS)
	@$(BIN)/pip install --quiet --no-deps --editable .
	@touch $@

.venv/.dev: requirements-dev.txt .venv/.installed
	$(BIN)/pip install --quiet --no-deps -r requirements-dev.txt
	touch $@

# An environment of its own: Label Studio pins old releases of Redis and RQ.
.label-studio/.installed:
	@echo "Installing Label Studio $(LABEL_STUDIO_VERSION) beside it: 160 packages, 250 MB; 1 to 3 minutes."
	@$(PYTHON) -m venv .label-studio
	@.label-studio/bin/pip install label-studio==$(LABEL_STUDIO_VERSION) | $(PROGRESS)
	@touch $@

# The locks are complete and installed without resolving: label-studio-ml's pins are lifted in overrides.txt.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate
lock: .venv/.dev
	$(BIN)/pip install --quiet uv
	$(LOCK) --override overrides.txt requirements-sdk.in -o requirements.txt
	$(LOCK) --override overrides.txt requirements-dev.in -c requirements.txt -o requirements-dev.txt
	$(LOCK) requirements-release.in -o requirements-release.txt
	for image in web worker ray build; do \
	    $(LOCK) --generate-hashes docker/requirements-$$image.in -c requirements.txt -o docker/requirements-$$image.txt || exit; \
	done

	$(LOCK) benchmarks/requirements.in -c requirements.txt -o benchmarks/requirements.txt \
	    $(addprefix --no-emit-package ,colorama numpy packaging pillow pybind11 scipy tqdm)

licences: .venv/.dev
	$(BIN)/python tests/support/licences.py

# Beside .venv's packages, not among them: PYTHONPATH=.peers adds them.
.peers/.installed: benchmarks/requirements.txt .venv/.installed
	$(BIN)/pip install --quiet --no-deps --upgrade --target .peers -r benchmarks/requirements.txt
	touch $@

benchmark: install label-studio .peers/.installed
	PYTHONPATH=$(CURDIR)/.peers $(BIN)/python benchmarks/table.py

.release/.installed: requirements-release.txt
	$(PYTHON) -m venv .release
	.release/bin/pip install --quiet --no-deps -r requirements-release.txt
	touch $@

VERSION := $(shell sed -n 's/^__version__ = "\(.*\)"/\1/p' coreset_backend/__init__.py)
# docs/ as a site in build/site. A link that leads nowhere fails it, and so does a script or font of another host.
docs: .release/.installed
	NO_MKDOCS_2_WARNING=1 .release/bin/mkdocs build --quiet
	! grep -rhoE --include='*.html' '<(script|link)[^>]+(src|href)="?https?://[^"> ]+' build/site

dist: .release/.installed
	rm -rf build dist
	.release/bin/python -m build --quiet --no-isolation
	.release/bin/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
	    -o dist/coreset_backend-$(VERSION).cdx.json requirements.txt
	cd dist && sha256sum *.whl *.tar.gz *.json > SHA256SUMS

clean:
	rm -rf .venv .label-studio .release .peers build dist
