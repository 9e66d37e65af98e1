"""Classifiers: our labels and head beside a model, and both in Hugging Face folders.

Sources: transformers 5, the classes ...ForSequenceClassification and ...ForTokenClassification; labels are id2label of
config.json, the tensors of the head stand among those of the model.
"""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object
from groundup.interop.families import FAMILIES, Family, require_family
from groundup.interop.families.family import ClassifierTensors, Json
from groundup.interop.families.select_family import lossy_fields
from groundup.interop.safetensors_files import SafetensorsFolder, TensorSource
from groundup.interop.unwrapped_names import UnwrappedNames
from groundup.model.classification_head import ClassificationHead, HeadSettings
from groundup.model.serialization import CLASSIFIER_FILE, LABELS_FILE, save_tensors
from groundup.recipe import ModelConfig

TEXT, TOKENS = "ForSequenceClassification", "ForTokenClassification"
OTHER_TASKS = {
    TEXT: "a classifier of texts, or a score of them",
    TOKENS: "a classifier of tokens",
    "ForQuestionAnswering": "answers are found in a given text",
    "ForMultipleChoice": "one of several texts is chosen",
    "ForNextSentencePrediction": "two texts are judged to follow each other or not",
}
"""Ends of class names in transformers whose heads are read for some families, or for none."""


def classifier_tensors(fields: Json, family: Family, path: Path) -> ClassifierTensors | None:
    """Where the head of a classifier is, by the class that config.json names; None for another model.

    Raises UserError for the class of a task whose head is not supported.
    """
    name = class_name(fields)
    found = {TEXT: family.text_classifier, TOKENS: family.token_classifier}
    task = next((end for end in OTHER_TASKS if name.endswith(end)), None)
    if task == TEXT and family.kind == "decoder" and len(fields.get("id2label") or "01") == 1:
        return None  # a reward model: reward_files.py
    if task is not None and (tensors := found.get(task)) is not None:
        return tensors
    if task is not None:
        known = ", ".join(f.name for f in FAMILIES.values() if f.text_classifier is not None)
        raise UserError(
            f"{path}: {name}: {OTHER_TASKS[task]}; expected a model of text, or a classifier of the families {known}",
            hint=f"take the {family.kind.replace('_', '-')} that it was made from",
        )
    return None


def class_name(fields: Json) -> str:
    """The class in transformers that config.json names, or nothing."""
    names = fields.get("architectures")
    return names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""


def head_patterns(tensors: ClassifierTensors) -> tuple[str, ...]:
    """Patterns of the names of the head's tensors."""
    return tuple(f"{start}*" for start in (tensors.output, tensors.dense, tensors.norm) if start)


def read_classifier(folder: Path) -> ClassificationHead | None:
    """The head of the classifier in `folder`, in evaluation mode: ours, or that of a Hugging Face folder; None: no classifier.

    Raises UserError for damaged files.
    """
    if (folder / LABELS_FILE).is_file():
        return _read_ours(folder)
    if not (folder / "config.json").is_file():
        return None
    fields = read_json_object(folder / "config.json")
    family = require_family(fields.get("model_type"), folder / "config.json")
    tensors = classifier_tensors(fields, family, folder / "config.json")
    return None if tensors is None else _read_huggingface(folder, fields, family, tensors)


def _read_ours(folder: Path) -> ClassificationHead:
    path = folder / LABELS_FILE
    fields = read_json_object(path)
    labels = fields.pop("labels", None)
    if not isinstance(labels, list) or not labels or not all(isinstance(label, str) for label in labels):
        raise UserError(f"{path}: damaged: expected a list of labels")
    try:
        settings = HeadSettings(tuple(labels), **fields)
        stored = load_file(folder / CLASSIFIER_FILE)
        head = ClassificationHead(stored["weight"].shape[-1], settings)
        head.load_state_dict(stored)
    except (OSError, SafetensorError, RuntimeError, TypeError, KeyError, IndexError) as error:
        raise UserError(f"{folder / CLASSIFIER_FILE}: damaged: {str(error).splitlines()[0]}") from None
    return head.eval()


def write_classifier(head: ClassificationHead, folder: Path) -> list[Path]:
    """Write labels and head into `folder`, beside the files of a model. Returns the files written."""
    plain = asdict(HeadSettings(()))
    form = {name: value for name, value in asdict(head.settings).items() if value != plain[name]}
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    save_tensors(weights, folder / CLASSIFIER_FILE)
    (folder / LABELS_FILE).write_text(json.dumps(form, ensure_ascii=False) + "\n", "utf-8")
    return [folder / CLASSIFIER_FILE, folder / LABELS_FILE]


