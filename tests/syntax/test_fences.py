"""Which block of code is taken from a text."""

import pytest

from privcode.syntax.fences import before_end, code_in

PYTHON = "```python\nx = 1\n```\n"


@pytest.mark.parametrize(
    ("text", "code", "language"),
    [
        ("x = 1\n", "x = 1\n", "python"),
        (f"Here:\n{PYTHON}Done.\n```\ny\n```", "x = 1\n", "python"),
        ("```rust\nfn main() {}\n```", "fn main() {}\n", "rust"),
        (f"```bash\npip install x\n```\n{PYTHON}", "x = 1\n", "python"),
        (f"```text\nwords\n```\n{PYTHON}", "x = 1\n", "python"),
        ("```py3\nx\n```\n```go\ny\n```", "y\n", "go"),
        ("```\nx = 1\n```\n```python\ny\n```", "x = 1\n", "python"),
        ("```text\nx = 1\n```", "x = 1\n", "python"),
        (f"```python\n```\n{PYTHON}", "x = 1\n", "python"),
        ("```python\n```\n", "", "python"),
        ("  \n", "", "python"),
        (
            "- a:\n\n  ~~~python\n  def f():\n      return 1\n  ~~~",
            "def f():\n    return 1\n",
            "python",
        ),
        ("\t```\n\tif x:\n\t\ty\n\t```", "if x:\n\ty\n", "python"),
        ('    ```\n    s = """\n  a\n    """\n    ```', 's = """\na\n"""\n', "python"),
        ("    return 1\n", "    return 1\n", "python"),
        ("```python\n    return 1\n```", "    return 1\n", "python"),
        (f"{PYTHON.rstrip()}<|im_end|>", "x = 1\n", "python"),
        ("x = 1\n<|endoftext|>y = 2", "x = 1\n<|endoftext|>y = 2", "python"),
        ("x = 1<|endoftext|><|endoftext|>", "x = 1", "python"),
    ],
)
def test_the_first_block_in_the_wanted_language_is_taken(
    text: str, code: str, language: str
) -> None:
    assert code_in(text, "py") in ((code, language), (code, {"python": "py"}.get(language)))
    assert code_in(text, "python") == (code, language)


def test_in_any_language_the_first_block_that_names_a_known_one_is_taken() -> None:
    text = f"```text\nwords\n```\n```bash\nls\n```\n{PYTHON}"
    assert code_in(text, "python", any_language=True) == ("ls\n", "bash")


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("a</s>", "a"),
        ("html = '<s>a</s>'\nb", "html = '<s>a</s>'\nb"),
        ("a</s>\nb", "a</s>\nb"),
        ("END = '<|endoftext|>'\nb", "END = '<|endoftext|>'\nb"),
        ("a<|im_end|>\n<|im_start|>user\nb", "a"),
        ("a<|eot_id|> \r\nb", "a"),
        ("vector<end_of_turn>\nb", "vector<end_of_turn>\nb"),
    ],
)
def test_only_what_ends_a_text_is_an_end(text: str, kept: str) -> None:
    assert before_end(text) == kept
