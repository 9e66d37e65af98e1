"""The command classify: labels of texts, named entities, and rewards of answers."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.cli.model_check import note_truncated
from groundup.cli.options import AdapterOption, DeviceOption, DtypeOption, JsonOption, ModelArgument, VerifyOption
from groundup.cli.text_input import InputText, texts_to_read


def classify(
    model: ModelArgument,
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts to classify.")] = None,
    input: Annotated[
        Path | None,
        typer.Option(
            help="Texts: a file with one per line, or .jsonl with fields text and id; for a reward model also conversations."
        ),
    ] = None,
    query: Annotated[
        str | None,
        typer.Option(
            help="The text before each: a reranker's query, a premise, the prompt of a reward model's answers."
        ),
    ] = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    adapter: AdapterOption = None,
    verify: VerifyOption = True,
) -> None:
    """Give each text a label, find its named entities, or score answers: by a model made here, or one of transformers.

    Prints probability, label, id and text; with --json the probabilities of all labels. Of a classifier of tokens: a line for
    each entity, with the text of the entity. Of one with a single label, such as a reranker, and of a reward model: scores,
    the highest first.

    Example: groundup classify runs/reviews --input texts.txt
    Example: groundup classify runs/rewards "Paris." "I do not know." --query "What is the capital of France?"
    """
    from groundup.finetune import load_classifier
    from groundup.generate import classify_texts, find_entities
    from groundup.generate.text_embedding import encode_for_embedding
    from groundup.interop.model_loading import resolve_model_path
    from groundup.interop.reward_files import is_reward_model
    from groundup.quantize import open_model

    folder = resolve_model_path(model)
    if is_reward_model(folder):
        if adapter is not None:
            raise UserError("--adapter with a reward model, whose layer was trained with its own weights")
        conversations = _conversations(texts, input, query)
        _print_rewards(*open_model(folder, device=device, dtype=dtype, verify=verify), folder, conversations, as_json)
        return
    entries = texts_to_read(texts, input, "classify")
    network, tokenizer = open_model(model, device=device, dtype=dtype, adapter=adapter, verify=verify)
    classifier = load_classifier(network, folder)
    wanted = [entry.text for entry in entries]
    note_truncated(encode_for_embedding(network, tokenizer, wanted)[1], len(wanted), network)
    if classifier.head.settings.per_token:
        if query is not None:
            raise UserError("--query with a classifier of tokens, expected one of texts", hint="leave --query out")
        for entry, found in zip(entries, find_entities(classifier, tokenizer, wanted), strict=True):
            _print_entities(entry, found, as_json)
        return
    scored = list(zip(entries, classify_texts(classifier, tokenizer, wanted, query=query).tolist(), strict=True))
    if len(classifier.labels) == 1:
        scored.sort(key=lambda pair: -pair[1][0])
    for entry, row in scored:
        probabilities = dict(zip(classifier.labels, row, strict=True))
        label = max(probabilities, key=probabilities.__getitem__)
        if as_json:
            print(json.dumps({"id": entry.id, "label": label, "probabilities": probabilities}, ensure_ascii=False))
        else:
            print(f"{probabilities[label]:.4f}  {label}  {entry.id}  {' '.join(entry.text.split())}")


def _print_entities(entry: InputText, entities: list[Any], as_json: bool) -> None:
    """A line for each entity, or one of JSON for the text."""
    parts = [(entity, " ".join(entry.text[entity.begin : entity.end].split())) for entity in entities]
    if as_json:
        found = [entity._asdict() | {"text": text} for entity, text in parts]
        print(json.dumps({"id": entry.id, "entities": found}, ensure_ascii=False))
        return
    for entity, text in parts:
        print(f"{entity.probability:.4f}  {entity.label}  {entry.id}  {text}")


def _conversations(texts: list[str] | None, input: Path | None, query: str | None) -> list[tuple[str, list[Any]]]:
    """(id, messages) of the answers to score: with --query, texts are answers to it; else each record is a conversation."""
    if query is not None:
        entries = texts_to_read(texts, input, "classify")
        question = {"role": "user", "content": query}
        return [(entry.id, [question, {"role": "assistant", "content": entry.text}]) for entry in entries]
    if texts or input is None:
        raise UserError(
            "a reward model scores answers to a prompt, and there is none",
            hint="--query PROMPT, or --input FILE with conversations: messages, or prompt and completion",
        )
    from groundup.finetune.training_data.conversations import read_conversations
    from groundup.recipe.finetune_config import ConversationSourceConfig

    source = ConversationSourceConfig(name=str(input), kind="messages", path=str(input))
    found, _ = read_conversations([source], Machine(), "keep")
    return [(str(each.line), list(each.messages)) for each in found]


def _print_rewards(
    network: Any, tokenizer: Any, folder: Path, conversations: list[tuple[str, list[Any]]], as_json: bool
) -> None:
    from groundup.finetune import load_reward_model
    from groundup.generate import score_answers

    rewards = score_answers(load_reward_model(network, folder), tokenizer, [messages for _, messages in conversations])
    for (name, messages), reward in sorted(
        zip(conversations, rewards.tolist(), strict=True), key=lambda pair: -pair[1]
    ):
        answer = messages[-1]["content"] or ""
        if as_json:
            print(json.dumps({"id": name, "reward": reward, "answer": answer}, ensure_ascii=False))
        else:
            print(f"{reward:.4f}  {name}  {' '.join(answer.split())}")
