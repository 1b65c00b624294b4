import gzip
import json
import re
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from privcode.languages import LANGUAGES, canonical_language
from privcode.syntax.spans import code_blocks, completion_spans, parse, structural_spans, token_mask

DATA = Path(__file__).resolve().parents[2] / "../shared/data"

# Each line of code over what of it is structure; "·" stands for a character that is not covered.
COVERED = {
    "python": """
class Café(Base):
class ····(····):
    def add(self, x: int = 1) -> str:
    def ···(····, ·· ··· · ·) -> ···:
        if x > 1 and self.if_:  # if for
        if · · · ··· ········:  · ·· ···
            return "for x in y:"
            return ···· · ·· ···
        elif f(x): pass
        elif ····: pass
        else:
        else:
            raise E(1) from x
            raise ···· from ·
        for i, j in x:
        for ·· · in ·:
            continue
            continue
        while (x):
        while (·):
            with a as b: yield b
            with · ·· ·: yield ·
        try: import os, sys
        try: import ··, ···
        except E as e: break
        except · ·· ·: break
        match x:
        match ·:
            case [1, _] if x: pass
            case ··· ·· if ·: pass
""",
    "java": """
package a.b;
package ···;
public class A<T> extends B implements C {
public class ·<·> extends · implements · {
  private String s = "if (x) { }";
  ······· ······ · · ··· ··· · ···
  public A(int y) throws E { super(y); }
  public ·(··· ·) throws · { ········· }
  static void f(int a, int b) {
  static ···· ·(··· ·, ··· ·) {
    if (f(x)) { return; } else { }
    if (····) { return; } else { }
    for (int i = 0; i < n; i++) { continue; }
    for (··· · · ·· · · ·; ···) { continue; }
    for (String s : xs) break;
    for (······ · : ··) break;
    while (x) { } // for
    while (·) { } ·· ···
    switch (x) { case 1: f(); default: g(); }
    switch (·) { case ·: ···· default: ···· }
    try { throw e; } catch (E e) { } finally { }
    try { throw ·; } catch (· ·) { } finally { }
  }
  }
}
}
""",
    "javascript": """
import a, {b} from "x";
import ·, {·} from ···;
class A extends B { constructor(x) { super(x); } }
class · extends · { ···········(·) { ········· } }
export function f(a, {b}) {
export function ·(·, ···) {
  if (a > 1) { return; } else { }
  if (· · ·) { return; } else { }
  for (let i = 0; i < 3; i++) { continue; }
  for (··· · · ·· · · ·; ···) { continue; }
  for (const x of xs) break;
  for (const · of ··) break;
  while (x) { y = `${if_}`; }
  while (·) { · · ········· }
}
}
const h = async (a, b) => { return a; };
····· · · async (·, ·) => { return ·; }·
""",
    "typescript": """
import type { A } from "x";
import type { · } from ···;
interface I<T> extends J { x: number; f(a: string): void; }
interface ·<·> extends · { ·· ······; ·(·· ······)· ····; }
enum E { A = 1, B }
enum · { · · ·, · }
abstract class C { n(a?: B): number { return 1; } }
abstract class · { ·(··· ·)· ······ { return ·; } }
function f<T>(a: T): void {
function ·<·>(·· ·)· ···· {
  if (a) { } else { }
  if (·) { } else { }
  for (const k in a) { while (k) { } }
  for (const · in ·) { while (·) { } }
}
}
""",
    "cpp": """
#include <iostream>
#include ··········
using namespace std;
using namespace ···;
template <typename T> class A : B { int f(int x) const; };
template <········ ·> class · · · { ··· ·(··· ·) ······ };
int main(int c, char* v[]) {
··· ····(··· ·, ····· ···) {
  if (x > 1) { return 0; } else { }
  if (· · ·) { return ·; } else { }
  for (int i = 0; i < n; i++) { continue; }
  for (··· · · ·· · · ·; ···) { continue; }
  while (x) { cout << "if" << endl; }
  while (·) { ···· ·· ···· ·· ····· }
  switch (x) { case 1: break; default: f(); }
  switch (·) { case ·: break; default: ···· }
}
}
""",
    "csharp": """
using System;
using ······;
namespace N {
namespace · {
  public class A<T> : B where T : C {
  public class ·<·> : · where · : · {
    private int x = 1;
    ······· ··· · · ··
    public static async Task<int> M(string[] a) {
    public static async ········· ·(········ ·) {
      if (x > 1) { return 1; } else { }
      if (· · ·) { return ·; } else { }
      for (int i = 0; i < n; i++) { continue; }
      for (··· · · ·; · · ·; ···) { continue; }
      foreach (var s in xs) break;
      foreach (··· · in ··) break;
      while (x) { F("while"); }
      while (·) { ··········· }
    }
    }
  }
  }
}
}
""",
    "rust": """
use std::{io, fmt};
use ···::{··, ···};
pub struct A<T> { pub x: T, y: i32 }
pub struct ·<·> { ··· ·· ·, ·· ··· }
impl<T> Tr for A<T> where T: D { fn f(&self) -> i32 { self.x } }
impl<·> ·· for ···· where ·· · { fn ·(·····) -> ··· { ······ } }
fn main() {
fn ····() {
  if x > 1 { return 1; } else { }
  if · · · { return ·· } else { }
  for i in 0..n { f("for"); }
  for · in ···· { ········· }
  while x { } loop { break; }
  while · { } loop { break· }
  match x { 1 => f(), _ => () }
  match · { · => ···, · => ·· }
}
}
""",
    "php": """
namespace A\\B;
namespace ···;
abstract class A extends B { public function f(int $a, $b): ?string {
abstract class · extends · { public function ·(··· ··, ··): ······· {
  if ($x > 1) { return "if"; } elseif ($y) { } else { }
  if (·· · ·) { return ····; } elseif (··) { } else { }
  for ($i = 0; $i < 3; $i++) { continue; }
  for (·· · ·; ·· · ·; ····) { continue; }
  foreach ($xs as $k) { while ($x) { break; } }
  foreach (··· as ··) { while (··) { break; } }
} }
} }
""",
    "go": """
package main
package ····
import ( "fmt"; "os" )
import ( ·····; ···· )
type A struct { x int }
type · struct { · ··· }
func (a *A) F(x int, y string) (int, error) {
func (· ··) ·(· ···, · ······) (···, ·····) {
  if x := f(); x > 1 { return 1 } else { }
  if · ·· ···; · · · { return · } else { }
  for i := 0; i < n; i++ { continue }
  for · ·· ·; · · ·; ··· { continue }
  for k, v := range xs { break }
  for ·· · := range ·· { break }
  switch x { case 1: f("if"); default: g() }
  switch · { case ·: ········ default: ··· }
  defer f()
  defer ···
}
}
""",
    "bash": """
function f() { local x=1; echo if; }
function ·() { ····· ···; ···· ··; }
if [ "$x" -gt 1 ]; then echo a; elif b; then c; else d; fi
if [ ···· ··· · ]; then ···· ·; elif ·; then ·; else ·; fi
for i in 1 2; do echo $i; done  # for
for · in · ·; do ···· ··; done  · ···
while read l; do :; done
while ···· ·; do ·; done
case "$x" in a|b) f ;; *) g ;; esac
case ···· in ·|·) · ;; ·) · ;; esac
""",
    "swift": """
import Foundation
import ··········
public final class A<T>: B {
public final class ·<·>: · {
  init(_ a: Int) { self.x = "if" }
  init(· ·· ···) { ······ · ···· }
  func f(x: Int, y: Int) async throws -> Int {
  func ·(·· ···, ·· ···) async ······ -> ··· {
    if x > 1 { return 1 } else { }
    if · · · { return · } else { }
    for i in xs { continue }
    for · in ·· { continue }
    while x { break }
    while · { break }
    guard let q = r else { throw e }
    guard ··· · = · else { throw · }
    switch x { case 1, 2: f()
    switch · { case ·, ·: ···
    default: break }
    default: break }
  }
  }
}
}
""",
}


