"""Conversations in each published shape, from bytes as they are, to their normal form; what is dropped, with its line."""

import bz2
import gzip
import io
import json
import lzma
import re
import zipfile
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.progress import Progress
from groundup.data.conversation_shapes import in_turn
from groundup.finetune.training_data.conversations import read_conversations
from groundup.finetune.training_data.read_stats import CHANGES, DROP_REASONS
from groundup.recipe.finetune_config import ConversationSourceConfig

HELLO = in_turn(["Hello", "Hi"])
SYSTEM = [{"role": "system", "content": "Be kind."}]
CALL = [{"type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}]
OPENAI_CALL = (
    '{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}}'
)
WEATHER = [
    {"role": "user", "content": "Weather?"},
    {"role": "assistant", "content": "", "tool_calls": CALL},
    {"role": "tool", "content": "4 C"},
    {"role": "assistant", "content": "It is 4 C."},
]


class LogOfLines(Progress):
    def __init__(self):
        self.lines: list[str] = []

    def log(self, message: str) -> None:
        self.lines.append(message)


def read(tmp_path, data: str | bytes, name="a.jsonl", doubled="merge", machine=None, **knobs):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(data.encode() if isinstance(data, str) else data)
    source = ConversationSourceConfig(name="d", kind="messages", path=str(tmp_path / name.split("/")[0]), **knobs)
    return read_conversations([source], machine or Machine(), doubled)


SHAPES = {
    "OpenAI": ("a.jsonl", '{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi"}]}', HELLO),
    "developer and tool": (
        "a.jsonl",
        '{"messages": [{"role": "developer", "content": "Be kind."}, {"role": "user", "content": "Weather?"}, '
        f'{{"role": "assistant", "content": null, "tool_calls": [{OPENAI_CALL}]}}, '
        '{"role": "tool", "tool_call_id": "call_1", "content": "4 C"}, {"role": "assistant", "content": "It is 4 C."}]}',
        [{"role": "developer", "content": "Be kind."}, WEATHER[0],
         WEATHER[1] | {"tool_calls": [CALL[0] | {"id": "call_1"}]}, WEATHER[2] | {"tool_call_id": "call_1"}, WEATHER[3]],
    ),
    "function_call": (
        "a.jsonl",
        '{"messages": [{"role": "user", "content": "Weather?"}, {"role": "assistant", "content": null, '
        '"function_call": {"name": "weather", "arguments": "{\\"city\\": \\"Oslo\\"}"}}, '
        '{"role": "function", "name": "weather", "content": "4 C"}, {"role": "assistant", "content": "It is 4 C."}]}',
        [*WEATHER[:2], WEATHER[2] | {"name": "weather"}, WEATHER[3]],
    ),
    "reasoning": (
        "a.jsonl",
        '{"messages": [{"role": "user", "content": "Hello"}, '
        '{"role": "assistant", "reasoning_content": "Nice.", "content": "Hi"}]}',
        [HELLO[0], HELLO[1] | {"reasoning_content": "Nice."}],
    ),
    "parts": (
        "a.jsonl",
        '{"messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}, '
        '{"role": "assistant", "content": "Hi"}]}',
        HELLO,
    ),
    "weight": (
        "a.jsonl",
        '{"messages": [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi", "weight": 0}, '
        '{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi", "weight": 1}]}',
        [HELLO[0], HELLO[1] | {"weight": 0}, *HELLO],
    ),
    "ShareGPT": (
        "a.json",
        '[\n {"id": "1", "system": "Be kind.", "conversations": [{"from": "human", "value": "Weather?"}, '
        '{"from": "function_call", "value": "{\\"name\\": \\"weather\\", \\"arguments\\": {\\"city\\": \\"Oslo\\"}}"},\n'
        '{"from": "observation", "value": "4 C"}, {"from": "gpt", "value": "It is 4 C."}], "tools": "[]"}\n]',
        SYSTEM + WEATHER,
    ),
    "Alpaca": (
        "a.json",
        '[{"instruction": "Hello", "input": "", "output": "Hi", "system": "Be kind.", "history": [["a", "b"]]}]',
        SYSTEM + in_turn(["a", "b"]) + HELLO,
    ),
    "Alpaca input": ("a.jsonl", '{"instruction": "Translate", "input": "x", "output": "y"}', in_turn(["Translate\n\nx", "y"])),
    "Dolly": ("a.jsonl", '{"instruction": "Hello", "context": "", "response": "Hi", "category": "qa"}', HELLO),
    "prompt and completion": ("a.jsonl", '{"prompt": "The sky is", "completion": " blue."}', in_turn(["The sky is", " blue."])),
    "TRL": (
        "a.jsonl",
        '{"prompt": [{"role": "user", "content": "Hello"}], "completion": [{"role": "assistant", "content": "Hi"}]}',
        HELLO,
    ),
    "UltraChat 200k": (
        "a.jsonl",
        '{"prompt": "Hello", "prompt_id": "7", "messages": [{"content": "Hello", "role": "user"}, '
        '{"content": "Hi", "role": "assistant"}]}',
        HELLO,
    ),
    "UltraChat": ("a.jsonl", '{"id": "0", "data": ["Hello", "Hi"]}', HELLO),
    "OpenOrca": ("a.jsonl", '{"system_prompt": "Be kind.", "question": "Hello", "response": "Hi"}', SYSTEM + HELLO),
    "Aya": ("a.jsonl", '{"inputs": "Hello", "targets": "Hi", "language": "English"}', HELLO),
    "a list a line": ("a.jsonl", f"{json.dumps(HELLO)}\n{json.dumps(HELLO[:1])}\n", HELLO),
    "a list alone": ("a.json", json.dumps(HELLO), HELLO),
    "a list over several lines": ("a.json", json.dumps(HELLO, indent=1), HELLO),
    "lists in a list": ("a.json", json.dumps([HELLO]), HELLO),
    "an object with a list": ("a.json", json.dumps({"version": 1, "data": [{"messages": HELLO}]}, indent=1), HELLO),
    "no suffix": ("a", json.dumps({"messages": HELLO}) + "\n", HELLO),
    "CSV": ("a.csv", "\ufeffPrompt;Completion\r\nHello;Hi\r\n", HELLO),
    "TSV": ("a.tsv", "question\tanswer\nHello\tHi\n", HELLO),
    "lists in a table, as pandas writes them": ("a.csv", f'messages,id\n"{HELLO}",1\n', HELLO),
    "gzip": ("a.jsonl.gz", gzip.compress(json.dumps({"messages": HELLO}).encode()), HELLO),
    "bzip2": ("a.json.bz2", bz2.compress(json.dumps([{"messages": HELLO}]).encode()), HELLO),
    "xz": ("a.csv.xz", lzma.compress(b"prompt,completion\nHello,Hi\n"), HELLO),
    "Zstandard": ("a.jsonl.zst", pyarrow.compress(json.dumps({"messages": HELLO}).encode(), "zstd", asbytes=True), HELLO),
}  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_published_shapes(tmp_path, shape):
    name, data, messages = SHAPES[shape]
    found, _ = read(tmp_path, data, name)
    assert [conversation.messages for conversation in found] == [messages]


def test_the_page_names_all_reasons_and_its_example_runs(tmp_path, monkeypatch):
    page = (Path(__file__).parents[2] / "book" / "conversations.md").read_text()
    named = set(re.findall(r"`(\w+)`", page))
    assert set(DROP_REASONS) - {"format_string", "untranslated"} | set(CHANGES) <= named
    monkeypatch.chdir(tmp_path)
    exec(compile(page.split("```python\n")[1].split("```")[0], "conversations.md", "exec"), {})


def arrow_bytes(rows, kind="parquet") -> bytes:
    table, sink = pyarrow.Table.from_pylist(rows), io.BytesIO()
    if kind == "parquet":
        pyarrow.parquet.write_table(table, sink)
    else:
        make = pyarrow.ipc.new_stream if kind == "stream" else pyarrow.ipc.new_file
        with make(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


@pytest.mark.parametrize("kind", ["parquet", "stream", "file"])
def test_arrow_fills_no_arguments_with_nulls(tmp_path, kind):
    """Arrow gives each object the fields of all others: a call would have arguments that it never had."""
    other = [{"type": "function", "function": {"name": "time", "arguments": {"zone": "UTC"}}}]
    asked = [WEATHER[0], WEATHER[1] | {"tool_calls": other}]
    data = arrow_bytes([{"messages": WEATHER}, {"messages": asked}], kind)
    found, _ = read(tmp_path, data, "a.parquet" if kind == "parquet" else "a.arrow")
    assert [conversation.messages for conversation in found] == [WEATHER, asked]


@pytest.mark.parametrize("is_hub", [True, False])
def test_folders_of_datasets(tmp_path, is_hub):
    """As downloaded from the Hub, and as written by `save_to_disk` for a dictionary of splits."""
    train, test = arrow_bytes([{"messages": HELLO}]), arrow_bytes([{"messages": in_turn(["held", "out"])}])
    files: dict[str, bytes] = {
        "README.md": b"# A set", "data/train_sft-00000-of-00001.parquet": train, "data/test_sft-00000-of-00001.parquet": test,
    }  # fmt: skip
    if not is_hub:
        stream = arrow_bytes([{"messages": HELLO}], "stream")
        held_out = arrow_bytes([{"messages": in_turn(["held", "out"])}], "stream")
        files = {
            "dataset_dict.json": b'{"splits": ["train", "test"]}', "train/state.json": b'{"_fingerprint": "1"}',
            "train/dataset_info.json": b'{"features": {}}', "train/data-00000-of-00001.arrow": stream,
            "train/cache-0a1b.arrow": held_out, "test/data-00000-of-00001.arrow": held_out,
        }  # fmt: skip
    for name, data in files.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(data)
    machine = Machine(progress=LogOfLines())
    source = ConversationSourceConfig(name="set", kind="messages", path=str(tmp_path / "set"))
    found, stats = read_conversations([source], machine)
    assert [conversation.messages for conversation in found] == [HELLO]
    assert stats.summary() == {"read": 1, "kept": 1, "dropped": {}}
    assert machine.progress.lines[0].startswith(f"set: left out {len(files) - 1} of {len(files)} files: ")
    path = tmp_path / "set" / ("data/test_*" if is_hub else "test")
    only_test = ConversationSourceConfig(name="set", kind="messages", path=str(path))
    assert len(read_conversations([only_test], machine)[0]) == 1, "a split that is named is read"


def test_archives(tmp_path):
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("b.jsonl", json.dumps({"messages": in_turn(["b", "c"])}))
        archive.writestr("a.jsonl", json.dumps({"messages": HELLO}))
        archive.writestr("LICENSE", "free")
    found, _ = read(tmp_path, sink.getvalue(), "set.zip")
    assert [conversation.opening for conversation in found] == ["Hello", "b"]


ROWS = [
    {"message_id": "1", "parent_id": None, "message_tree_id": "1", "role": "prompter", "text": "Hello"},
    {"message_id": "2", "parent_id": "1", "message_tree_id": "1", "role": "assistant", "text": "Hi"},
    {"message_id": "3", "parent_id": "2", "message_tree_id": "1", "role": "prompter", "text": "a"},
    {"message_id": "4", "parent_id": "3", "message_tree_id": "1", "role": "assistant", "text": "b"},
    {"message_id": "5", "parent_id": "3", "message_tree_id": "1", "role": "assistant", "text": "c"},
    {"message_id": "6", "parent_id": "1", "message_tree_id": "1", "role": "assistant", "text": "Ho"},
    {"message_id": "7", "parent_id": "6", "message_tree_id": "1", "role": "prompter", "text": "left hanging"},
]


def nested(row) -> dict:
    return row | {"replies": [nested(other) for other in ROWS if other["parent_id"] == row["message_id"]]}


@pytest.mark.parametrize("is_flat", [True, False])
def test_trees(tmp_path, is_flat):
    """OpenAssistant: an answer that two conversations share is learnt in the first of them."""
    rows = (
        [*ROWS, {"messages": in_turn(["x", "y"])}] if is_flat else [{"message_tree_id": "1", "prompt": nested(ROWS[0])}]
    )
    found, _ = read(tmp_path, "\n".join(map(json.dumps, rows)))
    assert [conversation.messages for conversation in found][:3] == [
        in_turn(["Hello", "Hi", "a", "b"]),
        [HELLO[0], HELLO[1] | {"weight": 0}, *in_turn(["a", "c"])],
        in_turn(["Hello", "Ho"]),
    ]
    assert [conversation.line for conversation in found] == ([4, 5, 6, 8] if is_flat else [1, 1, 1])


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", '[\n {"from": "human", "value": "a"\ufffd},\n {"from": "gpt", "value": "b"}]'),
        ("a.json", '[\n {"from": "human", "value": "a"},\n {"from": "gpt", "value": "b"\ufffd}]'),
        ("a.jsonl", '{"message_id": [], "role": "prompter", "text": "a"}'),
        ("a.jsonl", '{"message_id": "1", "parent_id": [2], "role": "prompter", "text": "a"}'),
    ],
)
def test_damaged_records_are_counted(tmp_path, name, data):
    good = json.dumps({"messages": HELLO})
    with pytest.raises(UserError, match=r"no conversations in d \(1 entries read\)"):
        read(tmp_path, data, name)
    if name == "a.jsonl":
        assert read(tmp_path, f"{good}\n{data}", name)[1].dropped == {"malformed": 1}


def test_tools_are_kept(tmp_path):
    tools = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
    for given in (tools, json.dumps(tools)):
        assert read(tmp_path, json.dumps({"messages": WEATHER, "tools": given}))[0][0].tools == tools


def test_lines_end_at_line_feeds_alone(tmp_path):
    messages = in_turn(["a\u2028b\u0085c\u000bd", "e\u2029f\rg"])
    found, _ = read(tmp_path, json.dumps({"messages": messages}, ensure_ascii=False) + "\n")
    assert [conversation.messages for conversation in found] == [messages]


def test_text_is_not_changed(tmp_path):
    messages = in_turn(["  def f():\n\tPass?  ", "\n    ```x```\n"])
    assert read(tmp_path, json.dumps({"messages": messages}))[0][0].messages == messages


def test_drops_have_a_reason_a_file_and_a_line(tmp_path):
    image = [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}, HELLO[1]]
    lines: list[str | bytes] = [
        json.dumps({"messages": HELLO}),
        json.dumps({"messages": HELLO}),
        "{broken",
        '{"messages": [{"role": "user", "content": "\\ud83d"}, {"role": "assistant", "content": "x"}]}',
        b'{"messages": [{"role": "user", "content": "\xff \xc3\xa9 \xc3\xa9 \xc3\xa9"}, {"role": "assistant", "content": "x"}]}',
        json.dumps({"messages": image}),
        json.dumps({"messages": [{"role": "narrator", "content": "a"}, HELLO[1]]}),
        json.dumps({"messages": [{"role": "user", "content": None}, HELLO[1]]}),
        json.dumps({"messages": HELLO[:1]}),
        json.dumps({"messages": [HELLO[0], HELLO[1] | {"weight": 0}]}),
        json.dumps({"prompt": "a", "completion": "b", "label": False}),
        "[]",
        "",
        "7",
    ]
    _, stats = read(tmp_path, b"\n".join(line if isinstance(line, bytes) else line.encode() for line in lines))
    assert [(each["reason"], each["line"]) for each in stats.positions] == [
        ("duplicate", 2), ("broken_line", 3), ("lone_surrogate", 4), ("not_utf8", 5), ("not_text", 6), ("unknown_role", 7),
        ("empty_turn", 8), ("no_answer", 9), ("nothing_learnt", 10), ("undesirable", 11), ("malformed", 12), ("malformed", 14),
    ]  # fmt: skip
    assert all(each["file"] == "a.jsonl" and each["source"] == "d" and "item" in each for each in stats.positions)
    assert "1 duplicate of an earlier one (a.jsonl:2)" in stats.describe()


