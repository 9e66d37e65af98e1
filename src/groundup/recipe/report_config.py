"""[report]: the PDF and HTML report of a run."""

from groundup.recipe.base_config import BaseConfig, knob


class ReportConfig(BaseConfig):
    title: str | None = knob(None, "title", unset="name of the recipe")
    author: str | None = knob(None, "author", unset="left out")