def split(drawing: str) -> tuple[str, str]:
    lines = drawing.strip("\n").split("\n")
    return "\n".join(lines[::2]), "\n".join(lines[1::2])


def draw(code: str, spans: list[tuple[int, int]]) -> str:
    drawn = [c if c.isspace() else "·" for c in code]
    for start, end in spans:
        drawn[start:end] = code[start:end]
    return "".join(drawn)


def test_every_language_has_a_drawing() -> None:
    assert set(COVERED) == set(LANGUAGES)


@pytest.mark.parametrize("language", LANGUAGES)
def test_exactly_the_structure_is_covered(language: str) -> None:
    code, expected = split(COVERED[language])
    assert not parse(code, language).root_node.has_error
    assert draw(code, structural_spans(code, language)).split("\n") == expected.split("\n")


@pytest.mark.parametrize("language", LANGUAGES)
def test_non_ascii_text_before_the_structure_does_not_shift_the_spans(language: str) -> None:
    code, expected = split(COVERED[language])
    mark = "#" if language in ("python", "bash") else "//"
    comment = f"{mark} é 日本語 𝔘 👩‍👧\n"
    drawn = draw(comment + code, structural_spans(comment + code, language))
    assert drawn.split("\n", 1)[1] == expected


@pytest.mark.parametrize("language", LANGUAGES)
def test_any_prefix_of_code_gives_spans_within_it_and_never_raises(language: str) -> None:
    code, _ = split(COVERED[language])
    for length in range(0, len(code), 7):
        spans = structural_spans(code[:length], language)
        edges = [edge for span in spans for edge in span]
        assert edges == sorted(set(edges))
        assert not edges or edges[-1] <= length


