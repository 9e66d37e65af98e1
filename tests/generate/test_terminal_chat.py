"""Terminal chat: turns, commands, dropped turns and interrupts."""

import io
import json
import sys

import pytest
import torch

from groundup.artifacts.errors import UserError
from groundup.generate import GREEDY, stream_text
from groundup.generate.chat_session import ChatSession
from groundup.generate.terminal_chat import chat, read_conversation
from groundup.model import Decoder
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.tokenizer_training import train_bpe

TOKENIZER = train_bpe([], 260)  # the control tokens, and a token a byte


class Scripted(Decoder):
    """A fake model: generates a fixed text and records its prompts."""

    def __init__(self, monkeypatch, script: str, context_length: int = 400):
        super().__init__(
            ModelConfig(vocab_size=300, hidden_size=8, num_layers=1, num_heads=2, context_length=context_length)
        )
        self.prompts: list[str] = []
        self.interrupt_after: int | None = None
        self._script = TOKENIZER.encode(script)
        monkeypatch.setattr("groundup.generate.chat_session.stream_tokens", self._generate)

    def _generate(self, model, prompt, *, max_tokens, sampling, stop_ids):
        self.prompts.append(TOKENIZER.decode(prompt))
        self.sampling = sampling
        for count, id in enumerate(self._script[:max_tokens]):
            if count == self.interrupt_after:
                raise KeyboardInterrupt
            yield id


def run_chat(model, input_text: str, **knobs) -> str:
    output = io.StringIO()
    chat(model, TOKENIZER, GREEDY, input=io.StringIO(input_text), output=output, **knobs)
    return output.getvalue()


def test_each_line_is_a_turn_of_one_conversation(monkeypatch):
    model = Scripted(monkeypatch, "Well.")
    assert run_chat(model, "one\n\n  two  \n", system="Be brief.") == "Well.\nWell.\n"
    assert model.prompts[1] == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\none<|im_end|>\n"
        "<|im_start|>assistant\nWell.<|im_end|>\n<|im_start|>user\ntwo<|im_end|>\n<|im_start|>assistant\n"
    )


def test_a_terminal_gets_no_control_characters_of_the_model(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    model, screen = Scripted(monkeypatch, "\x1b]0;title\x07Hi.\n"), Terminal()
    chat(model, TOKENIZER, GREEDY, input=io.StringIO("one\n"), output=screen)
    assert screen.getvalue() == "\ufffd]0;title\ufffdHi.\n\n"
    assert run_chat(model, "one\n") == "\x1b]0;title\x07Hi.\n\n"


def test_reset_and_quit_commands(monkeypatch):
    model = Scripted(monkeypatch, "Yes.")
    assert run_chat(model, "one\n/reset\ntwo\n/quit\nthree\n") == "Yes.\nYes.\n"
    assert "one" not in model.prompts[1]
    assert len(model.prompts) == 2


def test_full_context_drops_the_oldest_turns_but_not_the_system_message(monkeypatch, capsys):
    model = Scripted(monkeypatch, "ok", context_length=160)
    turns = "".join(f"turn {number}\n" for number in range(8))
    assert run_chat(model, turns, system="SYS", max_tokens=30).count("ok") == 8
    assert all("SYS" in prompt for prompt in model.prompts)
    assert "turn 0" not in model.prompts[-1]
    assert "turn 6" in model.prompts[-1]
    assert all(len(TOKENIZER.encode(prompt)) < 400 for prompt in model.prompts)
    assert "oldest turns were dropped" in capsys.readouterr().err


def test_too_long_turn_is_refused_and_not_recorded(monkeypatch, capsys):
    model = Scripted(monkeypatch, "ok", context_length=100)
    assert run_chat(model, "x" * 200 + "\nshort\n") == "ok\n"
    assert "expected at most" in capsys.readouterr().err
    assert "xxx" not in model.prompts[0]


def test_interrupted_answer_is_recorded_partially(monkeypatch):
    model = Scripted(monkeypatch, "A long answer")
    model.interrupt_after = 6
    session = ChatSession(model, TOKENIZER, GREEDY)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        list(session.send("hello"))
    model.interrupt_after = None
    list(session.send("again"))
    assert "<|im_start|>assistant\nA long<|im_end|>" in model.prompts[1]


def test_ctrl_c_on_a_terminal_stops_the_answer_not_the_program(monkeypatch, capsys):
    model = Scripted(monkeypatch, "A long answer")
    model.interrupt_after = 6
    typed = iter(["hello", KeyboardInterrupt, "again", EOFError])

    def read(prompt: str) -> str:
        line = next(typed)
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("builtins.input", read)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    chat(model, TOKENIZER, GREEDY)  # type: ignore[arg-type]
    assert capsys.readouterr().out.count("A long [stopped]") == 2


def test_invalid_utf8_input_does_not_end_the_chat(monkeypatch):
    model = Scripted(monkeypatch, "ok")
    output = io.StringIO()
    chat(model, TOKENIZER, GREEDY, input=io.TextIOWrapper(io.BytesIO(b"a\xff\nb\n"), "utf-8"), output=output)  # type: ignore[arg-type]
    assert output.getvalue() == "ok\nok\n"


def test_model_without_chat_template_is_refused(monkeypatch):
    with pytest.raises(UserError, match="no chat template"):
        chat(Scripted(monkeypatch, ""), Tokenizer(TOKENIZER.backend), GREEDY)  # type: ignore[arg-type]


def test_chat_with_a_random_model():
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=TOKENIZER.vocab_size, hidden_size=32, num_layers=1, num_heads=2, context_length=128)
    model = Decoder(config).eval()
    assert len(run_chat(model, "hello\n", max_tokens=10)) > 1
    assert "".join(stream_text(model, TOKENIZER, "hello", sampling=GREEDY, max_tokens=10))
    assert "".join(stream_text(model, TOKENIZER, "", sampling=GREEDY, max_tokens=10))


