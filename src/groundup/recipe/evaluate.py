"""[evaluate]: what is measured on the base model."""

from groundup.recipe.section import Section, knob


class EvaluateSection(Section):
    max_tokens: int = knob(200_000, "held-out tokens to score", ge=1_000)
    prompts: tuple[str, ...] = knob(("The",), "beginnings that the model continues in the report")
    sample_tokens: int = knob(80, "tokens of each continuation", ge=1)
    temperature: float = knob(0.7, "of the samples; 0 takes the likeliest token", ge=0)
