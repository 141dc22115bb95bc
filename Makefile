# `make chat`, `make test`, `make test-ui` and `make test-ray` each make .venv, install what they need
# and run; `make docs` writes docs/commands.md and docs/first-hour.md anew.

VENV := .venv
BIN := $(VENV)/bin
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
NODE := $(shell node -e 'process.exit(parseInt(process.versions.node) < 20 ? 1 : 0)' 2>/dev/null && echo node)

# mypy and import-linter read the package as it is installed, because export/ moves into it.
SITE = rm -rf build/lib build/site && $(PIP) install --no-deps --no-build-isolation --target build/site .

.PHONY: chat test test-js test-ui test-ray docs clean

chat: $(VENV)/.cpu
	@$(BIN)/rdlite chat

test: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(SITE)
	cd tests && PYTHONPATH=../build/site ../$(BIN)/lint-imports --no-cache ../pyproject.toml
	cd tests && MYPYPATH=../build/site ../$(BIN)/mypy --config-file ../pyproject.toml -p rdlite
	$(BIN)/pytest -n 2 --dist loadfile
	@if [ -n "$(NODE)" ]; then $(MAKE) --no-print-directory -o $(VENV)/.dev test-js; \
	else echo "No Node.js of version 20 or newer: the tests in js/ were left out."; fi

# The JavaScript runtime against the Python one.
test-js: $(VENV)/.dev js/node_modules/.package-lock.json
	cd js && npx tsc -p tsconfig.json --noEmit && node --test test/*.test.js

# The page in a browser and the desktop window, on a display of their own; needs a Debian package or two.
test-ui: $(VENV)/.ui js/node_modules/.package-lock.json
	tests/ui/packages.sh
	@$(SITE)
	cd examples/desktop && MYPYPATH=../../build/site ../../$(BIN)/mypy --config-file ../../pyproject.toml *.py
	xvfb-run -a -s '-screen 0 1280x1024x24' $(BIN)/pytest tests/ui

# A file of prompts on a Ray cluster of two nodes on this machine.
test-ray: $(VENV)/.ray
	$(BIN)/pytest tests/ray

docs: $(VENV)/.dev
	$(BIN)/python docs/commands.py > docs/.commands.md
	mv docs/.commands.md docs/commands.md
	@if command -v tmux >/dev/null; then $(BIN)/python docs/first_hour.py > docs/.first-hour.md && \
		mv docs/.first-hour.md docs/first-hour.md; else echo "docs/first-hour.md stays: tmux is missing"; fi

clean:
	rm -rf $(VENV) build js/node_modules

# Without scripts: that of onnxruntime-node would download CUDA's libraries.
js/node_modules/.package-lock.json: js/package-lock.json
	cd js && npm ci --ignore-scripts --no-audit --no-fund --silent
	@touch $@

$(VENV)/.cpu: pyproject.toml
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "Python 3.11 or newer is needed, got '$(PYTHON)': run make PYTHON=/path/to/it"; exit 1; }
	@echo "Installing rdlite into $(VENV); this takes a minute the first time."
	@"$(PYTHON)" -m venv $(VENV)
	@$(PIP) install -e '.[cpu]'
	@touch $@

$(VENV)/.dev: $(VENV)/.cpu
	@echo "Installing the tools for tests into $(VENV)."
	@$(PIP) install -e '.[cpu,dev]'
	@touch $@

$(VENV)/.ui: $(VENV)/.dev
	@echo "Installing Qt, PyInstaller and Playwright into $(VENV)."
	@$(PIP) install -e '.[cpu,ui]'
	@touch $@

$(VENV)/.ray: $(VENV)/.dev
	@echo "Installing Ray into $(VENV)."
	@$(PIP) install -e '.[cpu,dev,ray]'
	@touch $@
