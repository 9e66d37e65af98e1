"""[report]: the PDF and the page that tell what happened."""

from groundup.recipe.base_config import BaseConfig, knob


class ReportConfig(BaseConfig):
    title: str | None = knob(None, "title of the report; default: the recipe's name")
    author: str | None = knob(None, "who built the model; left out when not given")
