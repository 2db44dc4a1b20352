# `make` alone lists the targets. Set-up is pinned and goes into .venv; requirements/ and CONTRIBUTING.md say more.
.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help setup demo demo-images test lint clean clean-env

# The first supported Python; `make setup PYTHON=...` overrides it. Only making .venv uses it.
PYTHON ?= $(or $(shell for python in python3 python3.12 python3.11 python3.10; do \
	$$python -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$python && break; done),python3)

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: ## make or update .venv with the pinned stack (a second time: nothing to do)
	@$(PYTHON) tools/setup_env.py

demo: setup ## the main job end to end on small made clips; results in work_dirs/demo
	@.venv/bin/python tools/demo.py

demo-images: setup ## image classification end to end, in minutes; results in work_dirs/demo_images
	@.venv/bin/python tools/demo.py --task images

# A worker per processor; a file's tests stay together, so that what they share is made once.
test: setup ## the test suite (offline, on the CPU); pass options by ARGS="-k name", ARGS="-n 0" runs it in one process
	@.venv/bin/python -m pytest -n logical --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup ## ruff, and mypy (strict) on packages/runtime and packages/core
	@.venv/bin/python -m ruff check .
	@.venv/bin/python -m mypy

clean: ## remove caches and build leftovers; keeps .venv, data and work_dirs
	@rm -rf .pytest_cache .mypy_cache .ruff_cache build packages/*/build
	@find configs docs packages tests tools -name __pycache__ -type d -prune -exec rm -rf {} +

clean-env: ## remove .venv
	@rm -rf .venv