@pytest.mark.parametrize(
    ("language", "code", "found"),
    [
        ("python", "def f(x:\n  if y", ["def", "if"]),
        ("java", "class A { void f() { if (x) { return", ["class", "if", "return"]),
        ("python", "\ud800def f(): pass", ["def", "():", "pass"]),
        ("python", "\0def f(): pass", ["def", "():", "pass"]),
    ],
)
def test_broken_code_gives_the_keywords_that_were_found(
    language: str, code: str, found: list[str]
) -> None:
    assert [code[a:b] for a, b in structural_spans(code, language)] == found


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("python", 'match = 1\ntype = 2\nx = """\nif a:\n"""\nprint(match.case)'),
        ("javascript", "x = {if: 1, get: 2}; a.class; async(1)"),
        ("java", "int record = 1; Class c = A.class; a.f(x);"),
        ("csharp", "var record = 1; select(x); x.Record(where);"),
        ("php", "$x->class; A::class; $a->if(); f(for: 1);"),
        ("bash", "echo if; echo done for"),
        ("swift", "let repeat = 1; let package = repeat"),
        ("rust", "union = 1; let r#type = 2;"),
        ("go", "x := y.f(1, 2)"),
        ("cpp", 'x = f<int>("if", 2);'),
        ("typescript", "const type = 1, of = 2; x = a as string;"),
    ],
)
def test_names_calls_strings_and_data_are_not_structure(language: str, code: str) -> None:
    assert structural_spans(code, language) == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_empty_code_has_no_spans(language: str) -> None:
    assert structural_spans("", language) == []
    assert structural_spans(" \n", language) == []


def test_php_is_read_with_and_without_its_opening_tag() -> None:
    code = "if ($x) { }"
    bare = structural_spans(code, "php")
    assert [code[a:b] for a, b in bare] == ["if", "(", ")", "{", "}"]
    tagged = f"<p>for</p><?php {code} ?>"
    shift = tagged.index("if")
    assert structural_spans(tagged, "php") == [(a + shift, b + shift) for a, b in bare]


def test_tsx_is_read_as_typescript() -> None:
    code = "const a = <div>{x}</div>; if (a) { }"
    assert "if" in [code[a:b] for a, b in structural_spans(code, "tsx")]
    assert not parse(code, "tsx").root_node.has_error


def test_deep_nesting_neither_overflows_nor_hangs() -> None:
    began = time.monotonic()
    for code in ("(" * 100_000, "if x:\n" * 3_000, "{" * 20_000):
        structural_spans(code, "python")
        structural_spans(code, "java")
    assert time.monotonic() - began < 10


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="def if(x):{}\n\"'`\\é𝔘\ud800<?;=>", max_size=60))
def test_no_text_makes_it_raise_and_spans_stay_in_order(code: str) -> None:
    for language in LANGUAGES:
        edges = [edge for span in structural_spans(code, language) for edge in span]
        assert edges == sorted(set(edges))
        assert not edges or (edges[0] >= 0 and edges[-1] <= len(code))


