"""Functions, methods and classes in a file, found with tree-sitter.

Promises:
- No two definitions overlap. A function or method that is taken is taken whole. A class is taken
  only if nothing inside it is. So no code stands in two records.
- Which definitions are taken depends on the file alone.
- A definition that does not parse is left out. Those next to it are not.

Does not: look for what is declared without a body, or for functions inside an expression that gives
them no name.
"""

import re
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import itemgetter

from tree_sitter import Node

from privcode.data.collect.documentation import comment, docstring
from privcode.data.collect.grammars import GRAMMARS, Grammar
from privcode.syntax.spans import parse

_ANONYMOUS = ("arrow_function", "function_expression", "generator_function")
_WRAPPERS = (
    "decorated_definition",
    "export_statement",
    "template_declaration",
    "lexical_declaration",
    "variable_declaration",
    "variable_declarator",
    "assignment_expression",
    "expression_statement",
    "field_definition",
    "public_field_definition",
)
_ATTRIBUTES = ("attribute_item", "decorator")
_KINDS = re.compile(r"\b(class|struct|enum|interface|trait|protocol|record|actor|extension|type)\b")
_TRIVIAL = re.compile(r"pass|\.\.\.|raise NotImplementedError\b.*", re.DOTALL)


@dataclass(frozen=True)
class Definition:
    """A definition of a file. Rows are lines from 1. Offsets are bytes of the file's text.

    Attributes:
        kind: function, method, class, or another word for a type.
        owner: the name of a method's class, or None.
        signature: from its first modifier to its body.
        documentation: without marks. "" if there is none.
        code: the whole definition without its documentation, moved to the left margin.
        rows: its first and last line, with documentation.
        owner_rows: the line that names the owner.
        statements: offsets of its statements, without documentation.
        blocks: offsets of the statements of several lines inside them, outer ones first.
    """

    kind: str
    owner: str | None
    signature: str
    documentation: str
    code: str
    rows: tuple[int, int]
    owner_rows: tuple[tuple[int, int], ...]
    statements: tuple[int, int]
    blocks: tuple[tuple[int, int], ...]


Owner = tuple[str, int]
"""The name of the type that a method belongs to, and the row that names it, or 0."""


@dataclass
class _File:
    """A parsed file: its bytes, definitions in order, and comments on lines of their own."""

    source: bytes
    language: str
    grammar: Grammar
    functions: list[tuple[Node, Owner | None]] = field(default_factory=list)
    classes: list[Node] = field(default_factory=list)
    comments: dict[int, Node] = field(default_factory=dict)

    def text(self, start: int, end: int) -> str:
        return self.source[start:end].decode("utf-8", "replace")

    def span(self, start: int, end: int) -> tuple[int, int]:
        """The offsets without white space at the end, which some grammars count to a block."""
        return start, start + len(self.source[start:end].rstrip())

    def indent(self, node: Node) -> str | None:
        """The white space before a node. None if something else stands on its line before it."""
        before = self.source[self.source.rfind(b"\n", 0, node.start_byte) + 1 : node.start_byte]
        return before.decode() if not before.strip() else None


def definitions(
    text: str,
    language: str,
    wanted: Callable[[Definition], str | None],
    skipped: Counter[str],
    *,
    classes: bool = True,
) -> list[Definition]:
    """The definitions of a file that can be records, in the order of the file.

    Args:
        text: the file, with line feeds at the ends of its lines.
        language: canonical name.
        wanted: says why a definition is not wanted, or None.
        skipped: is increased by reasons.
        classes: whether classes are taken where nothing inside them is.
    """
    file = _read(text, language)
    taken: list[tuple[int, int, Definition]] = []
    end = 0
    for node, owner in file.functions:
        if node.start_byte < end:
            continue  # inside a function that is taken
        if one := _usable(file, node, owner, wanted, skipped):
            end = node.end_byte
            taken.append((node.start_byte, end, one))
    for node in reversed(file.classes) if classes else ():  # inner ones before outer ones
        place = bisect_left(taken, node.start_byte, key=itemgetter(0))
        around = place > 0 and taken[place - 1][1] > node.start_byte
        inside = place < len(taken) and taken[place][0] < node.end_byte
        if around or inside:
            continue
        if one := _usable(file, node, None, wanted, skipped):
            taken.insert(place, (node.start_byte, node.end_byte, one))
    return [one for _, _, one in taken]


