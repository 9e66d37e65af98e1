"""`groundup evaluate`: bits per byte of a text, answers to the questions of a file, tasks of lm-evaluation-harness."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.artifacts.errors import UserError
from groundup.artifacts.harness_metrics import metric_rows
from groundup.artifacts.progress import PROGRESS_KINDS
from groundup.cli.measure_input import labelled_texts, measure_lines, measure_model
from groundup.cli.model_check import open_for_text
from groundup.cli.options import AdapterOption, DeviceOption, DtypeOption, JsonOption, ModelArgument, VerifyOption
from groundup.cli.text_input import read_text


def evaluate(
    model: ModelArgument,
    text: Annotated[Path | None, typer.Option(help="Text to score, UTF-8.")] = None,
    task: Annotated[
        Path | None,
        typer.Option(
            help="Questions with known answers: JSON lines of question, choices, answer (its index); or of prompt, completion."
        ),
    ] = None,
    pairs: Annotated[
        Path | None,
        typer.Option(
            help="Texts to write by beam search: JSON lines of source, target; scored by BLEU, chrF and ROUGE-L."
        ),
    ] = None,
    language_measures: Annotated[
        bool,
        typer.Option(
            "--language-measures",
            help="Calibration, repetition, memorization, needle in context, languages: on --text, or a run's held-out text.",
        ),
    ] = False,
    probe: Annotated[
        Path | None,
        typer.Option(
            help="Texts whose labels a linear classifier reads off their embeddings: JSON lines or CSV of text, label."
        ),
    ] = None,
    tasks: Annotated[
        str | None, typer.Option(metavar="NAME,...", help="Tasks of lm-evaluation-harness: hellaswag,arc_easy,mmlu.")
    ] = None,
    datasets: Annotated[
        Path | None,
        typer.Option(help="Folder of the datasets of --tasks, PATH/NAME/SPLIT; default: the Hugging Face hub."),
    ] = None,
    core: Annotated[
        Path | None, typer.Option(metavar="DIR", help="CORE of DCLM: folder of its evaluation bundle, with core.yaml.")
    ] = None,
    num_fewshot: Annotated[
        int | None, typer.Option(min=0, help="Solved examples before each question of --tasks; default: the task's.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="First questions of each task of --tasks or --core only.")
    ] = None,
    cache: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Keep the answers to --tasks: what stands in the file is not computed again."
        ),
    ] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Ask the questions in the model's chat template.")
    ] = False,
    delimiter: Annotated[str, typer.Option(help="Text between a question of --task and its choice.")] = " ",
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    adapter: AdapterOption = None,
    verify: VerifyOption = True,
) -> None:
    """Measure bits per byte of a model on a text, its answers to questions, or tasks of lm-evaluation-harness.

    Intervals are of 95%. --pairs is for translations, summaries and other texts made of texts. Encoders and encoder-decoders
    are scored by masked tokens of the text.

    Example: groundup evaluate runs/quickstart --text held-out.txt

    Example: groundup evaluate runs/mine --task questions.jsonl --apply-chat-template

    Example: groundup evaluate runs/translator --pairs held-out.jsonl

    Example: groundup evaluate runs/quickstart --language-measures

    Example: groundup evaluate runs/encoder --probe labelled.jsonl

    Example: groundup evaluate models/smollm2 --tasks hellaswag,arc_easy --limit 200
    """
    from groundup.evaluate import run_task, score_text, task_of_file
    from groundup.evaluate.core_tasks import score_core
    from groundup.evaluate.language_measures.linear_probe import probe_labels
    from groundup.evaluate.masked_lm import score_masked_text
    from groundup.evaluate.sequence_scores import read_pairs, score_pairs
    from groundup.generate.generation import require_generative
    from groundup.model import Decoder
    from groundup.model.serialization import weight_dtype

    if text is task is tasks is pairs is core is probe is None and not language_measures:
        raise UserError(
            "nothing to evaluate on",
            hint="--text FILE, --task FILE, --pairs FILE, --probe FILE, --core DIR, --language-measures, or --tasks NAME,...",
        )
    if apply_chat_template and task is None and tasks is None:
        raise UserError("--apply-chat-template without questions", hint="a text is scored as it is")
    if delimiter != " " and (task is None or apply_chat_template):
        raise UserError(
            "--delimiter without effect",
            hint="it stands between question and choice of --task, without a chat template",
        )
    if tasks is None and ((datasets, num_fewshot, cache) != (None,) * 3 or (limit is not None and core is None)):
        raise UserError("--datasets, --num-fewshot, --limit and --cache are for --tasks", hint="--tasks NAME,...")
    content = None if text is None else read_text(text)
    examples = None if pairs is None else read_pairs(pairs)
    labelled = None if probe is None else labelled_texts(probe)
    questions = (
        None if task is None else task_of_file(task, apply_chat_template=apply_chat_template, delimiter=delimiter)
    )
    names = [name.strip() for name in (tasks or "").split(",") if name.strip()]
    if tasks is not None:
        from groundup.evaluate.harness_tasks import harness_tasks

        harness_tasks(names)  # a wrong name is told before the model is read
    progress = PROGRESS_KINDS["auto"]()
    network, tokenizer = open_for_text(model, device, dtype, verify, adapter)
    score: dict[str, Any] = {"dtype": weight_dtype(network)}
    is_decoder = isinstance(network, Decoder)
    if content is not None:
        score |= (
            score_text(network, tokenizer, content) if is_decoder else score_masked_text(network, tokenizer, content)
        )
    if not is_decoder and (questions or tasks or core or language_measures):
        raise UserError(
            f"{model}: --task, --tasks, --core and --language-measures need the likelihood of a text, which only a decoder "
            "defines",
            hint="an encoder or encoder-decoder is scored by masked tokens: --text FILE",
        )
    if examples is not None:
        score |= _flat(score_pairs(require_generative(network), tokenizer, examples, progress))
    extra: dict[str, Any] = {}
    if language_measures:
        extra["language_measures"] = measure_model(model, network, tokenizer, text, progress)
    if labelled is not None:
        extra["probe"] = probe_labels(network, tokenizer, labelled)
    result = None if questions is None else run_task(questions, network, tokenizer)
    bundle = {} if core is None else score_core(network, tokenizer, core, progress, limit)
    harness: dict[str, dict[str, Any]] = {}
    if tasks is not None:
        from groundup.evaluate.lm_eval_adapter import run_harness

        harness = run_harness(
            network, tokenizer, names, progress, datasets_folder=datasets, num_fewshot=num_fewshot, limit=limit,
            apply_chat_template=apply_chat_template, cache=cache,
        )  # fmt: skip
    if as_json:
        print(json.dumps(score | extra | (result or {}) | bundle | ({"tasks": harness} if harness else {}), indent=1))
        return
    for key, value in score.items():
        if value is None:
            continue
        if isinstance(value, list):
            value = "{:.2f} to {:.2f}".format(*value)
        print(
            f"{key:<16} "
            + (f"{value:,.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value)
        )
    for line in measure_lines(extra):
        print(line)
    if result is not None:
        chance = "" if result["chance"] is None else f", chance {result['chance']:.1%}"
        for name, interval in (("accuracy", "interval"), ("accuracy_norm", "interval_norm")):
            if name in result:
                bounds = " ({:.1%} to {:.1%})".format(*result[interval])
                print(f"{name:<16} {result[name]:.1%}{bounds} of {result['items']:,} items{chance}")
    for name, row in bundle.get("tasks", {}).items():
        print(f"{name:<34} {row['accuracy']:.4f}, above chance {row['centered']:+.4f}, {row['items']:,} items")
    if bundle:
        print(f"CORE {bundle['core']:.4f} ({bundle['core_interval'][0]:.4f} to {bundle['core_interval'][1]:.4f})")
    for line in _harness_lines(harness):
        print(line)


def _flat(scores: dict[str, Any]) -> dict[str, Any]:
    """Scores of the input copied beside the others."""
    copying = scores.pop("copying")
    return scores | {f"{name} (input copied)": value for name, value in copying.items()}


def _harness_lines(scores: dict[str, dict[str, Any]]) -> Iterator[str]:
    """A line for each metric of each task."""
    width = max(map(len, scores), default=0)
    for name, metric, value, bounds, items in metric_rows(scores):
        interval = f" ({bounds[0]:.4f} to {bounds[1]:.4f})" if bounds else ""
        count = "" if items is None else f" of {items:,} items"
        yield f"{name:<{width}}  {metric:<12} {value:.4f}{interval}{count}"