def copy_classifier(source: Path, out: Path) -> list[Path]:
    """Write the head of the classifier in `source` into `out`, for groundup: other formats have no place for it."""
    head = read_classifier(source) if source.is_dir() else None
    return [] if head is None else write_classifier(head, out)


def _read_huggingface(folder: Path, fields: Json, family: Family, tensors: ClassifierTensors) -> ClassificationHead:
    source: TensorSource = UnwrappedNames(SafetensorsFolder(folder))
    last = source.shapes.get(f"{tensors.output}weight")
    if last is None or len(last) != 2:
        raise UserError(
            f"{folder}: tensor {tensors.output}weight is missing or no matrix, expected the head of a classifier"
        )
    json = {**family.defaults, **{family.key_aliases.get(key, key): value for key, value in fields.items()}}
    form = _form(tensors, json, class_name(fields).endswith(TOKENS))
    form |= {"multi_label": json.get("problem_type") == "multi_label_classification"}
    head = ClassificationHead(last[1], HeadSettings(_labels(json, last[0], folder), **form))
    names = {name: _foreign_name(name, tensors) for name in head.state_dict()}
    for name, weight in head.state_dict().items():
        if (found := source.shapes.get(names[name])) != tuple(weight.shape):
            wrong = "is missing" if found is None else f"has shape {list(found)}"
            raise UserError(f"{folder}: tensor {names[name]} {wrong}, expected shape {list(weight.shape)}")
    head.load_state_dict({name: source.read(foreign).float() for name, foreign in names.items()})
    return head.eval()


def _form(tensors: ClassifierTensors, json: Json, per_token: bool) -> Json:
    """The fields of HeadSettings that the family and config.json decide."""
    form: Json = {"pooling": tensors.pooling, "activation": tensors.activation if tensors.dense else None}
    form |= tensors.read(json) | {"per_token": per_token}
    return form | ({"pooling": None} if per_token else {})


def _labels(json: Json, count: int, folder: Path) -> tuple[str, ...]:
    names = json.get("id2label") or {str(number): f"LABEL_{number}" for number in range(count)}
    if not isinstance(names, dict) or sorted(names) != sorted(map(str, range(count))):
        raise UserError(
            f"{folder / 'config.json'}: id2label = {names!r}, expected a name for each number below {count}"
        )
    return tuple(str(names[str(number)]) for number in range(count))


def _foreign_name(name: str, tensors: ClassifierTensors) -> str:
    part, _, kind = name.rpartition(".")
    return {"": tensors.output, "dense": tensors.dense, "norm": tensors.norm}[part] + kind


def find_classifier_family(config: ModelConfig, head: ClassificationHead) -> tuple[Family, ClassifierTensors] | None:
    """The simplest family whose files have a place for the model, and for the head in its form; None if there is none."""
    settings, config = head.settings, config.model_copy(update={"masked_lm_head": False})
    wanted = asdict(settings) | {"pooling": None if settings.per_token else settings.pooling or config.pooling}
    for family in FAMILIES.values():
        tensors = family.token_classifier if settings.per_token else family.text_classifier
        if tensors is None or family.kind != config.architecture or lossy_fields(config, family):
            continue
        json = {**family.defaults, **family.write_config(config), **tensors.write(settings)}
        form = _form(tensors, json, settings.per_token)
        if form == {name: wanted[name] for name in form} and (settings.norm_eps is None) == (not tensors.norm):
            return family, tensors
    return None


def classifier_fields(head: ClassificationHead, family: Family, tensors: ClassifierTensors) -> Json:
    """Keys of config.json by which transformers builds the classifier."""
    settings, task = head.settings, TOKENS if head.settings.per_token else TEXT
    one = len(settings.labels) == 1
    kind = "multi_label_classification" if settings.multi_label else "single_label_classification"
    return {
        "architectures": [family.architecture.replace("ForMaskedLM", task)],
        "model_type": family.name,
        "id2label": {str(number): label for number, label in enumerate(settings.labels)},
        "label2id": {label: number for number, label in enumerate(settings.labels)},
        "problem_type": None if settings.per_token or one else kind,
        **tensors.write(settings),
    }


def foreign_head(head: ClassificationHead, tensors: ClassifierTensors) -> Iterator[tuple[str, Tensor]]:
    """The tensors of the head under the names of the family."""
    for name, weight in head.state_dict().items():
        yield _foreign_name(name, tensors), weight.detach().contiguous()