def _read(text: str, language: str) -> _File:
    file = _File(text.encode(), language, GRAMMARS[language])
    pending: list[tuple[Node, Owner | None]] = [(parse(text, language).root_node, None)]
    while pending:
        node, owner = pending.pop()
        if node.type.endswith("comment"):
            if file.indent(node) is not None:
                file.comments[_last_row(node)] = node
            continue
        if node.is_named and _body(node) is not None:
            if _is_function(file, node):
                if node.type not in _ANONYMOUS or _named(node):
                    file.functions.append((node, owner))
                    owner = None  # of what is inside
            elif named := _type_name(file, node):
                owner = named, node.start_point.row + 1
                if node.type not in dict(file.grammar.owners):
                    file.classes.append(node)
        pending.extend((child, owner) for child in reversed(node.children))
    return file


def _type_name(file: _File, node: Node) -> str:
    """The name of a type with a body, or of the type that a node adds methods to. "" for none."""
    if node.type in file.grammar.functions:  # C++: a class with a macro before its name
        named = node.child_by_field_name("declarator")
    elif node.type in file.grammar.classes:
        holder = node.named_children[0] if node.type == "type_declaration" else node
        named = holder.child_by_field_name("name")
    else:
        named = node.child_by_field_name(dict(file.grammar.owners).get(node.type, ""))
    return (named.text or b"").decode() if named is not None else ""


def _is_function(file: _File, node: Node) -> bool:
    """Whether a node is a function. C++'s grammar takes `class MACRO Name {…}` for one, too."""
    if file.language != "cpp" or node.type != "function_definition":
        return node.type in file.grammar.functions
    declarator = node.child_by_field_name("declarator")
    while declarator is not None and declarator.type != "function_declarator":
        inner = declarator.child_by_field_name("declarator")
        declarator = inner or next(iter(declarator.named_children), None)
    return declarator is not None


def _usable(
    file: _File,
    node: Node,
    owner: Owner | None,
    wanted: Callable[[Definition], str | None],
    skipped: Counter[str],
) -> Definition | None:
    if node.has_error:
        skipped["definition that does not parse"] += 1
        return None
    one = _definition(file, node, owner)
    reason = "definition without code" if one is None else wanted(one)
    if reason:
        skipped[reason] += 1
        return None
    return one


def _last_row(node: Node) -> int:
    """The row of a node's last character. A line comment may end with its line feed."""
    return node.end_point.row - (node.end_point.column == 0)


def _named(node: Node) -> bool:
    """Whether a function without a name is the value of a variable, a field or an assignment."""
    parent = node.parent
    return parent is not None and parent.type in _WRAPPERS and parent.type != "export_statement"


def _body(node: Node) -> Node | None:
    """The node of a definition's body, or None."""
    if node.type == "type_declaration":  # Go: one type that is a struct or an interface
        specs = [child for child in node.named_children if child.type == "type_spec"]
        type_ = specs[0].child_by_field_name("type") if len(specs) == 1 else None
        whole = type_ is not None and type_.type in ("struct_type", "interface_type")
        return type_ if whole else None
    return node.child_by_field_name("body")


def _statements(body: Node) -> list[Node]:
    """What stands in a body. An expression is its own only statement."""
    if body.type == "struct_type":
        return [child for part in body.named_children for child in part.named_children]
    block = (body.text or b"").lstrip()[:1] == b"{" or body.type in (
        "block",
        "interface_type",
        "arrow_expression_clause",
        "compound_statement",
    )
    return body.named_children if block else [body]


def _definition(file: _File, node: Node, owner: Owner | None) -> Definition | None:
    """What there is to know about a definition. None if it has no code besides documentation."""
    body = _body(node)
    assert body is not None
    outer = _outer(node)
    first = _with_attributes(outer)
    statements = _statements(body)
    own = _docstring(file, statements)
    code = [child for child in statements[own is not None :] if "comment" not in child.type]
    if all(_TRIVIAL.fullmatch(file.text(c.start_byte, c.end_byte)) for c in code):
        return None
    start_row = first.start_point.row
    above = _above(file, start_row)
    if own is not None:
        documentation = docstring(file.text(own.start_byte, own.end_byte))
    else:
        blocks = [file.text(c.start_byte, c.end_byte).rstrip("\n") for c in above]
        documentation = comment(blocks, file.language) if blocks else ""
    if above:
        start_row = above[0].start_point.row
    if _is_function(file, node):
        owner = _owner_of_name(node) or owner
    rest = statements[own is not None :]
    return Definition(
        kind=_kind(file, node, owner is not None),
        owner=owner[0] if owner else None,
        signature=_signature(file, node, outer, body),
        documentation=documentation,
        code=_code(file, first, outer, own, rest),
        rows=(start_row + 1, _last_row(outer) + 1),
        owner_rows=((owner[1], owner[1]),) if owner and owner[1] else (),
        statements=file.span(rest[0].start_byte, rest[-1].end_byte),
        blocks=tuple(file.span(*block) for block in _blocks(rest)),
    )


