# Each target makes .venv first, if it is missing or the list of packages changed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN := .venv/bin/

.PHONY: quickstart test check slow test-engines bench clean

quickstart: .venv/.ready ## text to chat in about ten minutes, on two CPU cores
	$(RUN)groundup run recipes/quickstart.toml

test: check ## everything that needs no GPU
	$(RUN)python -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder

check: .venv/.ready ## style, types, import order
	$(RUN)ruff check .
	$(RUN)ruff format --check .
	$(RUN)pyright
	$(RUN)lint-imports --no-cache

slow: .venv/.ready ## long tests, such as the whole quickstart with its expected scores
	$(RUN)python -m pytest -m "slow"

test-engines: .venv-deepspeed/.ready .venv-megatron/.ready ## DeepSpeed and Megatron-Core; needs g++
	.venv-deepspeed/bin/python -m pytest -m interop tests/parallel/test_other_engines.py tests/interop/test_zero_checkpoint.py
	.venv-megatron/bin/python -m pytest -m interop tests/parallel/test_other_engines.py

bench: .venv/.ready ## all benchmarks, each beside its peer
	for script in benchmarks/*.py; do $(RUN)python $$script; done

clean: ## everything but the downloads
	rm -rf .venv .venv-* runs build dist

# torch comes first, alone: nothing after it can then pull another build. Set TORCH_INDEX to PyTorch's CPU package
# index to avoid the CUDA libraries on a machine without a GPU.
define venv_with_torch
	@test -x $(@D)/bin/python || { echo "making $(@D) with $(PYTHON)"; "$(PYTHON)" -m venv $(@D); }
	@echo "installing packages: some minutes, once"
	@$(@D)/bin/python -m pip install --quiet --upgrade pip 2>&1 | grep -v "^WARNING: Location" || true
	@$(@D)/bin/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "torch>=2.11,<2.14"
endef

.venv/.ready: pyproject.toml constraints.txt
	$(venv_with_torch)
	@$(RUN)python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

# An engine beside the library and its tests; an isolated build of DeepSpeed could fetch another torch.
.venv-%/.ready: pyproject.toml constraints.txt
	$(venv_with_torch)
	@$(@D)/bin/python -m pip install --quiet -c constraints.txt setuptools wheel
	@$(@D)/bin/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[$*,test]"
	@touch $@
