# `make demo` shows a reconstruction, `make test` proves the checkout; `make help` lists the rest.

PYTHON    = python3
VENV      = .venv
DEMO_VENV = .venv-demo
DEMO      = demo
DIST      = dist
DOCS      = build/docs
PIP_INSTALL = -m pip install --quiet --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test slow check docs format wheel clean

help: ## List the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  make \1\t/' | expand -t 16

# Without torch, and with one engine only: what an appliance installs.
demo: $(DEMO_VENV)/.installed ## Reconstruct a sample scan with the shipped model, without torch
	@if $(DEMO_VENV)/bin/python -c 'import torch' 2>/dev/null; then \
	  echo 'torch is installed in $(DEMO_VENV), which must do without: rm -r $(DEMO_VENV)' >&2; exit 1; fi
	$(DEMO_VENV)/bin/ldmpir-edge sample mri -o $(DEMO)
	$(DEMO_VENV)/bin/ldmpir-edge run $(DEMO)/sample-mri.h5 -o $(DEMO) --format dicom,png
	@test -s $(DEMO)/sample-mri-comparison.png
	@test -n "$$(find $(DEMO)/sample-mri -name '*.dcm')"
	@echo 'Look at  $(DEMO)/sample-mri-comparison.png  (zero-filled | ours | reference | error)'
	@echo 'and load $(DEMO)/sample-mri/  in any DICOM viewer.'

# Two at a time, each file by one of them; a single thread each, or they take the cores from each other.
test: export OMP_NUM_THREADS = 1
test: $(VENV)/.installed ## Set up the development environment and run the tests
	$(VENV)/bin/python -m pytest --numprocesses 2 --dist loadfile $(PYTEST_ARGS)

slow: $(VENV)/.installed ## Run the tests that take over a minute
	$(VENV)/bin/python -m pytest -m slow $(PYTEST_ARGS)

check: $(VENV)/.installed ## Lint, formatting, docstrings, types and the import rules
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	$(VENV)/bin/interrogate ldmpir_edge
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

# The notice is an advertisement for another generator.
docs: $(VENV)/.installed ## Build the documentation site, which needs no network to be read
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --site-dir $(abspath $(DOCS))

format: $(VENV)/.installed ## Format the code and repair what the linter can
	$(VENV)/bin/ruff check --fix
	$(VENV)/bin/ruff format

wheel: $(VENV)/.installed ## Build the wheel, with the default bundle in it, into dist/
	$(VENV)/bin/python -m pip wheel --quiet --no-deps --wheel-dir $(DIST) .

clean: ## Remove what the other targets made, the environments included
	rm -rf $(VENV) $(DEMO_VENV) $(DEMO) $(DIST) build .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

# The stamps are as new as the last complete installation; editable, so that only a change of
# the dependencies asks for another.
$(VENV)/.installed: pyproject.toml constraints/dev.txt
	$(call make-venv,$(VENV))
	$(VENV)/bin/python $(PIP_INSTALL) -c constraints/dev.txt -e '.[dev]'
	@touch $@

$(DEMO_VENV)/.installed: pyproject.toml
	$(call make-venv,$(DEMO_VENV))
	$(DEMO_VENV)/bin/python $(PIP_INSTALL) -e .
	@touch $@

define make-venv
@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Python 3.11 or newer is needed, this is %d.%d; name another: make PYTHON=python3.12" % sys.version_info[:2])'
$(PYTHON) -m venv $(1)
endef
