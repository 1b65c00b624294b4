"""What is found in a file: definitions of eleven languages, their words, and their borders."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privcode.data.collect.documentation import comment, docstring
from privcode.data.collect.grammars import GRAMMARS, language_of_name, language_of_text
from privcode.data.collect.options import Options
from privcode.data.collect.pieces import GAP, Piece, pieces
from privcode.languages import LANGUAGES
from privcode.syntax.spans import parse


def found(text: str, language: str, **options: object) -> list[Piece]:
    return list(pieces(text, language, Options(**options), Counter()))  # type: ignore[arg-type]


def prompt(head: str, signature: str, words: str) -> str:
    return f"{head}\n\nSignature:\n{signature}\n\nDescription:\n{words}"


# For each language: a file, then (request, signature, documentation, completion) of each record.
FILES = {
    "python": (
        "import os\n\nclass Ledger:\n    '''All the entries of a year.'''\n\n"
        "    # TODO: not this\n\n    @cached\n    def total(self, of: str = 'x') -> int:\n"
        '        """Add up the amounts.\n\n        Args:\n            of: whose.\n        """\n'
        "        text = '''\n        a\nb'''\n        return len(text)\n",
        [
            (
                "Write a Python method of `Ledger`.",
                "def total(self, of: str = 'x') -> int",
                "Add up the amounts.\n\nArgs:\n    of: whose.",
                "@cached\ndef total(self, of: str = 'x') -> int:\n"
                "    text = '''\n    a\nb'''\n    return len(text)",
            )
        ],
    ),
    "java": (
        "package a;\n/**\n * Keeps all the entries.\n */\npublic class Ledger {\n"
        "  /**\n   * Adds up the amounts.\n   * @param of whose\n   */\n  @Override\n"
        "  public int total(int of) {\n    return of;\n  }\n"
        "  /** Makes an empty ledger. */\n  Ledger() { clear(); }\n}\n",
        [
            (
                "Write a Java method of `Ledger`.",
                "@Override\npublic int total(int of)",
                "Adds up the amounts.\n@param of whose",
                "@Override\npublic int total(int of) {\n  return of;\n}",
            ),
            (
                "Write a Java method of `Ledger`.",
                "Ledger()",
                "Makes an empty ledger.",
                "Ledger() { clear(); }",
            ),
        ],
    ),
    "javascript": (
        "/** Adds two numbers up. */\nexport const add = async (a, b) => {\n  return a + b;\n};\n"
        "/**\n * Keeps all the entries.\n */\nclass Ledger {\n  total() { return 1; }\n}\n",
        [
            (
                "Write a JavaScript function.",
                "export const add = async (a, b) =>",
                "Adds two numbers up.",
                "export const add = async (a, b) => {\n  return a + b;\n};",
            ),
            (
                "Write a JavaScript class.",
                "class Ledger",
                "Keeps all the entries.",
                "class Ledger {\n  total() { return 1; }\n}",
            ),
        ],
    ),
    "typescript": (
        "export class Ledger<T> {\n  /**\n   * Adds up the amounts.\n   */\n"
        "  private total(of: T): number {\n    return 1;\n  }\n}\n"
        "/** What an entry has. */\nexport interface Entry {\n  amount: number;\n}\n",
        [
            (
                "Write a TypeScript method of `Ledger`.",
                "private total(of: T): number",
                "Adds up the amounts.",
                "private total(of: T): number {\n  return 1;\n}",
            ),
            (
                "Write a TypeScript interface.",
                "export interface Entry",
                "What an entry has.",
                "export interface Entry {\n  amount: number;\n}",
            ),
        ],
    ),
    "cpp": (
        "/**\n * \\brief Adds two values up.\n */\ntemplate <typename T>\nT add(T a, T b) {\n"
        "  return a + b;\n}\n/// Adds up the\n/// amounts.\nint Ledger::total(int of) const {\n"
        "  return of;\n}\n//! One entry of many.\nstruct Entry {\n  int amount;\n};\n"
        "struct Ledger {\n  /// Starts a new ledger.\n  Ledger() : open(1) { go(); }\n};\n",
        [
            (
                "Write a C++ function.",
                "template <typename T>\nT add(T a, T b)",
                "\\brief Adds two values up.",
                "template <typename T>\nT add(T a, T b) {\n  return a + b;\n}",
            ),
            (
                "Write a C++ method of `Ledger`.",
                "int Ledger::total(int of) const",
                "Adds up the\namounts.",
                "int Ledger::total(int of) const {\n  return of;\n}",
            ),
            (
                "Write a C++ struct.",
                "struct Entry",
                "One entry of many.",
                "struct Entry {\n  int amount;\n};",
            ),
            (
                "Write a C++ method of `Ledger`.",
                "Ledger()",
                "Starts a new ledger.",
                "Ledger() : open(1) { go(); }",
            ),
        ],
    ),
    "csharp": (
        "namespace A {\n  class Ledger {\n    /// <summary>\n    /// Adds up the amounts.\n"
        '    /// </summary>\n    /// <param name="of">whose, see <see cref="Entry"/></param>\n'
        "    [Pure]\n    public int Total(int of) => of;\n  }\n}\n",
        [
            (
                "Write a C# method of `Ledger`.",
                "[Pure]\npublic int Total(int of)",
                "Adds up the amounts.\n\nof: whose, see Entry",
                "[Pure]\npublic int Total(int of) => of;",
            )
        ],
    ),
    "rust": (
        "/// One entry of many.\n#[derive(Debug)]\npub struct Entry {\n    amount: i32,\n}\n"
        "impl<T> Ledger<T> {\n    /// Adds up the amounts.\n    ///\n    /// # Panics\n"
        "    #[inline]\n    pub fn total(&self) -> i32 {\n        1\n    }\n}\n",
        [
            (
                "Write a Rust struct.",
                "pub struct Entry",
                "One entry of many.",
                "#[derive(Debug)]\npub struct Entry {\n    amount: i32,\n}",
            ),
            (
                "Write a Rust method of `Ledger<T>`.",
                "pub fn total(&self) -> i32",
                "Adds up the amounts.\n\n# Panics",
                "#[inline]\npub fn total(&self) -> i32 {\n    1\n}",
            ),
        ],
    ),
    "php": (
        "<?php\nclass Ledger {\n    /**\n     * Adds up the amounts.\n     *\n"
        "     * @return int\n     */\n    public function total(int $of): int\n    {\n"
        "        return $of;\n    }\n}\n# Adds two numbers up.\nfunction add($a, $b) "
        "{ return $a + $b; }\n",
        [
            (
                "Write a PHP method of `Ledger`.",
                "public function total(int $of): int",
                "Adds up the amounts.\n\n@return int",
                "public function total(int $of): int\n{\n    return $of;\n}",
            ),
            (
                "Write a PHP function.",
                "function add($a, $b)",
                "Adds two numbers up.",
                "function add($a, $b) { return $a + $b; }",
            ),
        ],
    ),
    "go": (
        "package a\n\n// Total adds up\n// the amounts.\nfunc (l *Ledger) Total(of int) int {\n"
        "\treturn of\n}\n\n// Entry is one of many.\ntype Entry struct {\n\tamount int\n}\n"
        "//go:generate x\n\n// Reader reads one entry.\ntype Reader interface {\n\tRead()\n}\n",
        [
            (
                "Write a Go method of `Ledger`.",
                "func (l *Ledger) Total(of int) int",
                "Total adds up\nthe amounts.",
                "func (l *Ledger) Total(of int) int {\n\treturn of\n}",
            ),
            (
                "Write a Go struct.",
                "type Entry struct",
                "Entry is one of many.",
                "type Entry struct {\n\tamount int\n}",
            ),
            (
                "Write a Go interface.",
                "type Reader interface",
                "Reader reads one entry.",
                "type Reader interface {\n\tRead()\n}",
            ),
        ],
    ),
    "bash": (
        "#!/bin/bash\n# Adds two numbers up.\nadd() {\n  echo $(($1 + $2))\n}\n",
        [
            (
                "Write a Bash function.",
                "add()",
                "Adds two numbers up.",
                "add() {\n  echo $(($1 + $2))\n}",
            )
        ],
    ),
    "swift": (
        "/// Keeps all the entries.\npublic struct Ledger {\n  var open: Bool\n}\n"
        "extension Ledger {\n  /**\n   Adds up the amounts.\n   */\n"
        "  func total(_ of: Int) -> Int {\n    return of\n  }\n}\n",
        [
            (
                "Write a Swift struct.",
                "public struct Ledger",
                "Keeps all the entries.",
                "public struct Ledger {\n  var open: Bool\n}",
            ),
            (
                "Write a Swift method of `Ledger`.",
                "func total(_ of: Int) -> Int",
                "Adds up the amounts.",
                "func total(_ of: Int) -> Int {\n  return of\n}",
            ),
        ],
    ),
}


def test_every_language_of_privcode_is_collected_and_tested() -> None:
    assert set(GRAMMARS) == set(LANGUAGES) == set(FILES)


@pytest.mark.parametrize("language", FILES)
def test_documented_definitions_become_a_request_and_the_code(language: str) -> None:
    text, expected = FILES[language]
    got = [(piece.prompt, piece.completion) for piece in found(text, language)]
    assert got == [(prompt(*parts[:3]), parts[3]) for parts in expected]


@pytest.mark.parametrize("language", FILES)
def test_a_completion_parses_alone(language: str) -> None:
    for piece in found(FILES[language][0], language):
        code = piece.completion
        if language in ("java", "csharp", "typescript", "php") and " method " in piece.prompt:
            code = f"class A {{ {code} }}"
        if "Ledger() :" not in code:  # a constructor's name has to be that of its class
            assert not parse(f"{code}\n", language).root_node.has_error, code


@pytest.mark.parametrize("language", FILES)
def test_a_gap_and_its_window_are_the_file(language: str) -> None:
    text = re.sub(r"(return|=>) [^;\n]*(;|\n)", r"\1 all_of(them)\2", FILES[language][0])
    text = text.replace("        1\n", "        all_of(them)\n")  # Rust
    gaps = found(text, language, style="fim")
    assert gaps
    for piece in gaps:
        assert piece.prompt.count(GAP) == 1
        assert piece.prompt.replace(GAP, piece.completion) == text
        assert piece.completion == piece.completion.strip()


def test_documentation_stays_in_the_window_of_a_gap() -> None:
    (piece,) = found(
        'def f(x):\n    """Doc of f."""\n    y = x + 1\n    return y\n', "python", style="fim"
    )
    assert piece.prompt == f'def f(x):\n    """Doc of f."""\n    {GAP}\n'
    assert piece.completion == "y = x + 1\n    return y"


def test_a_window_is_bounded_and_ends_at_whole_lines() -> None:
    lines = [f"line_{n:02} = {n}\n" for n in range(40)]
    text = "".join(lines) + "def f(x):\n    y = x + 1\n    return y\n" + "".join(lines)
    (piece,) = found(text, "python", style="fim", context=50)
    before, after = piece.prompt.split(GAP)
    assert before == "line_38 = 38\nline_39 = 39\ndef f(x):\n    "
    assert after == "\nline_00 = 0\nline_01 = 1\nline_02 = 2\nline_03 = 3"
    assert piece.quoted[1] == (39, 47)
    assert text.split("\n")[38:47] == piece.prompt.replace(GAP, piece.completion).split("\n")


def test_a_long_body_gives_its_largest_block_that_fits() -> None:
    block = "    for a in x:\n        use(a)\n        more(a)\n"
    text = "def f(x):\n" + "    y = 1\n" * 20 + block + "    if x:\n        small(x)\n"
    (piece,) = found(text, "python", style="fim", context=60)
    assert piece.completion == block.strip()


def test_a_window_with_the_mark_itself_is_no_record() -> None:
    skipped = Counter[str]()
    text = f'def f(x):\n    """Doc {GAP} here."""\n    y = x + 1\n    return y\n'
    assert not list(pieces(text, "python", Options(style="fim"), skipped))
    assert skipped == {f"definition near the text {GAP}": 1}
    cut = "def f(x):\n    y = '<FILL_'\n    return y\nME = '>'\n"
    assert len(found(cut, "python", style="fim")) == 1


def test_no_code_stands_in_two_records() -> None:
    text = (
        'class A:\n    """A class with words."""\n    def f(self):\n        """Words of the f."""\n'
        '        def g():\n            """Words of the g."""\n            return 1\n'
        "        return g\n"
        'class B:\n    """B class with words."""\n    def f(self):\n        return 1\n'
        "    class C:\n        '''C class with words.'''\n        x = 1\n"
        "def h():\n    def i():\n        '''Words of the i.'''\n        return 1\n    return i\n"
    )
    heads = [piece.prompt.split("\n")[0] for piece in found(text, "python")]
    assert heads == [
        "Write a Python method of `A`.",
        "Write a Python class.",
        "Write a Python function.",
    ]
    assert "g" in found(text, "python")[0].completion


def test_what_does_not_parse_is_left_out_and_its_neighbour_is_not() -> None:
    skipped = Counter[str]()
    good = 'def f(x):\n    """Words of the f."""\n    return x\n'
    bad = 'def g(x:\n    """Words of the g."""\n    return (\n'
    got = list(pieces(f"{good}\n{bad}", "python", Options(), skipped))
    assert [piece.completion for piece in got] == ["def f(x):\n    return x"]


def test_a_type_that_a_function_returns_is_not_its_class() -> None:
    text = (
        "class A {\n  /// Packs all of it.\n  struct n::B pack() const {\n    return b_;\n  }\n};\n"
    )
    (piece,) = found(text, "cpp")
    assert piece.prompt.startswith("Write a C++ method of `A`.\n\nSignature:\nstruct n::B pack()")


def test_a_type_without_a_name_is_no_record() -> None:
    assert not found("/// Words about all of it.\ntypedef struct {\n  int x;\n} A;\n", "cpp")


def test_a_class_with_a_macro_before_its_name_is_a_class() -> None:
    words = "/// All of the entries.\n"
    (piece,) = found(f"{words}struct API Ledger {{\n  int open;\n}};\n", "cpp")
    assert piece.prompt.startswith("Write a C++ struct.\n\nSignature:\nstruct API Ledger\n")
    inner = "  /// Adds up the amounts.\n  int total() {\n    return open;\n  }\n"
    (piece,) = found(f"{words}struct API Ledger {{\n  int open;\n{inner}}};\n", "cpp")
    assert piece.prompt.startswith("Write a C++ method of `Ledger`.")


def test_what_has_no_code_is_no_record() -> None:
    skipped = Counter[str]()
    text = (
        'class E(Error):\n    """An error of ours."""\n'
        'def f():\n    """To be written later."""\n    raise NotImplementedError("f")\n'
        'def g():\n    """To be written later."""\n    ...\n'
    )
    assert not list(pieces(text, "python", Options(), skipped))
    assert skipped == {"definition without code": 3}


def test_lengths_of_prompt_and_completion_together_are_bounded() -> None:
    text = 'def f(x):\n    """Words of the f."""\n    return x\n'
    (piece,) = found(text, "python")
    whole = len(piece.prompt + piece.completion)
    assert found(text, "python", longest=whole)
    assert not found(text, "python", longest=whole - 1)


@pytest.mark.parametrize(
    ("language", "text"),
    [
        ("python", "x = 1  # the number of x\ndef f():\n    return 1\n"),
        ("python", "# far away from here\n\ndef f():\n    return 1\n"),
        ("python", "# noqa: E501\n# pylint: disable=all of it\ndef f():\n    return 1\n"),
        ("python", "# ---------------\ndef f():\n    return 1\n"),
        ("python", "# Copyright 2020 by somebody. All rights reserved.\ndef f():\n    return 1\n"),
        ("python", "# x = f(1)\n# return g(x)\n# for a in b: use(a)\ndef f():\n    return 1\n"),
        ("python", "def f():\n    f'not a {doc} string'\n    return 1\n"),
        ("python", "def f():\n    b'no words of this'\n    return 1\n"),
        ("go", "package a\n//go:build linux and more\nfunc F() int { return 1 }\n"),
        ("java", "class A {\n  // int f(int x) {\n  // return x;\n  // }\n  int g() { h(); }\n}"),
        ("java", "class A {\n  /** {@inheritDoc} */\n  int g() { h(); }\n}"),
        ("javascript", "// eslint-disable-next-line some rule here\nfunction f() { g(); }\n"),
        ("bash", "#!/bin/bash -e some words\nf() {\n  echo\n}\n"),
    ],
)
def test_what_is_no_documentation(language: str, text: str) -> None:
    assert not found(text, language)


def test_marks_of_comments_are_removed_and_their_words_kept() -> None:
    assert (
        comment(["/* One two three\n   * four\n   five */"], "java")
        == "One two three\n* four\nfive"
    )
    assert (
        comment(["/**\n * All\n *\n *   indented by two\n */"], "java")
        == "All\n\n  indented by two"
    )
    assert comment(["// One two", "//   three four"], "go") == "One two\n  three four"
    assert docstring('r"""One \\d two three."""') == "One \\d two three."
    assert docstring('"""\\\nOne two three.\n    four\n"""') == "One two three.\nfour"
    assert docstring('"""One.\n\n    Two\n      three.\n    """') == "One.\n\nTwo\n  three."


def test_letters_of_several_bytes_move_nothing() -> None:
    text = '# ÄÖÜ ε\ndef f(ß):\n    """Grüße an alle ε."""\n    return "λ" + ß  # ε\n'
    (piece,) = found(text, "python")
    assert piece.prompt.endswith("Signature:\ndef f(ß)\n\nDescription:\nGrüße an alle ε.")
    assert piece.completion == 'def f(ß):\n    return "λ" + ß  # ε'
    (gap,) = found(text, "python", style="fim")
    assert gap.prompt.replace(GAP, gap.completion) == text


def test_lines_of_a_record_are_those_of_its_definition_and_its_class() -> None:
    text = FILES["python"][0]
    (piece,) = found(text, "python")
    assert piece.lines == (8, 18)
    assert piece.quoted == ((8, 18), (3, 3))
    (piece,) = found(FILES["bash"][0], "bash")
    assert piece.lines == (2, 5)


def test_deep_nesting_is_read_without_recursion() -> None:
    deep = "(" * 20_000 + ")" * 20_000
    text = f'def f(x):\n    """Words of the f."""\n    return x\ny = {deep}\n'
    assert len(found(text, "python")) == 1


@pytest.mark.parametrize(
    ("name", "text", "language"),
    [
        ("a.py", "", "python"),
        ("A.CPP", "", "cpp"),
        ("a.h", "int f(int x);\n", None),
        ("a.h", "namespace a {\n}\n", "cpp"),
        ("run", "#!/usr/bin/env bash\n", "bash"),
        ("run", "#!/usr/bin/python3\n", "python"),
        ("run", "#!/usr/bin/perl\n", None),
        ("LICENSE", "bash\n", None),
        ("a.json", "", None),
    ],
)
def test_the_language_of_a_file(name: str, text: str, language: str | None) -> None:
    if language_of_name(name) is None:
        assert language is None
    else:
        assert language_of_text(name, text) == language


PARTS = [
    *"{}()[]\"'`\\\n\t ;:#*/<>=é\x00\ud7ff",
    "/*",
    "*/",
    "///",
    '"""',
    "<?php",
    "=> ",
    "@",
    "\r",
]


@settings(max_examples=300, derandomize=True, deadline=None, database=None)
@given(
    st.sampled_from(sorted(FILES)),
    st.sampled_from(sorted(FILES)),
    st.lists(
        st.tuples(st.integers(0, 600), st.integers(0, 12), st.sampled_from(PARTS)), max_size=6
    ),
    st.sampled_from(["describe", "fim"]),
)
def test_broken_code_gives_records_that_are_parts_of_it_and_no_error(
    source: str, language: str, changes: list[tuple[int, int, str]], style: str
) -> None:
    text = FILES[source][0] * 2
    for at, size, put in changes:
        text = text[:at] + put + text[at + size :]
    rows = text.count("\n") + 1
    for piece in found(text, language, style=style, context=200):
        assert all(1 <= first <= last <= rows for first, last in piece.quoted)
        assert piece.lines in piece.quoted
        if style == "fim":
            assert piece.prompt.count(GAP) == 1
            assert piece.prompt.replace(GAP, piece.completion) in text
        first, last = piece.lines
        own = "".join("".join(text.split("\n")[first - 1 : last]).split())
        assert "".join(piece.code.split())[-20:] in own