def test_retry_undo_and_system(monkeypatch, capsys):
    model = Scripted(monkeypatch, "Yes.")
    assert run_chat(model, "/retry\none\n/retry\n/undo\n/system Be kind.\ntwo\n/system\nthree\n") == "Yes.\n" * 4
    assert "/retry: there is no message" in capsys.readouterr().err
    assert model.prompts[0] == model.prompts[1]
    assert "one" not in model.prompts[2]
    assert model.prompts[2].startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\ntwo")
    assert "kind" not in model.prompts[3]


def test_lines_that_continue(monkeypatch):
    model = Scripted(monkeypatch, "Yes.")
    run_chat(model, "one\\\ntwo \\\n\\\nthree\n  \nlast\\")
    assert "user\none\ntwo \n\nthree<|im_end|>" in model.prompts[0]
    assert "user\nlast\\<|im_end|>" in model.prompts[1]


def test_an_answer_is_traced(monkeypatch, capsys):
    model = Scripted(monkeypatch, "Yes.")
    assert run_chat(model, "/trace\none\n/trace\n", trace=lambda text: [f"found {text}"]) == "Yes.\nfound Yes.\n"
    assert "/trace: there is no answer" in capsys.readouterr().err
    run_chat(model, "one\n/trace\n")
    assert "/trace: only a run folder" in capsys.readouterr().err


def test_unknown_commands_are_refused_and_slashes_in_messages_are_not(monkeypatch, capsys):
    model = Scripted(monkeypatch, "Yes.")
    assert run_chat(model, "/rest\n/retry now\n/usr/bin is a folder\n//quit\n") == "Yes.\n" * 2
    told = capsys.readouterr().err
    assert "/rest: unknown command" in told
    assert "/retry: takes nothing" in told
    assert "user\n/usr/bin is a folder<" in model.prompts[0]
    assert "user\n/quit<" in model.prompts[1]


def test_saved_conversations_are_training_data(monkeypatch, tmp_path, capsys):
    model, file = Scripted(monkeypatch, "Ja, \u00e9."), tmp_path / "mine.jsonl"
    run_chat(model, f"one\n/save {file}\n/reset\ntwo\n/save {file}\n/save\n/save {tmp_path}\n", system="S")
    first, second = map(json.loads, file.read_text(encoding="utf-8").splitlines())
    assert [turn["content"] for turn in first["messages"]] == ["S", "one", "Ja, \u00e9."]
    assert [turn["content"] for turn in second["messages"]] == ["S", "two", "Ja, \u00e9."]
    told = capsys.readouterr().err
    assert "no file name" in told
    assert "directory" in told


