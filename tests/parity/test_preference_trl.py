"""Our preference tuning beside TRL's: the same model and pairs, gradients of the first step, loss and weights over five steps.

TRL lives in an environment of its own: GROUNDUP_TRL_PYTHON names that environment's python.
"""

import copy
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from groundup.artifacts.machine import Machine
from groundup.finetune.preference.preference_batches import EncodedResponse, LabelledBatches, PairBatches, ResponsePair
from groundup.finetune.preference.preference_losses import PreferenceLossName
from groundup.finetune.preference.preference_objective import PreferenceLoss
from groundup.finetune.preference.reference_log_probs import reference_log_probs
from groundup.generate.reward_model import RewardModel
from groundup.interop import export_huggingface
from groundup.model import Decoder
from groundup.recipe import ModelConfig
from groundup.train import train

pytestmark = pytest.mark.interop

STEPS, ROWS, RATE = 5, 4, 1e-3

SCRIPT = """
import json, sys, warnings
warnings.simplefilter("ignore")
import torch
from datasets import Dataset
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast
from tokenizers import Tokenizer, models, pre_tokenizers
folder, out, loss, data, options = sys.argv[1:]
rows, options = json.loads(data), json.loads(options)
vocabulary = {f"w{i}": i for i in range(62)} | {"<eos>": 62, "<pad>": 63}
backend = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>", pad_token="<pad>")
if loss == "reward":
    from transformers import AutoModelForSequenceClassification
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32, num_labels=1, pad_token_id=63)
    save_file({"score": model.score.weight.detach().clone()}, out + "/score.safetensors")
else:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
common = dict(output_dir=out, per_device_train_batch_size=4, max_steps=5, learning_rate=1e-3, lr_scheduler_type="constant",
    warmup_steps=0, weight_decay=0.0, max_grad_norm=1.0, adam_beta2=0.95, adam_epsilon=1e-8, report_to=[], logging_steps=1,
    save_strategy="no", use_cpu=True, bf16=False, gradient_checkpointing=False, disable_tqdm=True, **options)
if loss in ("dpo", "ipo"):
    from trl import DPOConfig, DPOTrainer
    kind = {"dpo": "sigmoid", "ipo": "ipo"}[loss]
    Trainer, arguments = DPOTrainer, DPOConfig(loss_type=[kind], max_length=None, **common)
elif loss == "simpo":
    from trl.experimental.cpo import CPOConfig, CPOTrainer
    Trainer, arguments = CPOTrainer, CPOConfig(loss_type="simpo", cpo_alpha=0.0, max_length=64, **common)
elif loss == "orpo":
    from trl.experimental.orpo import ORPOConfig, ORPOTrainer
    Trainer, arguments = ORPOTrainer, ORPOConfig(max_length=64, **common)
elif loss == "reward":
    from trl import RewardConfig, RewardTrainer
    Trainer, arguments = RewardTrainer, RewardConfig(max_length=64, **common)
elif loss == "kto":
    from trl import KTOConfig, KTOTrainer
    Trainer, arguments = KTOTrainer, KTOConfig(**common)

class InOrder(Trainer):
    steps = 0

    def _get_train_sampler(self, *arguments):
        return torch.utils.data.SequentialSampler(self.train_dataset)

    def training_step(self, model, *arguments, **named):
        value = super().training_step(model, *arguments, **named)
        if not self.steps:
            grads = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
            save_file(grads, out + "/gradients.safetensors")
        self.steps += 1
        return value

    def concatenated_forward(self, model, batch):  # ORPO: the first term of the answer alone, as in the paper
        result = list(super().concatenated_forward(model, batch))
        if loss == "orpo":
            result[4] = -result[0].mean()
        return tuple(result)

trainer = InOrder(model=model, args=arguments, train_dataset=Dataset.from_list(rows), processing_class=tokenizer)
trainer.train()
losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
json.dump(losses, open(out + "/losses.json", "w"))
save_file({name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}, out + "/weights.safetensors")
"""

OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "dpo": ({"beta": 0.1}, {}),
    "ipo": ({"beta": 0.1}, {}),
    "kto": ({"beta": 0.1}, {}),
    "simpo": ({"beta": 2.0, "simpo_gamma": 1.0}, {"simpo_gamma": 1.0}),
    "orpo": ({"beta": 0.3}, {}),
    "reward": ({"beta": 1.0}, {}),  # not used
}


def draw_rows(loss: str) -> list[dict[str, Any]]:
    """Prompts and answers of words, one token each, of different lengths."""
    generator = torch.Generator().manual_seed(3)

    def words(low: int, high: int) -> str:
        count = int(torch.randint(low, high, (), generator=generator))
        return " ".join(f"w{int(n)}" for n in torch.randint(1, 60, (count,), generator=generator))

    rows = [
        {"prompt": words(3, 8), "chosen": " " + words(2, 9), "rejected": " " + words(2, 9)} for _ in range(STEPS * ROWS)
    ]
    if loss != "kto":
        return rows
    return [
        {"prompt": row["prompt"], "completion": row[("chosen", "rejected")[index % 2]], "label": index % 2 == 0}
        for index, row in enumerate(rows)
    ]