def test_rows_of_another_width_and_lines_of_quoted_cells(tmp_path):
    _, stats = read(tmp_path, 'prompt,completion\n"a\nb",c\nd\ne,f\n', "a.csv")
    assert [(each["reason"], each["line"]) for each in stats.positions] == [("broken_row", 4)]


def test_turns_after_the_last_answer_are_counted(tmp_path):
    found, stats = read(tmp_path, json.dumps({"messages": [*HELLO, HELLO[0]]}))
    assert found[0].messages == HELLO
    assert stats.summary()["changed"] == {"ends_with_user": 1}


def test_a_system_message_and_an_answer(tmp_path):
    messages = [*SYSTEM, HELLO[1]]
    assert read(tmp_path, json.dumps({"messages": messages}))[0][0].messages == messages


def test_doubled_roles(tmp_path):
    data = json.dumps({"messages": [HELLO[0], *WEATHER, HELLO[1] | {"weight": 0}]})
    found, stats = read(tmp_path, data)
    assert (
        found[0].messages
        == [
            {"role": "user", "content": "Hello\n\nWeather?"},
            *WEATHER[1:3],
            {"role": "assistant", "content": "It is 4 C.\n\nHi", "weight": 0},
        ]
        or stats.dropped
    )
    found, stats = read(tmp_path, json.dumps({"messages": [HELLO[0], *HELLO, HELLO[1]]}), doubled="keep")
    assert found[0].messages == [HELLO[0], *HELLO, HELLO[1]]
    with pytest.raises(UserError, match="1 two turns of one role behind each other"):
        read(tmp_path, json.dumps({"messages": [HELLO[0], *HELLO]}), doubled="drop")


