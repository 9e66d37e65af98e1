"""Which steps a document of a source goes through, in order."""

from groundup.data.clean.gopher import quality_rule
from groundup.data.clean.language import language_rule
from groundup.data.clean.normalise import normalise
from groundup.data.clean.private import replace_private
from groundup.data.clean.step import Change, Rule, Step
from groundup.data.document import Document, Dropped
from groundup.recipe.data import DataSection, SourceKind


def steps(section: DataSection, kind: SourceKind) -> list[Step]:
    """Repair first, then what is cheap and drops most, then what changes the text that stays."""
    found: list[Step] = [
        Change("normalise", normalise),
        Rule("empty", lambda text: None if text.strip() else "empty"),
    ]
    if kind != "code" and section.language.keep:
        found.append(Rule("language", language_rule(section.language)))
    if kind in section.gopher_quality.kinds:
        found.append(Rule("gopher_quality", quality_rule(section.gopher_quality)))
    if section.private:
        found.append(Change("private", replace_private))
    return found


def clean(document: Document, todo: list[Step], trimmed: dict[str, int]) -> Document | Dropped:
    """The document after all steps, or why it fell. Bytes that a change takes from it are added to `trimmed`."""
    text = document.text
    taken: dict[str, int] = {}
    for step in todo:
        if isinstance(step, Change):
            changed = step.apply(text)
            if changed != text:
                taken[step.name] = size(text) - size(changed)
                text = changed
        elif (reason := step.judge(text)) is not None:
            return Dropped(
                step.name if reason == step.name else f"{step.name}: {reason}", document.id, document.text
            )
    for name, amount in taken.items():
        trimmed[name] = trimmed.get(name, 0) + amount
    return Document(text, document.id)


def size(text: str) -> int:
    """Bytes as UTF-8; lone surrogates, which broken input may hold, count as what replaces them."""
    return len(text.encode("utf-8", "surrogatepass"))