def _outer(node: Node) -> Node:
    """The statement that a definition is, with decorators, `export`, `const` or `template`."""
    while (parent := node.parent) is not None and parent.type in _WRAPPERS:
        if parent.type in ("lexical_declaration", "variable_declaration") and (
            sum(child.type == "variable_declarator" for child in parent.named_children) > 1
        ):
            break
        node = parent
    return node


def _with_attributes(node: Node) -> Node:
    """The first of the attributes that stand before a definition, or the definition."""
    while (before := node.prev_sibling) is not None and before.type in _ATTRIBUTES:
        node = before
    return node


def _docstring(file: _File, statements: Sequence[Node]) -> Node | None:
    """The statement that is Python's docstring."""
    if file.language != "python" or not statements:
        return None
    first = statements[0]
    inner = first.named_children
    is_string = first.type == "expression_statement" and [c.type for c in inner] == ["string"]
    return first if is_string else None


def _above(file: _File, row: int) -> list[Node]:
    """The comments that end on the line before `row`, and on the lines before these."""
    found: list[Node] = []
    while (above := file.comments.get(row - 1)) is not None:
        found.insert(0, above)
        row = above.start_point.row
    if found and row == 0 and file.source.startswith(b"#!"):
        del found[0]
    return found


def _owner_of_name(node: Node) -> Owner | None:
    """The type that a method names itself: Go's receiver, or C++'s scope."""
    receiver = node.child_by_field_name("receiver")
    if receiver is not None:
        return re.sub(r"^\(\s*(?:\w+\s+)?\*?|\)$", "", (receiver.text or b"").decode()), 0
    declarator = node.child_by_field_name("declarator")
    while declarator is not None and declarator.type != "qualified_identifier":
        declarator = declarator.child_by_field_name("declarator")
    scope = declarator.child_by_field_name("scope") if declarator is not None else None
    return ((scope.text or b"").decode(), 0) if scope is not None else None


def _kind(file: _File, node: Node, owned: bool) -> str:
    if _is_function(file, node):
        return "method" if owned else "function"
    body = _body(node)
    assert body is not None
    head = file.text(node.start_byte, body.start_byte + len("interface"))
    match = _KINDS.search(re.sub(r"^type\b", "", head))
    return match[1] if match else "type"


def _signature(file: _File, node: Node, outer: Node, body: Node) -> str:
    start = node if file.language == "python" else outer
    end = body.start_byte
    for child in node.children:
        if child.type in ("field_initializer_list", "comment") and child.end_byte <= end:
            end = child.start_byte
            break
    if body.type in ("struct_type", "interface_type"):
        end = body.start_byte + len(body.type) - len("_type")
    text = file.text(start.start_byte, end).rstrip()
    return _dedented(text.rstrip("{:").rstrip(), file.indent(start))


def _code(file: _File, first: Node, outer: Node, own: Node | None, rest: Sequence[Node]) -> str:
    """The definition's text without its docstring and without its own indentation."""
    end = outer.end_byte
    if file.source[end : end + 1] == b";":
        end += 1
    if own is None:
        text = file.text(first.start_byte, end)
    else:
        text = file.text(first.start_byte, own.start_byte) + file.text(rest[0].start_byte, end)
    return _dedented(text.rstrip(), file.indent(first))


def _dedented(text: str, indent: str | None) -> str:
    """`text`, whose first line begins behind `indent`, with that removed from its other lines."""
    if not indent:
        return text
    return "\n".join(line.removeprefix(indent) for line in text.split("\n"))


def _blocks(statements: Sequence[Node]) -> Iterator[tuple[int, int]]:
    """Statements of several lines, and those inside them, outer ones first."""
    pending = list(reversed(statements))
    while pending:
        node = pending.pop()
        if node.start_point.row == node.end_point.row:
            continue
        if node.type.endswith(("statement", "expression", "declaration", "clause", "definition")):
            yield node.start_byte, node.end_byte
        pending.extend(reversed(node.named_children))