def encode(prompt: str, answer: str) -> EncodedResponse:
    ids = [[int(word[1:]) for word in text.split()] for text in (prompt, answer)]
    return EncodedResponse((*ids[0], *ids[1], 62), (*[0] * len(ids[0]), *[1] * (len(ids[1]) + 1)))


class InOrderBatches:
    """The rows of TRL's batches: none is shuffled, and a batch has ROWS of them."""

    def __init__(self, batches: PairBatches | LabelledBatches):
        self.batches = batches

    def batch(self, step: int):
        return self.batches._tensors(range(step * ROWS, (step + 1) * ROWS))


def our_batches(model: Decoder, loss: str, rows: list[dict[str, Any]]) -> InOrderBatches:
    def log_probs(responses):
        return reference_log_probs(model, responses, "float32", Machine(), None, "")

    if loss != "kto":
        pairs = [ResponsePair(*(encode(row["prompt"], row[kind]) for kind in ("chosen", "rejected"))) for row in rows]
        if loss in ("orpo", "simpo", "reward"):
            return InOrderBatches(PairBatches(pairs, None, 1000, 0, 63))
        reference = log_probs([response for pair in pairs for response in pair]).view(-1, 2)
        return InOrderBatches(PairBatches(pairs, reference, 1000, 0, 63))
    responses = [encode(row["prompt"], row["completion"]) for row in rows]
    mismatched = []  # the answer before it in its batch
    for index, row in enumerate(rows):
        begin = index - index % ROWS
        mismatched.append(encode(row["prompt"], rows[begin + (index - begin - 1) % ROWS]["completion"]))
    desirable = torch.tensor([row["label"] for row in rows])
    return InOrderBatches(
        LabelledBatches(responses, desirable, mismatched, log_probs(responses), log_probs(mismatched), 1000, 0, 63)
    )


def gradients(network: Any, settings: PreferenceLoss, batch: Any, folder: Path) -> dict[str, torch.Tensor]:
    """Of the loss of one batch, by the names of the Hugging Face family."""
    objective = settings.objective()
    if objective.prepare is not None:
        batch = objective.prepare(network, batch)
    objective.loss(network, batch).backward()
    decoder = network.model if isinstance(network, RewardModel) else network
    copied = copy.deepcopy(decoder)
    with torch.no_grad():
        for weight, source in zip(copied.parameters(), decoder.parameters(), strict=True):
            weight.copy_(torch.zeros_like(weight) if source.grad is None else source.grad)
    network.zero_grad()
    export_huggingface(copied, None, folder / "gradients")
    return load_file(folder / "gradients" / "model.safetensors")


@pytest.mark.parametrize("loss", list(OPTIONS))
def test_five_steps_equal_trls(tmp_path: Path, loss: PreferenceLossName):
    python = os.environ.get("GROUNDUP_TRL_PYTHON")
    if not python:
        pytest.skip("GROUNDUP_TRL_PYTHON names no environment with trl")
    torch.manual_seed(0)
    model = Decoder(ModelConfig(vocab_size=64, hidden_size=32, num_layers=2, num_heads=2, context_length=64)).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(4) if weight.ndim > 1 else None
    export_huggingface(model, None, tmp_path / "model")
    rows = draw_rows(loss)
    ours, theirs = OPTIONS[loss]
    out = tmp_path / "trl"
    out.mkdir()
    command = [python, "-c", SCRIPT, str(tmp_path / "model"), str(out), loss, json.dumps(rows)]
    options = json.dumps(theirs if loss == "reward" else {"beta": ours["beta"]} | theirs)
    done = subprocess.run([*command, options], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": ""})
    assert done.returncode == 0, done.stderr[-3000:]

    settings = PreferenceLoss(loss, **ours)
    batches = our_batches(model, loss, rows)
    network = model
    if loss == "reward":
        network = RewardModel(model)
        network.score.weight.data = load_file(out / "score.safetensors")["score"]
    found, expected = gradients(network, settings, batches.batch(0), tmp_path), load_file(out / "gradients.safetensors")
    shared = found.keys() & expected.keys()
    assert len(shared) > 10
    largest = max((found[name] - expected[name]).abs().max().item() for name in shared)
    print(
        loss, "largest difference of a gradient", largest, "of", max(found[name].abs().max().item() for name in shared)
    )
    assert largest < 1e-5
    result = train(
        network, batches, steps=STEPS, learning_rate=RATE, objective=settings.objective(),
        lr_schedule="constant", warmup_steps=0, weight_decay=0.0, beta2=0.95, max_grad_norm=1.0, device="cpu",
    )  # fmt: skip
    losses = json.loads((out / "losses.json").read_text())
    print(loss, "losses", [record["loss"] for record in result.records], "TRL", losses)
    assert [record["loss"] for record in result.records] == pytest.approx(losses, abs=1e-4)  # TRL logs four digits
    export_huggingface(model, None, tmp_path / "trained")
    found, expected = load_file(tmp_path / "trained" / "model.safetensors"), load_file(out / "weights.safetensors")
    shared = found.keys() & expected.keys()
    assert len(shared) > 10
    largest = max((found[name] - expected[name]).abs().max().item() for name in shared)
    print(loss, "largest difference of a weight", largest)
    assert largest < (1e-4 if loss == "reward" else 1e-5)  # Adam divides gradients near zero by their own rounding
