"""Run by the python of an environment with transformers or vLLM: log-probabilities, greedy tokens and ids of exported folders.

Argument: transformers | vllm. Each line of standard input is a request, {"tokens", "folder", "text", "new"}; after ANSWER, a
line of standard output has {"logprobs": [{id: log-probability, ...} for each position], "said": greedy tokens, "ids": ids of
the text} or {"error": text}. A folder of a .gguf file is opened as one.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

TOP = 16
ANSWER = "answer: "
"""Begins a line of standard output that engines did not write."""


def answer_transformers(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    import torch
    import transformers

    options: dict[str, Any] = {"dtype": torch.float32, "device_map": "cpu"}
    if files := list(folder.glob("*.gguf")):
        options["gguf_file"] = files[0].name
        fields = transformers.AutoConfig.from_pretrained(folder, gguf_file=files[0].name).to_dict()
    else:
        fields = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    method = (fields.get("quantization_config") or {}).get("quant_method")
    if method in ("gptq", "awq"):  # whose kernels for the CPU compute in bfloat16
        options["dtype"] = torch.bfloat16
    elif method == "compressed-tensors" and (fields.get("num_local_experts") or fields.get("num_experts")):
        options["dtype"] = "auto"  # unpacked experts keep the dtype of their scales
    kinds = {"t5": transformers.AutoModelForSeq2SeqLM, "bert": transformers.AutoModelForMaskedLM}
    kind = kinds.get(fields["model_type"], transformers.AutoModelForCausalLM)
    model = kind.from_pretrained(folder, **options).eval()

    def logprobs_of(tokens: list[int]) -> torch.Tensor:
        inputs = {"input_ids": torch.tensor([asked["tokens"] if fields["model_type"] == "t5" else tokens])}
        if fields["model_type"] == "t5":
            inputs["decoder_input_ids"] = torch.tensor([tokens])
        with torch.no_grad():
            return model(**inputs).logits[0].float().log_softmax(-1)

    found = logprobs_of(asked["tokens"])
    best = found.topk(TOP, dim=-1)
    rows = [
        dict(zip(map(str, ids.tolist()), values.tolist(), strict=True))
        for ids, values in zip(best.indices, best.values, strict=True)
    ]
    said: list[int] = []
    while fields["model_type"] != "bert" and len(said) < asked["new"]:
        said.append(int((logprobs_of(asked["tokens"] + said) if said else found)[-1].argmax()))
    return {"logprobs": rows[:-1], "said": said}


def answer_vllm(folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    model = LLM(str(folder), dtype="bfloat16", enforce_eager=True, max_model_len=128, kv_cache_memory_bytes=1 << 26)
    settings = SamplingParams(temperature=0, max_tokens=asked["new"], prompt_logprobs=TOP, ignore_eos=True)
    output = model.generate({"prompt_token_ids": asked["tokens"]}, settings, use_tqdm=False)[0]
    rows = [{str(id): entry.logprob for id, entry in row.items()} for row in output.prompt_logprobs[1:]]
    return {"logprobs": rows, "said": list(output.outputs[0].token_ids)}


def answer(engine: str, folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    import transformers

    try:
        found = (answer_vllm if engine == "vllm" else answer_transformers)(folder, asked)
        files = list(folder.glob("*.gguf"))
        options = {"gguf_file": files[0].name} if files else {}
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        return found | {"ids": tokenizer.encode(asked["text"], add_special_tokens=False)}
    except Exception as error:  # what an engine refuses is a cell of the table
        lines = [line for line in str(error).splitlines() if line.strip()] or [""]
        return {"error": f"{type(error).__name__}: {lines[0]}"[:300]}


def answer_in_a_child(engine: str, folder: Path, asked: dict[str, Any]) -> dict[str, Any]:
    """vLLM keeps the state of its one model in the process; a child inherits what was imported."""
    receive, send = os.pipe()
    if not (child := os.fork()):
        with open(send, "w", encoding="utf-8") as file:
            json.dump(answer(engine, folder, asked), file)
            file.flush()
        os._exit(0)
    os.close(send)
    with open(receive, encoding="utf-8") as file:
        text = file.read()
    _, status = os.waitpid(child, 0)
    return json.loads(text) if text else {"error": f"the engine died with status {status}"}


def main() -> None:
    engine = sys.argv[1]
    if engine == "vllm":
        import vllm  # noqa: F401

    call = answer_in_a_child if engine == "vllm" else answer
    for line in sys.stdin:
        asked = json.loads(line)
        print(f"\n{ANSWER}{json.dumps(call(engine, Path(asked['folder']), asked))}", flush=True)


if __name__ == "__main__":  # vLLM starts processes
    main()