def test_lines_between_fences_are_one_message(monkeypatch):
    model = Scripted(monkeypatch, "Yes.")
    assert run_chat(model, '"""\none\n\n/help\n"""\ntwo\n"""\nthree') == "Yes.\n" * 3
    assert "user\none\n\n/help<|im_end|>" in model.prompts[0]
    assert "user\nthree<|im_end|>" in model.prompts[2]


def test_saved_conversations_are_continued(monkeypatch, tmp_path):
    model, file = Scripted(monkeypatch, "Yes."), tmp_path / "mine.jsonl"
    run_chat(model, f"one\n/save {file}\n", system="S")
    messages = read_conversation(file)
    run_chat(model, "two\n", messages=messages)
    assert (
        "system\nS<|im_end|>\n<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\nYes.<|im_end|>"
        in model.prompts[1]
    )
    run_chat(model, "two\n", messages=messages, system="T")
    assert "S<|im_end|>" not in model.prompts[2]


@pytest.mark.parametrize(
    "content",
    ["", "{", "[1]", '{"messages": 1}', '{"messages": [{"role": "user", "content": "x"}]}',
     '{"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": null}]}',
     '{"messages": [{"role": "tool", "content": "x"}, {"role": "assistant", "content": "y"}]}'],
)  # fmt: skip
def test_files_without_a_conversation_are_refused(tmp_path, content):
    (tmp_path / "x.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"x\.jsonl"):
        read_conversation(tmp_path / "x.jsonl")
    with pytest.raises(UserError, match="No such file"):
        read_conversation(tmp_path / "none.jsonl")


def test_answers_have_at_least_one_token_and_blank_ones_are_left_out(monkeypatch, capsys):
    model = Scripted(monkeypatch, " ")
    assert run_chat(model, "one\ntwo\n") == " \n \n"
    assert capsys.readouterr().err.count("without a word") == 2
    assert model.sampling.min_tokens == 1
    assert "one" not in model.prompts[1]


def test_probabilities_of_tokens():
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=TOKENIZER.vocab_size, hidden_size=32, num_layers=1, num_heads=2, context_length=128)
    model = Decoder(config).eval()
    answer, shown = run_chat(model, "/probabilities\nhello\n", max_tokens=6).rstrip().rsplit("\n  ", 1)
    session = ChatSession(model, TOKENIZER, GREEDY, max_tokens=6)
    assert "".join(session.send("hello")) == answer
    scored = []
    model.head.register_forward_hook(lambda head, inputs, logits: scored.append(len(logits)))
    values = session.token_probabilities()
    assert scored == [len(values)]  # not the logits of the whole conversation
    assert len(values) == 6
    assert shown.count("%") == 6
    prompt = TOKENIZER.render_chat([{"role": "user", "content": "hello"}], add_generation_prompt=True)
    first = model(torch.tensor([prompt])).logits[0, -1].softmax(-1).detach()
    assert values[0][1] == pytest.approx(float(first.max()), abs=1e-5)


def test_refused_messages_are_counted(monkeypatch):
    model = Scripted(monkeypatch, "ok", context_length=100)
    source = io.StringIO("/nothing\n" + "x" * 200 + "\nshort\n")
    assert chat(model, TOKENIZER, GREEDY, input=source, output=io.StringIO()) == 2


def test_history_is_kept_in_a_file_of_ones_own(monkeypatch, tmp_path):
    readline = pytest.importorskip("readline")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    ended: list = []
    monkeypatch.setattr("atexit.register", lambda function, *arguments: ended.append((function, arguments)))
    for line in ("first", "second"):
        readline.clear_history()
        monkeypatch.setattr("builtins.input", lambda prompt: "/quit")
        monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
        chat(Scripted(monkeypatch, "ok"), TOKENIZER, GREEDY)
        readline.add_history(line)
        function, arguments = ended.pop()
        function(*arguments)
    file = tmp_path / "groundup" / "chat_history"
    assert file.read_text().splitlines()[-2:] == ["first", "second"]
    assert file.stat().st_mode & 0o077 == 0
