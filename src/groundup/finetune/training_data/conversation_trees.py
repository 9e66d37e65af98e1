"""Trees of messages (OpenAssistant, Köpf et al. 2023), flat or nested, as conversations.

{"message_id": "2", "parent_id": "1", "role": "assistant", "text": "Hi", "message_tree_id": "1"}     a message a line
{"message_tree_id": "1", "prompt": {"role": "prompter", "text": "Hello", "replies": [...]}}          a tree a line

Each answer that no other one follows is the end of a conversation. Answers that several share are learnt in the first of them.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from groundup.data.chat_message import normal_message
from groundup.data.conversation_shapes import Messages
from groundup.data.record_files import FileRecord

Node = Mapping[str, Any]


def join_trees(records: Iterable[FileRecord]) -> Iterator[FileRecord]:
    """Records without trees as they are; of trees the conversations, at the line of their last message."""
    rows: list[FileRecord] = []
    for record in records:
        if rows and not (_is_row(record.value) and _tree(record) == _tree(rows[-1])):
            yield from _conversations_of_rows(rows)
            rows = []
        if _is_row(record.value):
            rows.append(record)
        elif isinstance(record.value, Mapping) and _is_node(record.value.get("prompt")):
            for messages, _ in _conversations(record.value["prompt"]):
                yield FileRecord({"messages": messages}, record.file, record.line)
        else:
            yield record
    yield from _conversations_of_rows(rows)


def _is_row(value: Any) -> bool:
    if not isinstance(value, Mapping) or not {"message_id", "role", "text"} <= value.keys():
        return False
    return isinstance(value["message_id"], str | int) and isinstance(value.get("parent_id"), str | int | None)


def _is_node(value: Any) -> bool:
    return isinstance(value, Mapping) and isinstance(value.get("replies"), list)


def _tree(record: FileRecord) -> tuple[str, Any]:
    return record.file, record.value.get("message_tree_id")


def _conversations_of_rows(rows: list[FileRecord]) -> Iterator[FileRecord]:
    nodes = {row.value["message_id"]: dict(row.value) | {"replies": []} for row in rows}
    lines = {row.value["message_id"]: (row.file, row.line) for row in rows}
    roots = []
    for node in nodes.values():
        parent = nodes.get(node.get("parent_id"))
        (roots if parent is None else parent["replies"]).append(node)
    for root in roots:
        for messages, last in _conversations(root):
            yield FileRecord({"messages": messages}, *lines[last["message_id"]])


def _conversations(root: Node) -> Iterator[tuple[Messages, Node]]:
    """The conversations of a tree, depth first, and the node of their last message."""
    learnt: set[int] = set()
    stack: list[tuple[Node, ...]] = [(root,)]
    while stack:
        path = stack.pop()
        replies = [node for node in path[-1].get("replies") or () if isinstance(node, Mapping)]
        stack += [(*path, reply) for reply in reversed(replies)]
        is_answer = normal_message(path[-1])["role"] == "assistant"
        if not is_answer or any(node.get("replies") for node in replies):
            continue
        messages = []
        for node in path:
            message = normal_message(node)
            if message["role"] == "assistant" and id(node) in learnt:
                message["weight"] = 0
            learnt.add(id(node))
            messages.append(message)
        yield messages, path[-1]
