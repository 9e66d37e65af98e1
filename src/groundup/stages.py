"""The table of pipeline stages: names, folders, recipe sections, inputs.

Imports nothing, so that every chapter can name a stage's folder; `pipeline` runs the stages.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Stage:
    """One stage of the pipeline.

    Attributes:
        name: name on the command line and in manifests.
        folder: folder in the run folder.
        section: recipe section that turns the stage on.
        function: "module:function" with the signature run(recipe, inputs, out, machine) -> metrics.
        extra_sections: recipe sections that the stage may read, beside `section`.
        inputs: earlier stages whose folders the stage may read, if the recipe has them.
        required_sections: recipe sections that the stage cannot do without.
        version: raised when the same recipe would give a different result than before.
        distributed: runs on all ranks; other stages run on the main rank only.
        checks_inputs: the function itself compares the files that it reads with their hashes; the runner does it for others.
        uses_device: computes on machine.device.
        check: "module:function" of the derived recipe that raises UserError for what the stage would refuse.
        packages: optional packages that the stage imports.
        identity: "module:function" that maps (section, machine) to the content hashes of files outside the run.
    """

    name: str
    folder: str
    section: str
    function: str
    extra_sections: tuple[str, ...] = ()
    inputs: tuple[str, ...] = ()
    required_sections: tuple[str, ...] = ()
    version: int = 1
    distributed: bool = False
    checks_inputs: bool = False
    uses_device: bool = False
    check: str | None = None
    packages: tuple[str, ...] = ()
    identity: str | None = None


STAGES = (
    Stage(
        "data", "01-data", "data", "groundup.data.stage:run", extra_sections=("seed",),
        identity="groundup.data.inputs:input_hashes",
        version=5,
    ),
    Stage(
        "tokenizer", "02-tokenizer", "tokenizer", "groundup.tokenizer.stage:train", extra_sections=("seed",), inputs=("data",),
        required_sections=("data",), identity="groundup.tokenizer.pretrained:hash_tokenizers",
    ),
    Stage("tokens", "03-tokens", "tokenizer", "groundup.tokenizer.stage:encode", inputs=("data", "tokenizer")),
    Stage(
        "base", "04-base", "train", "groundup.train.stage:run", extra_sections=("model", "seed"), inputs=("tokenizer", "tokens"),
        required_sections=("model", "tokenizer"), distributed=True, uses_device=True,
        check="groundup.plan.stage_support:check_base", identity="groundup.tokenizer.token_shards:hash_shards",
    ),
    Stage(
        "scores", "05-scores", "evaluate", "groundup.evaluate.stage:run", extra_sections=("seed",),
        inputs=("tokenizer", "tokens", "base"), required_sections=("train",), uses_device=True,
        check="groundup.plan.stage_support:check_scores",
        identity="groundup.data.inputs:hash_task_files",
    ),
    Stage(
        "chat", "06-chat", "finetune", "groundup.finetune.stage:run", extra_sections=("seed",),
        inputs=("tokenizer", "tokens", "base"), required_sections=("train",), uses_device=True,
        check="groundup.plan.stage_support:check_chat",
        identity="groundup.finetune.conversations:identity",
    ),
    Stage(
        "quantized", "07-quantized", "quantize", "groundup.quantize.stage:run", extra_sections=("seed",),
        inputs=("tokenizer", "tokens", "base", "chat"), required_sections=("train",), uses_device=True,
        check="groundup.plan.stage_support:check_quantized",
    ),
    Stage(
        "export", "08-export", "export", "groundup.interop.stage:run", inputs=("base", "chat"), required_sections=("train",),
        check="groundup.interop.model_export:check_export",
    ),
    Stage(
        "report", "09-report", "report", "groundup.report.stage:run", extra_sections=("name",),
        checks_inputs=True,
        inputs=("data", "tokenizer", "tokens", "base", "scores", "chat", "quantized", "export"),
        packages=("typst", "matplotlib"),
    ),
)  # fmt: skip

STAGE_FOLDERS = {stage.name: stage.folder for stage in STAGES}
