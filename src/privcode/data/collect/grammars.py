"""The languages that are collected, one row each: endings of files, and what a definition is.

Promises: one row for every language of `languages.LANGUAGES`, which a test compares.
Does not: parse. A language that another package adds is not collected, because it has no row.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Grammar:
    """What tree-sitter's grammar of a language calls things.

    Attributes:
        title: the language in a sentence.
        suffixes: endings of the names of its files.
        functions: kinds of nodes that are functions or methods.
        classes: kinds of nodes that are classes, or types with a body.
        owners: further kinds that hold methods, and the field with the name of their type.
    """

    title: str
    suffixes: tuple[str, ...]
    functions: tuple[str, ...]
    classes: tuple[str, ...] = ()
    owners: tuple[tuple[str, str], ...] = ()


_SCRIPT = (
    "function_declaration",
    "generator_function_declaration",
    "method_definition",
    "arrow_function",
    "function_expression",
    "generator_function",
)
_JAVA_LIKE = ("class_declaration", "interface_declaration", "enum_declaration")

GRAMMARS: dict[str, Grammar] = {
    "python": Grammar("Python", (".py",), ("function_definition",), ("class_definition",)),
    "java": Grammar(
        "Java",
        (".java",),
        ("method_declaration", "constructor_declaration"),
        (*_JAVA_LIKE, "record_declaration"),
    ),
    "javascript": Grammar(
        "JavaScript", (".js", ".jsx", ".mjs", ".cjs"), _SCRIPT, ("class_declaration",)
    ),
    "typescript": Grammar(
        "TypeScript",
        (".ts", ".tsx", ".mts", ".cts"),
        _SCRIPT,
        (*_JAVA_LIKE, "abstract_class_declaration"),
    ),
    "cpp": Grammar(
        "C++",
        (".cpp", ".cc", ".cxx", ".hpp", ".hh", ".hxx", ".h"),
        ("function_definition",),
        ("class_specifier", "struct_specifier", "enum_specifier"),
    ),
    "csharp": Grammar(
        "C#",
        (".cs",),
        ("method_declaration", "constructor_declaration", "local_function_statement"),
        (*_JAVA_LIKE, "struct_declaration", "record_declaration"),
    ),
    "rust": Grammar(
        "Rust",
        (".rs",),
        ("function_item",),
        ("struct_item", "enum_item", "trait_item"),
        (("impl_item", "type"),),
    ),
    "php": Grammar(
        "PHP",
        (".php",),
        ("function_definition", "method_declaration"),
        (*_JAVA_LIKE, "trait_declaration"),
    ),
    "go": Grammar(
        "Go", (".go",), ("function_declaration", "method_declaration"), ("type_declaration",)
    ),
    "bash": Grammar("Bash", (".sh", ".bash"), ("function_definition",)),
    "swift": Grammar(
        "Swift",
        (".swift",),
        ("function_declaration", "init_declaration"),
        ("class_declaration", "protocol_declaration"),
    ),
}
"""By canonical name."""

_BY_SUFFIX = {suffix: name for name, row in GRAMMARS.items() for suffix in row.suffixes}
_SHEBANG = re.compile(r"#!.*[/ ](?:(?P<python>python)[\d.]*|(?P<bash>(?:ba)?sh))(?:\s|$)")
_CPLUSPLUS = re.compile(r"^\s*(?:class|namespace|template|using|public|private)\b|::", re.MULTILINE)


def language_of_name(name: str) -> str | None:
    """The language by the name of a file. "" if only its first line can tell. None if unknown."""
    _, dot, suffix = name.rpartition(".")
    if not dot:
        return ""
    return _BY_SUFFIX.get(f".{suffix.lower()}")


def language_of_text(name: str, text: str) -> str | None:
    """The language of a file whose name leaves it open: by a first line that names a program.

    A `.h` file without a sign of C++ is C, which is not collected.
    """
    language = language_of_name(name)
    if language == "":
        shebang = _SHEBANG.match(text)
        return shebang.lastgroup if shebang else None
    if name.lower().endswith(".h") and not _CPLUSPLUS.search(text):
        return None
    return language
