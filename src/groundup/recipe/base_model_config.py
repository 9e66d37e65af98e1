"""[base]: a model that exists, from which the recipe starts."""

from groundup.recipe.base_config import BaseConfig, knob


class BaseModelConfig(BaseConfig):
    """[base]: a model that takes the place of pretraining; with [train], its weights are trained further."""

    model: str = knob(
        meaning="model to start from: a Hugging Face folder, a .gguf file, a run, a stage of one, or an adapter folder; known by "
        "its content"
    )
    add_tokens: tuple[str, ...] = knob(
        (),
        "tokens to add to the vocabulary of a decoder, such as tags; their rows begin as the mean of the others, and [finetune] "
        "trains them",
    )
