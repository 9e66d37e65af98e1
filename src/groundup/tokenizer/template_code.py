"""The Python code of a chat template, with charges for work against the budget of its environment."""

# ruff: noqa: N802 (the names of visitors are those of nodes)

from collections.abc import Callable
from typing import Any

from jinja2 import nodes
from jinja2.compiler import CodeGenerator, Frame, operators

TEXT_SHIFT = 5
"""A unit of work is an element of a list, a loop iteration, or 32 bytes of text."""


class ChargingCodeGenerator(CodeGenerator):
    """Python code of a template, with a charge for each iteration, macro, comparison, slice and list."""

    def visit_For(self, node: nodes.For, frame: Frame) -> None:
        tick = _tick(node)
        node.body.insert(0, nodes.ExprStmt(tick, lineno=node.lineno))
        if node.test is not None:
            node.test = nodes.And(tick, node.test)
        super().visit_For(node, frame)

    def macro_body(self, node: Any, frame: Frame) -> Any:
        node.body.insert(0, nodes.ExprStmt(_tick(node), lineno=node.lineno))
        return super().macro_body(node, frame)

    def visit_Template(self, node: nodes.Template, frame: Frame | None = None) -> None:
        for block in node.find_all(nodes.Block):
            block.body.insert(0, nodes.ExprStmt(_tick(block), lineno=block.lineno))
        super().visit_Template(node, frame)

    def visit_Compare(self, node: nodes.Compare, frame: Frame) -> None:
        self.write("(")
        self._charged(self.visit, node.expr, frame)
        for operand in node.ops:
            self.write(f" {operators[operand.op]} ")
            self._charged(self.visit, operand.expr, frame)
        self.write(")")

    def visit_Concat(self, node: nodes.Concat, frame: Frame) -> None:
        join = "markup_join if context.eval_ctx.autoescape else str_join"
        self.write(f"({join})((")
        for part in node.nodes:
            self._charged(self.visit, part, frame)
            self.write(", ")
        self.write("))")

    def visit_Getitem(self, node: nodes.Getitem, frame: Frame) -> None:
        if not isinstance(node.arg, nodes.Slice):
            super().visit_Getitem(node, frame)
            return
        self._charged(self.visit, node.node, frame, "charged_slice")
        self.write("[")
        self.visit(node.arg, frame)
        self.write("]")

    def visit_List(self, node: nodes.List, frame: Frame) -> None:
        self._charged(super().visit_List, node, frame)

    def visit_Dict(self, node: nodes.Dict, frame: Frame) -> None:
        self._charged(super().visit_Dict, node, frame)

    def visit_Tuple(self, node: nodes.Tuple, frame: Frame) -> None:
        if node.ctx == "load":
            self._charged(super().visit_Tuple, node, frame)
        else:
            super().visit_Tuple(node, frame)

    def _charged(self, visit: Callable[..., None], node: Any, frame: Frame, method: str = "charged") -> None:
        self.write(f"environment.{method}(")
        visit(node, frame)
        self.write(")")


def _tick(node: nodes.Node) -> nodes.Expr:
    """A charge for one run of the node: a unit for four nodes in it, and for its text."""
    units, children = 4, [node]
    while children:
        child = children.pop()
        text = getattr(child, "data", None) or getattr(child, "value", None)
        units += 1 + (len(text) >> TEXT_SHIFT - 2 if isinstance(text, str) else 0)
        if child is node or not isinstance(child, nodes.For | nodes.Macro | nodes.CallBlock):
            children.extend(child.iter_child_nodes())
    return nodes.EnvironmentAttribute(f"tick({units // 4})", lineno=node.lineno)
