"""groundup: build a language model from one recipe.

The packages are the steps of the pipeline, in order:

    artifacts/     complete-or-absent folders, errors, progress
    stages.py      the table of pipeline stages
    recipe/        1  configuration: all knobs         parallel/      9  parallelism over devices
    plan/          2  cost: memory, time, layout       train/        10  pretraining
    data/          3  text: extract, filter, dedup     finetune/     11  chat and LoRA
    tokenizer/     4  BPE, token shards                quantize/     12  4 and 8 bits
    model/         5  the transformer                  serve/        13  HTTP server
    interop/       6  Hugging Face, GGUF               report/       14  PDF and HTML report
    generate/      7  sampling, batching, embedding    viewers/          corpus and training in the terminal
    evaluate/      8  perplexity, tasks                experiments/      sweeps and scaling ladders
    stage_runs.py  fingerprints and plan of a run      cli/              the command line
    pipeline.py    the runner of the stages            recipes/          ready-made: groundup init --recipe NAME

The names below are imported on first use, so that `import groundup` loads no torch. Functions with the name of their package are
imported from there: `from groundup.train import train`, likewise finetune, generate, quantize and serve. All public names:
book/library.md.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundup.artifacts import UserError as UserError
    from groundup.data import clean_texts as clean_texts
    from groundup.data import deduplicate as deduplicate
    from groundup.data import detect_language as detect_language
    from groundup.data import extract_text as extract_text
    from groundup.data import find_duplicates as find_duplicates
    from groundup.data import mask_pii as mask_pii
    from groundup.data import read_documents as read_documents
    from groundup.evaluate import bits_per_byte as bits_per_byte
    from groundup.evaluate import perplexity as perplexity
    from groundup.evaluate import token_logprobs as token_logprobs
    from groundup.finetune import apply_lora as apply_lora
    from groundup.generate import SamplingParams as SamplingParams
    from groundup.generate import embed_texts as embed_texts
    from groundup.generate import generate_text as generate_text
    from groundup.interop import export_huggingface as export_huggingface
    from groundup.interop import merge_lora as merge_lora
    from groundup.model import Decoder as Decoder
    from groundup.model import Encoder as Encoder
    from groundup.model import EncoderDecoder as EncoderDecoder
    from groundup.model import build_model as build_model
    from groundup.model import load_model as load_model
    from groundup.model import save_model as save_model
    from groundup.quantize import export_model as export_model
    from groundup.quantize import open_model as open_model
    from groundup.recipe import ModelConfig as ModelConfig
    from groundup.recipe import load_recipe as load_recipe
    from groundup.tokenizer import Tokenizer as Tokenizer
    from groundup.tokenizer import train_tokenizer as train_tokenizer
    from groundup.train import make_batches as make_batches

__version__ = "0.1.0"

for _name, _value in {"GOMP_SPINCOUNT": "1000", "OMP_WAIT_POLICY": "passive"}.items():
    # Read when torch is imported. Threads of OpenMP that wait for another sleep after a microsecond; by default they run in a
    # loop for milliseconds (GNU: 300,000 rounds, LLVM: 200 ms), and take the cores that the other needs where these are
    # shared: a step of training took from 5 to 40 times as long (benchmarks/shared_cores.py).
    os.environ.setdefault(_name, _value)

_LAZY_IMPORTS = {
    "Decoder": "groundup.model",
    "Encoder": "groundup.model",
    "EncoderDecoder": "groundup.model",
    "ModelConfig": "groundup.recipe",
    "SamplingParams": "groundup.generate",
    "Tokenizer": "groundup.tokenizer",
    "UserError": "groundup.artifacts",
    "apply_lora": "groundup.finetune",
    "bits_per_byte": "groundup.evaluate",
    "build_model": "groundup.model",
    "clean_texts": "groundup.data",
    "deduplicate": "groundup.data",
    "detect_language": "groundup.data",
    "embed_texts": "groundup.generate",
    "export_huggingface": "groundup.interop",
    "export_model": "groundup.quantize",
    "extract_text": "groundup.data",
    "find_duplicates": "groundup.data",
    "generate_text": "groundup.generate",
    "load_model": "groundup.model",
    "load_recipe": "groundup.recipe",
    "make_batches": "groundup.train",
    "mask_pii": "groundup.data",
    "merge_lora": "groundup.interop",
    "open_model": "groundup.quantize",
    "perplexity": "groundup.evaluate",
    "read_documents": "groundup.data",
    "save_model": "groundup.model",
    "token_logprobs": "groundup.evaluate",
    "train_tokenizer": "groundup.tokenizer",
}

__all__ = list(_LAZY_IMPORTS)


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(f"module 'groundup' has no attribute {name!r}; it has {', '.join(__all__)}")
    return getattr(importlib.import_module(_LAZY_IMPORTS[name]), name)
