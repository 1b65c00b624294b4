"""Joins whole programs with MultiPL-E's tests, which go on where a completion stops.

Promises:
- The tests of most languages begin with the bracket that closes the function. A program in which
  the function is closed already loses that bracket, and keeps its other definitions.
- What the tests need and a whole program may lack comes from the task's prompt: imports, the class
  around a method.
- A `main` of the program goes, because the tests have their own.
- A program whose function is still open is followed by the tests, as it is.

Does not: run anything, or repair code.
"""

import re
from collections.abc import Iterator, Sequence

from tree_sitter import Node

from privcode.syntax.spans import parse

_SIGNATURE = re.compile(r"(\w+)(?:<[^()]*>)?\(")
_FUNCTION = re.compile(r"function|method|constructor")
_CLASS = re.compile(r"class_body|^declaration_list$")
_DEFINITION = re.compile(
    r"function|method|constructor|class|struct|enum|trait|impl|interface|protocol|record"
    r"|type_alias|type_definition|type_declaration|type_item|template_declaration|namespace"
    r"|(const|field|property|var)_(item|declaration)|^declaration$|static_item|attribute_item"
)
_IMPORT = re.compile(r"^(import_declaration|using_directive|preproc_include|import_header)$")
_LEAD = re.compile(r"[ \t]*(#include\b|import\b|using\b).*")


def joined(language: str, prompt: str, solution: str, tests: str) -> str:
    """One program of a solution and the tests.

    Args:
        language: the language of the task.
        prompt: the task's prompt, whose last line begins the function.
        solution: the whole program, or the prompt and its completion.
        tests: the task's tests.
    """
    if language in ("javascript", "typescript"):  # the tests are no module
        exported = r"(?m)^export\s+(?:default\s+)?(?=(?:async\s+)?function\b|const\b|let\b|class\b)"
        solution = re.sub(exported, "", solution)
    if language == "php":  # behind the closing tag, the tests would be text
        solution = solution.rstrip().removesuffix("?>")
    signature = next((line for line in prompt.splitlines()[::-1] if "(" in line), "")
    name = _SIGNATURE.search(signature)
    if not tests.lstrip().startswith("}") or not name:
        return f"{solution}\n{tests}"
    code = solution.encode("utf-8", "surrogatepass")
    function = _function(parse(solution, language).root_node, name[1])
    if function is None:
        return f"{solution}\n{tests}"
    body = _body(function)
    assert body is not None  # or it would not have been found
    lead = prompt.rpartition(signature)[0]
    around = function.parent if function.parent and _CLASS.search(function.parent.type) else None
    outer = around.parent if around is not None else None
    begin, cut = _beginning(language, lead, code, function, wrapped=around is not None)
    head = _without(code, 0, body.children[-1].start_byte, cut).rstrip()
    members = b"\n".join(_definitions(code, function))
    behind = b"\n".join(_definitions(code, outer)) if outer is not None else b""
    bracket, rest = tests.lstrip()[:1], tests.lstrip()[1:]
    parts = (begin, _text(head), bracket, _text(members), rest, _text(behind))
    return "\n".join(part for part in parts if part.strip()) + "\n"


def _text(code: bytes) -> str:
    return code.decode("utf-8", "surrogatepass")


def _walk(node: Node) -> Iterator[Node]:
    pending = [node]
    while pending:
        here = pending.pop()
        yield here
        pending.extend(reversed(here.children))


def _body(node: Node) -> Node | None:
    """The body of a function, if its last bracket is there."""
    found = node.child_by_field_name("body")
    if found is None:
        found = next((child for child in node.children[::-1] if child.is_named), None)
    while found is not None and len(found.children) == 1:
        found = found.children[0]
    if found is None or not found.children:
        return None
    last = found.children[-1]
    return found if last.type == "}" and last.end_byte > last.start_byte else None


def _is_named(node: Node, name: str) -> bool:
    body = _body(node)
    if not _FUNCTION.search(node.type) or body is None or node.text is None:
        return False
    head = node.text[: body.start_byte - node.start_byte].decode("utf-8", "replace")
    return re.search(rf"\b{name}\s*(<[^()]*>)?\s*\(", head) is not None


def _function(root: Node, name: str) -> Node | None:
    """The last closed function of this name."""
    found = [node for node in _walk(root) if _is_named(node, name)]
    return found[-1] if found else None


def _definitions(code: bytes, node: Node) -> Iterator[bytes]:
    """What is defined behind a node in the same block, but for programs' starts."""
    after = node.next_sibling
    while after is not None:
        if _DEFINITION.search(after.type) and not any(map(_is_main, _walk(after))):
            yield code[after.start_byte : after.end_byte]
        after = after.next_sibling


def _is_main(node: Node) -> bool:
    return _is_named(node, "main") or _is_named(node, "Main")


def _without(code: bytes, start: int, end: int, cut: Sequence[Node]) -> bytes:
    parts, at = [], start
    for node in sorted(cut, key=lambda node: node.start_byte):
        if at <= node.start_byte and node.end_byte <= end:
            parts.append(code[at : node.start_byte])
            at = node.end_byte
    return b"".join([*parts, code[at:end]])


def _beginning(
    language: str, lead: str, code: bytes, function: Node, *, wrapped: bool
) -> tuple[str, list[Node]]:
    """What goes before a solution, and the nodes that it loses: imports that come first, mains."""
    root = function
    while root.parent is not None:
        root = root.parent
    cut = [node for node in _walk(root) if _is_main(node) and node.id != function.id]
    if language == "go":
        known = set(re.findall(r'"([^"]+)"', lead))
        more = []
        for node in root.children:
            if node.type == "package_clause":
                cut.append(node)
            elif node.type == "import_declaration":
                cut.append(node)
                specs = [spec for spec in _walk(node) if spec.type == "import_spec"]
                texts = [_text(code[spec.start_byte : spec.end_byte]) for spec in specs]
                more += [text for text in texts if text.rpartition(" ")[2].strip('"') not in known]
        package = "\n".join(line for line in lead.splitlines() if not line.startswith("//"))
        return "\n".join([package.strip(), *(f"import {text}" for text in more)]), cut
    imports = [line for line in lead.splitlines() if _LEAD.fullmatch(line)]
    if language in ("java", "csharp"):
        first = [node for node in root.children if _IMPORT.search(node.type)]
        cut += [*first, *(node for node in root.children if node.type == "package_declaration")]
        imports = [*(_text(code[n.start_byte : n.end_byte]) for n in first), *imports]
        return "\n".join([*imports, *([] if wrapped else [_class_of(lead)])]), cut
    return "\n".join(imports), cut


def _class_of(lead: str) -> str:
    """The line of a prompt that opens the class around its method."""
    return next((line for line in lead.splitlines()[::-1] if re.search(r"\bclass\b.*{", line)), "")
