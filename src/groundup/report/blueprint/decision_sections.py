"""Sections of the blueprint for decisions: alternatives, evaluation, deployment, the recipe and the commands."""

from typing import Any

from groundup.report import formatting
from groundup.report.elements import Cell, code, commands, key_values, paragraph, section, strong, table
from groundup.report.sections.recipe_section import recipe_section

DASH = "–"


def alternatives_section(plan: dict[str, Any]) -> dict[str, Any]:
    facts = plan["blueprint"]
    currency = facts["cost"]["currency"]
    budgets = [_alternative(row, row["name"], currency) for row in facts["alternatives"]]
    hardware = [_alternative(row, row["name"], currency, with_size=False) for row in facts["hardware"]]
    elements = [
        paragraph(
            "Pretraining alone, derived as this plan was. ",
            strong("Half and double"),
            " change the hours of the budget; where the recipe names the model or the tokens, the tokens.",
        ),
        table(("", "parameters", "tokens", "time", f"cost ({currency})"), budgets, "Other budgets."),
    ]
    if hardware:
        elements.append(
            table(
                ("device", "number", "memory", "time", f"cost ({currency})"),
                hardware,
                "The same training on other hardware, at the prices of the table; as many devices, "
                "or as many more as hold the model.",
            )
        )
    return section("Alternatives", elements)


def _alternative(row: dict[str, Any], name: str, currency: str, *, with_size: bool = True) -> tuple[Cell, ...]:
    if row["objection"]:
        return (name, row["objection"], DASH, DASH, DASH)
    first = (
        (formatting.short_count(row["parameters"]), formatting.short_count(row["tokens"]))
        if with_size
        else (f"{row['devices']:,}", formatting.byte_size(row["memory_bytes"]))
    )
    return (name, *first, formatting.duration(3600 * row["hours"]), formatting.money(row["cost"]))


def evaluation_section(plan: dict[str, Any]) -> dict[str, Any]:
    recipe, train = plan["blueprint"]["recipe"], plan["train"]
    evaluate, data = recipe.get("evaluate"), recipe.get("data") or {}
    fraction = data.get("validation_fraction", 0.0)
    rows: list[tuple[str, Cell, Cell]] = [
        (
            "while training",
            f"every {train['evaluate_every']:,} steps",
            "loss on held-out text; stop and look if it rises twice in a row",
        ),
        (
            "held-out text",
            f"{100 * fraction:g}% of the documents",
            "never trained on; near duplicates stay on one side",
        ),
    ]
    if evaluate is not None:
        rows += [
            (
                "base model",
                "bits per byte with a 95% interval",
                "must be below the unigram, bigram and compressor baselines",
            ),
            ("base model", "samples at fixed prompts", "read by a person"),
        ]
        rows += [("tasks", task, "accuracy with interval, against chance") for task in evaluate.get("tasks", [])]
    if recipe.get("finetune") is not None:
        rows.append(
            (
                "tuned model",
                "held-out examples, before and after",
                "ordinary text must not become worse by more than 5%",
            )
        )
    if recipe.get("quantize") is not None:
        rows.append(
            (
                "quantized model",
                "KL divergence from the float model",
                "the most likely token the same in 90% of places or more",
            )
        )
    if recipe.get("export") is not None:
        rows.append(("exported files", "logits read back", "equal to the model's within rounding"))
    return section(
        "Evaluation",
        [
            paragraph(
                "What is measured, and what counts as good enough to go on. Every score has an interval; two models are "
                "compared on the same items (",
                code("groundup compare"),
                ").",
            ),
            table(("of", "measure", "accepted if"), rows, "Evaluation plan.", align="lll"),
        ],
    )


def deployment_section(plan: dict[str, Any]) -> dict[str, Any]:
    facts, model = plan["blueprint"], plan["model"]
    rows = facts["deployments"]
    currency = facts["cost"]["currency"]
    sizes = {row["format"]["name"]: row for row in rows}
    by_size = [(name, formatting.byte_size(row["weight_bytes"]), row["format"]["use"]) for name, row in sizes.items()]
    elements = [table(("format", "size", "for"), by_size, "Size of the weights.", align="lrl")]
    if model["architecture"] == "encoder":
        return section("Deployment", elements)
    served = [
        (
            row["device"],
            row["format"]["name"],
            *(
                ("does not fit", DASH, DASH, DASH)
                if not row["users"]
                else (
                    f"{row['users']:,}",
                    f"{row['user_tokens_per_second']:,.0f}",
                    formatting.short_count(row["tokens_per_second"]),
                    DASH if row["cost_per_million"] is None else formatting.money(row["cost_per_million"]),
                )
            ),
        )
        for row in rows
        if row["format"]["name"] in ("bfloat16", "GPTQ or AWQ, 4 bits")
    ]
    cache: list[tuple[str, Cell]] = [
        (
            "Cache",
            f"{formatting.byte_size(facts['cache_bytes'])} for one text of "
            f"{model['context_length']:,} tokens, keys and values in bfloat16; "
            f"{formatting.byte_size(facts['cache_bytes'] / model['context_length'])} a token",
        ),
        ("Users", "texts of full context that fit beside the weights, 256 at most"),
        (
            "Rates",
            "by roofline: 70% of the memory bandwidth, 40% of the arithmetic peak; prompts are "
            "extra. Measure before promising: groundup serve",
        ),
    ]
    elements += [
        table(
            ("device", "format", "users", "tokens/s, one user", "tokens/s, all", f"{currency} per million"),
            served,
            "Serving on one device.",
            align="llrrrr",
        ),
        key_values(cache),
    ]
    return section("Deployment", elements)


def recipe_and_commands(plan: dict[str, Any]) -> list[dict[str, Any]]:
    """Two sections: the commands, and the recipe as TOML."""
    recipe, name = plan["blueprint"]["recipe"], plan["name"]
    file = f"{name}.toml"
    lines = [
        (f"groundup plan {file}", "this plan, in the terminal"),
        (f"groundup plan {file} --simulate", "memory counted on one rank with fake tensors"),
        (f"groundup ladder {file}", "predict the loss from small models on this text"),
    ]
    if plan["budget"]["devices"] > 8:
        lines.append((f"groundup launch {file} --on slurm", "a job file for the cluster"))
    else:
        lines.append((f"groundup run {file}", "all stages; the same command continues after a stop"))
    lines += [
        (f"groundup watch runs/{name}", "curves while it trains"),
        (f"groundup report runs/{name}", "the plan beside the outcome, as a PDF"),
        ("groundup plan --history", "how wrong the plans of this machine were"),
    ]
    listing = recipe_section({"recipe": recipe})
    sections = [section("Commands", [commands(lines)])]
    return [*sections, listing] if listing else sections
