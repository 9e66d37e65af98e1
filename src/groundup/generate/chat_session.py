"""A conversation with a model."""

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime

import torch
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.generate.detokenizer import StreamDetokenizer
from groundup.generate.generation import require_generative, stream_tokens
from groundup.generate.sampling import SamplingParams
from groundup.model import EncoderDecoder
from groundup.tokenizer import Tokenizer


class ChatSession:
    """A conversation with a model. The oldest turns are dropped when the context is full, the system message never.

    Args:
        sampling: an answer has at least one token, whatever `min_tokens` is: a small model ends its turn at once where it was
            never taught an answer.
        max_tokens: longest answer. min(max_tokens, context_length / 8) tokens of the context are reserved for it.
        messages: an earlier conversation, which is continued; `system` takes the place of its system message.

    Raises UserError when the tokenizer has no chat template.

    >>> session = ChatSession(model, tokenizer, system="Be brief.")
    >>> print("".join(session.send("Hello")))
    """

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        sampling: SamplingParams = SamplingParams(),  # noqa: B008  (frozen)
        *,
        system: str | None = None,
        max_tokens: int = 256,
        messages: Sequence[Mapping[str, str]] = (),
    ):
        if isinstance(model := require_generative(model), EncoderDecoder):
            raise UserError(
                "the model is an encoder-decoder, which turns one text into another and does not chat",
                hint="groundup generate MODEL --prompt TEXT",
            )
        if tokenizer.chat_template is None:
            raise UserError(
                "the model has no chat template: it is a base model",
                hint="continue a text with: groundup generate MODEL; or chat with the 06-chat model of a run",
            )
        self._model, self._tokenizer = model, tokenizer
        self._sampling = replace(sampling, min_tokens=max(sampling.min_tokens, 1))
        self._max_tokens = max_tokens
        self._system = [dict(message) for message in messages if message["role"] == "system"]
        self._turns = [dict(message) for message in messages if message["role"] != "system"]
        if system is not None:
            self.set_system(system)
        self._last: tuple[list[int], list[int]] = [], []
        self.num_dropped_turns = 0

    @property
    def messages(self) -> list[dict[str, str]]:
        """The system message and the turns that are not dropped."""
        return [*self._system, *self._turns]

    def set_system(self, text: str | None) -> None:
        """Replace the system message; None: remove it."""
        self._system = [] if text is None else [{"role": "system", "content": text}]

    def reset(self) -> None:
        """Drop all turns; the system message stays."""
        self._turns, self._last = [], ([], [])
        self.num_dropped_turns = 0

    def undo(self) -> str | None:
        """Remove the last user turn and its answer. Returns the user's text, or None when there is none."""
        user = [index for index, turn in enumerate(self._turns) if turn["role"] == "user"]
        if not user:
            return None
        text = self._turns[user[-1]]["content"]
        self._turns = self._turns[: user[-1]]
        return text

    def send(self, text: str) -> Generator[str]:
        """Yield the answer to a user turn in chunks. A partial answer is recorded when the caller stops reading.

        A turn without an answer is not recorded either, lest the model learn from it to say nothing.

        Raises UserError, and records nothing, when `text` alone is too long for the context.
        """
        turns = [*self._turns, {"role": "user", "content": text}]
        prompt, num_dropped = self._build_prompt(turns)
        self._turns = turns[num_dropped:]
        self.num_dropped_turns += num_dropped
        detokenizer = StreamDetokenizer(self._tokenizer, prompt)
        answer, ids = "", []
        self._last = prompt, ids
        try:
            for token in stream_tokens(
                self._model,
                prompt,
                max_tokens=self._max_tokens,
                sampling=self._sampling,
                stop_ids=self._tokenizer.stop_ids,
            ):
                ids.append(token)
                if chunk := detokenizer.push(token):
                    answer += chunk
                    yield chunk
            if chunk := detokenizer.finish():
                answer += chunk
                yield chunk
        finally:
            if answer.strip():
                self._turns.append({"role": "assistant", "content": answer})
            else:
                self._turns.pop()

    @torch.inference_mode()
    def token_probabilities(self) -> list[tuple[str, float]]:
        """The tokens of the last answer and their probabilities at temperature 1: a pass over the prompt and the answer."""
        prompt, ids = self._last
        if not ids:
            return []
        tokens = torch.tensor([prompt + ids], device=next(self._model.parameters()).device)
        logits = self._model.logits(self._model.hidden_states(tokens)[0, len(prompt) - 1 : -1]).float()
        chosen = logits.softmax(dim=-1).gather(1, torch.tensor(ids, device=logits.device)[:, None])[:, 0]
        return [(self._tokenizer.decode([id]), value) for id, value in zip(ids, chosen.tolist(), strict=True)]

    def _build_prompt(self, turns: list[dict[str, str]]) -> tuple[list[int], int]:
        """The prompt, and the number of oldest turns dropped from it, in pairs."""
        context_length = self._model.config.cached_context_length
        max_prompt = context_length - max(min(self._max_tokens, context_length // 8), 1)
        prompt: list[int] = []
        for first in range(0, len(turns), 2):
            prompt = self._tokenizer.render_chat(
                self._system + turns[first:], add_generation_prompt=True, now=datetime.now()
            )
            if len(prompt) <= max_prompt:
                return prompt, first
        raise UserError(
            f"the conversation has {len(prompt)} tokens, expected at most {max_prompt}", hint="shorten the message"
        )
