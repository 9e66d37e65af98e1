"""All chat templates of a folder, such as those of TRL: ids of transformers, and masks of TRL's training templates.

GROUNDUP_CHAT_TEMPLATES names folders with NAME.jinja files, as in PATH; NAME_training.jinja beside one is the same template
with `{% generation %}` tags.
"""

import os
from pathlib import Path

import pytest
from published_templates import CONVERSATIONS, pair, peer_ids

from groundup.artifacts.errors import UserError
from groundup.tokenizer.assistant_turns import GENERATION_TAG

pytestmark = pytest.mark.interop

FOLDERS = list(filter(None, os.environ.get("GROUNDUP_CHAT_TEMPLATES", "").split(os.pathsep)))
FILES = {path.stem: path for folder in FOLDERS for path in sorted(Path(folder).glob("*.jinja"))}
PAIRS = [name for name in FILES if f"{name}_training" in FILES]

OTHER_TEXT = {
    # Thoughts of earlier answers, which are learnt here; the training templates of TRL leave them out.
    "glm4moe": {"thoughts", "thoughts in the text", "doubled roles"},
    "gptoss": {"thoughts"},
    "diffusion_gemma": {"thoughts"},
    **{
        f"nemotron_3_{size}": {"thoughts", "thoughts in the text"} for size in ("nano", "super", "ultra", "5_lightning")
    },
    # TRL's template keeps thoughts that the model's own template never shows.
    "deepseek_r1_distill": {"thoughts in the text"},
    # The message of the user at the end is left out here; parts of a text are not rendered by the template.
    "qwen3": {"assistant first", "user last", "parts"},
    # The template wants a message of the user first: only the last answer is known.
    **{f"qwen3_{name}": {"assistant first", "user last"} for name in ("5_think", "5_nothink", "6", "8")},
}
OTHER_MASK = {
    # <|tool_response>, at which the model stops, belongs to the answer.
    "diffusion_gemma": {"tools", "ends with a call"},
    # White space after the end-of-turn token belongs to the answer, as in all other templates.
    "llava_next": {"parts"},
    **{f"nemotron_3_{size}": {"assistant first"} for size in ("nano", "super", "ultra", "5_lightning")},
    # The template wants a message of the user first: where the first answer's thoughts are is not known.
    "qwen3_8": {"assistant first"},
}


@pytest.mark.skipif(not FILES, reason="GROUNDUP_CHAT_TEMPLATES names no folder with templates")
@pytest.mark.usefixtures("fixed_date")
@pytest.mark.parametrize("name", FILES)
def test_ids_and_tags_are_those_of_transformers(name: str):
    template = FILES[name].read_text(encoding="utf-8")
    ours, peer = pair(template)
    for title, (messages, names) in CONVERSATIONS.items():
        for prompt in (False, True):
            try:
                ids, mask = peer_ids(peer, messages, add_generation_prompt=prompt, **names)
            except Exception:  # a template refuses in many ways
                with pytest.raises(UserError):
                    ours.render_chat(messages, add_generation_prompt=prompt, **names)
            else:
                assert ours.render_chat(messages, add_generation_prompt=prompt, **names) == ids, (title, prompt)
                if not prompt:
                    learnt = ours.render_chat_with_mask(messages, **names)[1]
                    assert learnt == mask if GENERATION_TAG.search(template) else any(learnt), title


@pytest.mark.usefixtures("fixed_date")
@pytest.mark.parametrize("name", PAIRS)
def test_masks_are_those_of_training_templates(name: str):
    """Token for token, but for the generation prompt, on which some training templates have a loss."""
    native, training = (FILES[each].read_text(encoding="utf-8") for each in (name, f"{name}_training"))
    ours, peer = pair(native, training)
    other_text, other_mask = set(), set()
    for title, (messages, names) in CONVERSATIONS.items():
        try:
            ids, mask = peer_ids(peer, messages, chat_template=training, **names)
            learnt_ids, learnt = ours.render_chat_with_mask(messages, **names)
        except Exception:
            continue
        if learnt_ids != ids:
            other_text.add(title)
        elif learnt != _without_prompt(mask, learnt):
            other_mask.add(title)
    assert other_text <= OTHER_TEXT.get(name, set())
    assert other_mask <= OTHER_MASK.get(name, set())


def _without_prompt(mask: list[int], learnt: list[int]) -> list[int]:
    """`mask` without tokens that are directly before a run of `learnt`."""
    result = list(mask)
    for position in reversed(range(len(result) - 1)):
        following = learnt[position + 1] or (mask[position + 1] and not result[position + 1])
        if result[position] and not learnt[position] and following:
            result[position] = 0
    return result