def test_columns_name_other_fields(tmp_path):
    data = '{"Frage": "Hello", "Antwort": "Hi", "messages": "none"}'
    with pytest.raises(UserError, match="no conversations in d") as raised:
        read(tmp_path, data)
    assert "fields: Frage, Antwort" in str(raised.value)
    assert 'columns = {prompt = "FIELD", completion = "FIELD"}' in str(raised.value)
    assert read(tmp_path, data, columns={"prompt": "Frage", "completion": "Antwort"})[0][0].messages == HELLO
    data = '{"chat": {"log": [{"speaker": "human", "says": "Hello"}, {"speaker": "bot", "says": "Hi"}]}}'
    columns = {"messages": "chat.log", "role": "speaker", "content": "says"}
    assert read(tmp_path, data, columns=columns)[0][0].messages == HELLO


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.jsonl.gz", b"\x1f\x8b\x08broken", "damaged"),
        ("a.parquet", b"PAR1broken", "damaged table"),
        ("a.txt", "Hello\nHi\n", "no known format of records"),
        ("a.jsonl", '{"prompt": "a", "chosen": "b", "rejected": "c"}', r"for the table \[preference\]"),
    ],
)
def test_other_files_are_refused(tmp_path, name, data, message):
    with pytest.raises(UserError, match=message):
        read(tmp_path, data, name)
