"""Run by the python of an environment with transformers or vLLM: log-probabilities and ids of exported folders.

Argument: transformers | vllm. Standard input: {"tokens", "folders", "methods", "text"}. The last line of standard output: an
answer for each folder, {"logprobs": [{id: log-probability, ...} for each position], "ids": ids of the text} or {"error": text}.
"""

import json
import os
import sys
from typing import Any

TOP = 16


def answer_transformers(folder: str, asked: dict[str, Any]) -> dict[str, Any]:
    import torch
    import transformers

    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        fields = json.load(file)
    method = (fields.get("quantization_config") or {}).get("quant_method")
    # the CPU kernels for GPTQ and AWQ compute in bfloat16; unpacked experts keep the dtype of their scales
    experts = fields.get("num_local_experts") or fields.get("num_experts")
    dtype = torch.bfloat16 if method in ("gptq", "awq") else "auto" if experts else torch.float32
    encoder_decoder = "T5" in fields["architectures"][0]
    kind = transformers.AutoModelForSeq2SeqLM if encoder_decoder else transformers.AutoModelForCausalLM
    model = kind.from_pretrained(folder, dtype=dtype, device_map="cpu").eval()
    tokens = torch.tensor([asked["tokens"]])
    inputs = {"input_ids": tokens} | ({"decoder_input_ids": tokens} if encoder_decoder else {})
    with torch.no_grad():
        logprobs = model(**inputs).logits[0].float().log_softmax(-1)
    best = logprobs.topk(TOP, dim=-1)
    rows = [
        dict(zip(map(str, ids.tolist()), values.tolist(), strict=True))
        for ids, values in zip(best.indices, best.values, strict=True)
    ]
    return {"logprobs": rows[:-1]}


def answer_vllm(folder: str, asked: dict[str, Any]) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    model = LLM(folder, dtype="bfloat16", enforce_eager=True, max_model_len=64, kv_cache_memory_bytes=1 << 26)
    settings = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=TOP)
    output = model.generate({"prompt_token_ids": asked["tokens"]}, settings, use_tqdm=False)[0]
    rows = [{str(id): entry.logprob for id, entry in row.items()} for row in output.prompt_logprobs[1:]]
    return {"logprobs": rows}


def ids_of(folder: str, text: str) -> list[int]:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(folder).encode(text, add_special_tokens=False)


def main() -> None:
    engine, asked = sys.argv[1], json.loads(sys.stdin.read())
    answers = []
    for folder in asked["folders"]:
        try:
            answer = (answer_vllm if engine == "vllm" else answer_transformers)(folder, asked)
            answers.append({**answer, "ids": ids_of(folder, asked["text"])})
        except Exception as error:  # what an engine refuses is a row of the table
            lines = str(error).strip().splitlines() or [type(error).__name__]
            answers.append({"error": f"{type(error).__name__}: {lines[0]}"[:200]})
    print()
    print(json.dumps(answers))


if __name__ == "__main__":  # vLLM starts processes
    main()
