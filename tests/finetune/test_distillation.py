"""Distillation, against its equation from all logits."""

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.finetune import finetune
from groundup.finetune.distillation import check_teacher, distillation_objective
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer

SHAPE = {"num_layers": 1, "num_heads": 2, "context_length": 64}


def decoder(seed, vocab_size=23, width=16):
    torch.manual_seed(seed)
    model = build_model(ModelConfig(vocab_size=vocab_size, hidden_size=width, **SHAPE))
    for weight in model.parameters():
        weight.data *= 3  # distinct predictions
    return model


@pytest.mark.parametrize(("weight", "temperature"), [(0.0, 1.0), (1.0, 1.0), (0.3, 2.0)])
def test_the_loss_equals_its_equation(weight, temperature):
    student, teacher = decoder(0), decoder(1, width=24)
    tokens = torch.randint(23, (2, 9))
    labels = tokens.masked_fill(torch.rand(2, 9) < 0.5, -100)
    objective = distillation_objective(teacher, weight=weight, temperature=temperature)
    loss = objective.loss(student, {"tokens": tokens, "labels": labels})
    loss.backward()
    logits, wanted = (model(tokens).logits[:, :-1] for model in (student, teacher))
    expected, count = torch.zeros(()), 0
    for row, place in (labels[:, 1:] != -100).nonzero().tolist():
        p = (wanted[row, place] / temperature).softmax(-1)
        q = (logits[row, place] / temperature).softmax(-1)
        cross_entropy = -logits[row, place].log_softmax(-1)[labels[row, place + 1]]
        expected = expected + (1 - weight) * cross_entropy + weight * temperature**2 * (p * (p.log() - q.log())).sum()
        count += 1
    assert count == objective.count({"tokens": tokens, "labels": labels})
    torch.testing.assert_close(loss, expected / count, rtol=1e-5, atol=1e-6)
    assert all(weight.grad is None for weight in teacher.parameters())
    got = student.blocks[0].attention.q_proj.weight.grad.clone()
    student.zero_grad()
    (expected / count).backward()
    torch.testing.assert_close(got, student.blocks[0].attention.q_proj.weight.grad, rtol=1e-3, atol=1e-6)


def test_a_student_comes_nearer_to_its_teacher(byte_tokenizer):
    student, teacher = (decoder(seed, byte_tokenizer.vocab_size) for seed in (0, 1))
    chat = [
        [{"role": "user", "content": f"number {n}"}, {"role": "assistant", "content": f"it is {n}"}] for n in range(8)
    ]
    tokens = torch.tensor([byte_tokenizer.render_chat(chat[0])])

    def distance():
        with torch.no_grad():
            q, p = (model(tokens).logits.log_softmax(-1) for model in (student, teacher))
        return float((p.exp() * (p - q)).sum(-1).mean())

    before = distance()
    finetune(
        student, byte_tokenizer, chat, method="full", epochs=30, learning_rate=1e-2, teacher=teacher, teacher_weight=1.0
    )
    assert distance() < 0.8 * before


def test_another_vocabulary_is_refused(byte_tokenizer):
    other = Tokenizer.from_merges({number: bytes([number]) for number in range(256)}, [])
    with pytest.raises(UserError, match=r"finetune\.teacher big: its vocabulary of .* is not that of the model"):
        check_teacher("big", other, byte_tokenizer)