def test_language_names_are_canonical_whatever_their_alias() -> None:
    names = "Python py C++ c# JS ts tsx jsx golang sh rs cs"
    canonical = """
        python python cpp csharp javascript typescript typescript javascript go bash rust csharp
    """
    assert [canonical_language(name) for name in names.split()] == canonical.split()
    assert canonical_language("cobol") is None
    assert all(canonical_language(name) == name for name in LANGUAGES)


def test_an_unknown_language_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="cobol"):
        structural_spans("x", "cobol")


def inside(completion: str, language: str | None = "python") -> list[tuple[str, str | None]]:
    return [(completion[a:b], named) for a, b, named in code_blocks(completion, language)]


@pytest.mark.parametrize(
    ("completion", "blocks"),
    [
        ("x = 1\n", [("x = 1\n", "python")]),
        ("", [("", "python")]),
        ("Answer:\n```\nx\n```\nbye", [("x\n", "python")]),
        ("```js\nx\n```\ntext\n~~~ c++\ny\n~~~\n", [("x\n", "javascript"), ("y\n", "cpp")]),
        ("```json\n{}\n```\n", [("{}\n", None)]),
        ("```py\nif x:\n  pass", [("if x:\n  pass", "python")]),
        ("1. do\n\n      ```java\n      x;\n      ```\n", [("      x;\n", "java")]),
        ("````\n```\nx\n```\n````\n", [("```\nx\n```\n", "python")]),
        ("```\na\n~~~\nb\n```\n", [("a\n~~~\nb\n", "python")]),
        ("```{.rust}\r\nx\r\n```\r\n", [("x\r\n", "rust")]),
        ("``` a ``` is not a fence", [("``` a ``` is not a fence", "python")]),
        ("```\n", [("", "python")]),
    ],
)
def test_code_is_found_inside_fences(completion: str, blocks: list[tuple[str, str | None]]) -> None:
    assert inside(completion) == blocks


def test_spans_of_a_completion_are_in_its_own_offsets() -> None:
    completion = "Ünder if:\n```py\nif é: pass\n```\nfor\n```java\nreturn;\n```\n```json\n{}\n```"
    spans = completion_spans(completion, "go")
    assert [completion[a:b] for a, b in spans] == ["if", ":", "pass", "return;"]
    assert spans == sorted(spans)


def test_code_of_no_known_language_has_no_spans() -> None:
    assert completion_spans("if x: pass", None) == []
    assert completion_spans("if x: pass", "cobol") == []


def test_a_token_is_masked_where_it_overlaps_a_span() -> None:
    spans = [(2, 4), (4, 6), (9, 10)]
    offsets = [(0, 2), (0, 3), (3, 4), (5, 9), (6, 9), (8, 12), (10, 12), (3, 3), (0, 0), (9, 10)]
    assert token_mask(offsets, spans) == [
        *(False, True, True, True, False),
        *(True, False, False, False, True),
    ]
    assert token_mask(offsets, []) == [False] * len(offsets)


@given(
    st.lists(st.tuples(st.integers(0, 30), st.integers(0, 6)), max_size=12),
    st.sets(st.integers(0, 30), max_size=12),
)
def test_the_mask_agrees_with_its_definition(
    widths: list[tuple[int, int]], edges: set[int]
) -> None:
    offsets = [(start, start + width) for start, width in widths]
    ordered = sorted(edges)
    spans = list(zip(ordered[::2], ordered[1::2], strict=False))
    assert token_mask(offsets, spans) == [
        any(max(a, start) < min(b, end) for a, b in spans) for start, end in offsets
    ]


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data folder")
def test_in_real_code_only_keywords_and_delimiters_are_covered() -> None:
    with gzip.open(DATA / "gpteacher-code-instruct.json.gz") as file:
        rows = json.load(file)
    allowed = """
        return def for if in import else with from class while elif lambda raise try except break
        case async yield continue finally pass match
    """
    seen: set[str] = set()
    python = [row["response"] for row in rows if "python" in row["instruction"].lower()][:300]
    for code in python:
        for start, end in completion_spans(code, "python"):
            seen.update(re.findall(r"\w+", code[start:end]))
    assert {"def", "return", "if", "for"} <= seen <= set(allowed.split())
