# Each target makes .venv first, if it is missing or the list of packages changed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN := .venv/bin/

.PHONY: quickstart test check slow bench clean

quickstart: .venv/.ready ## text to chat in about ten minutes, on two CPU cores
	$(RUN)groundup run recipes/quickstart.toml

test: check ## everything that needs no GPU
	$(RUN)python -m pytest

check: .venv/.ready ## style, types, import order
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)pyright
	$(RUN)lint-imports --no-cache

slow: .venv/.ready ## long tests, such as the whole quickstart with its expected scores
	$(RUN)python -m pytest -m "slow"

bench: .venv/.ready ## all benchmarks, each beside its peer
	for script in benchmarks/*.py; do $(RUN)python $$script; done

clean: ## everything but the downloads
	rm -rf .venv runs build dist

# torch comes first, alone: nothing after it can then pull another build. Set TORCH_INDEX to PyTorch's CPU package
# index to avoid the CUDA libraries on a machine without a GPU.
.venv/.ready: pyproject.toml constraints.txt
	@test -x .venv/bin/python || { echo "making .venv with $(PYTHON)"; "$(PYTHON)" -m venv .venv; }
	@echo "installing packages: some minutes, once"
	@$(RUN)python -m pip install --quiet --upgrade pip 2>&1 | grep -v "^WARNING: Location" || true
	@$(RUN)python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "torch>=2.11,<2.14"
	@$(RUN)python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@
