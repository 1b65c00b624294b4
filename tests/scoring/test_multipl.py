"""MultiPL-E: whole answers, as an instructed model gives them, in all eleven languages."""
# ruff: noqa: E501

import json
from pathlib import Path

import pytest

from privcode.config import load_config
from privcode.execution import execute
from privcode.execution import unsupported as no_tools
from privcode.languages import LANGUAGES
from privcode.scoring import (
    Task,
    extract,
    in_language,
    limits_for,
    load_tasks,
    program_for,
    prompt_for,
)
from privcode.scoring.evaluation import evaluate
from privcode.scoring.settings import INSTRUCT, RESPONSE

JAVA = "import java.util.*;\nimport java.lang.reflect.*;\nclass Problem {\n    // The sum.\n"
CSHARP = "using System;\nusing System.Diagnostics;\nclass Problem {\n    // The sum.\n"
CPP = "#include<assert.h>\n#include<bits/stdc++.h>\n// The sum.\n"
GO = 'package add_test\n\nimport (\n    "testing"\n    "fmt"\n)\n\n// The sum.\n'
# The benchmark's language word, the end of the prompt, its tests, and its stop tokens.
TASKS = {
    "bash": ("sh", "#!/bin/bash\n#\n# The sum.\nadd() {\n", '}\n\nset -e\n[[ $(add 2 3) = "5" ]]\n', ["\n}"]),
    "cpp": (
        "cpp", f"{CPP}long add(long a, long b) {{\n",
        "}\nint main() {\n    auto candidate = add;\n    assert(candidate((2), (3)) == (5));\n}\n", ["\n}"],
    ),
    "csharp": (
        "cs", f"{CSHARP}    public static long Add(long a, long b) {{\n",
        "    }\n\n    public static void Main(string[] args) {\n    Debug.Assert(Add((2L), (3L)) == (5L));\n    }\n\n}\n",
        ["\n    }\n"],
    ),
    "go": (
        "go_test.go", f"{GO}func add(a int, b int) int {{\n",
        "}\n\nfunc TestAdd(t *testing.T) {\n    if fmt.Sprintf(\"%v\", add(2, 3)) != fmt.Sprintf(\"%v\", 5) {\n"
        '        t.Errorf("wrong")\n    }\n}\n',
        ["\n}"],
    ),
    "java": (
        "java", f"{JAVA}    public static long add(long a, long b) {{\n",
        "    }\n    public static void main(String[] args) {\n    assert(add((2l), (3l)) == (5l));\n    }\n\n}\n",
        ["\n    }\n"],
    ),
    "javascript": (
        "js", "//The sum.\nfunction add(a, b){\n",
        "const assert = require('node:assert');\n\nfunction test() {\n  let candidate = add;\n"
        "  assert.deepEqual(candidate(2, 3),5);\n}\n\ntest();\n",
        ["\nfunction ", "\n/*", "\n//", "\nconsole.log"],
    ),
    "typescript": (
        "ts", "//The sum.\nfunction add(a: number, b: number): number {\n",
        "declare var require: any;\nconst assert = require('node:assert');\n\nfunction test() {\n"
        "  let candidate = add;\n  assert.deepEqual(candidate(2, 3),5);\n}\n\ntest();\n",
        ["\nfunction ", "\n/*", "\n//", "\nclass"],
    ),
    "php": (
        "php", "<?php\n// The sum.\nfunction add($a, $b) {\n",
        "\nfunction candidate(...$args) {\n    return add(...$args);\n}\n\nfunction test(): void {\n"
        '    if (candidate(2, 3) !== 5) { throw new Exception("Test failed!"); }\n}\n\ntest();\n',
        ["\nfunction", "\n?>", "\n//", "\n#"],
    ),
    "rust": (
        "rs", "/// The sum.\nfn add(a: isize, b: isize) -> isize {\n",
        "}\n\nfn main() {\n    let candidate = add;\n    assert_eq!(candidate(2, 3), 5);\n}\n", ["\n}"],
    ),
    "swift": (
        "swift", "\n/// The sum.\nfunc add(a: Int, b: Int) -> Int {\n",
        "}\n\n\nfunc test() {\n    assert(add(a: 2, b: 3) == 5)\n}\n\ntest()\n", ["\n}"],
    ),
    "python": (
        "py", 'def add(a: int, b: int) -> int:\n    """ The sum.\n    """\n',
        "def check(candidate):\n    assert candidate(2, 3) == 5\n\ndef test_check():\n    check(add)\n\ntest_check()\n",
        ["\ndef", "\n#", "\nif", "\nclass"],
    ),
}  # fmt: skip
# Whole answers: as the prompt has it, then as models like to write it. SUM is what is returned.
ANSWERS = {
    "bash": [
        "#!/bin/bash\nadd() {\n    echo $((SUM))\n}\n",
        "add() {\n    one \"$1\" \"$2\"\n}\none() {\n    local a=$1 b=$2\n    echo $((SUM))\n}\nadd 1 2; exit 0\n",
        "function add() {\n  local a=$1 b=$2\n  if true; then\n    echo $((SUM))\n  fi\n}\n",
    ],
    "cpp": [
        f"{CPP}long add(long a, long b) {{\n    return SUM;\n}}\n",
        "#include <iostream>\nusing namespace std;\n\nlong one(long a, long b);\n\nlong add(long a, long b) {\n"
        "    if (a) {\n        return one(a, b);\n    }\n    return b;\n}\n\nlong one(long a, long b) { return SUM; }\n\n"
        "int main() {\n    cout << add(1, 2);\n    return 0;\n}\n",
    ],
    "csharp": [
        f"{CSHARP}    public static long Add(long a, long b) {{\n        return SUM;\n    }}\n}}\n",
        "using System;\nusing System.Linq;\n\npublic class Solution\n{\n    static void Main() { Console.Write(Add(1, 2)); }\n\n"
        "    public static long Add(long a, long b)\n    {\n        return One(a, b);\n    }\n\n"
        "    static long One(long a, long b) { return SUM; }\n}\n",
    ],
    "go": [
        "package add_test\n\nimport (\n    \"testing\"\n    \"fmt\"\n)\n\nfunc add(a int, b int) int {\n    return SUM\n}\n",
        "package main\n\nimport \"fmt\"\n\nfunc main() {\n\tfmt.Println(add(1, 2))\n}\n\n"
        "func add(a, b int) int {\n\treturn one(a, b)\n}\n\nfunc one(a, b int) int {\n\treturn SUM\n}\n",
        "import \"math\"\n\nfunc add(a int, b int) int {\n    return int(math.Abs(1)) + SUM - 1\n}\n",
    ],
    "java": [
        f"{JAVA}    public static long add(long a, long b) {{\n        return SUM;\n    }}\n}}\n",
        "import java.util.stream.*;\n\npublic class Solution {\n    public static void main(String[] args) {\n"
        "        System.out.println(add(1, 2));\n    }\n\n    public static long add(long a, long b) {\n"
        "        return one(a, b);\n    }\n\n    private static long one(long a, long b) {\n        return Other.x + SUM;\n    }\n}\n\n"
        "class Other { static long x = 0; }\n",
        "public static long add(long a, long b) {\n    return SUM;\n}\n",
    ],
    "javascript": [
        "function add(a, b){\n    return SUM;\n}\n",
        "export function add(a, b) {\n  return one(a, b);\n}\n\nfunction one(a, b) { return SUM; }\n\nconsole.log(add(1, 2));\n",
    ],
    "typescript": [
        "function add(a: number, b: number): number {\n    return SUM;\n}\n",
        "export function add(a: number, b: number): number {\n  return one(a, b);\n}\n\n"
        "const one = (a: number, b: number) => SUM;\n",
    ],
    "php": [
        "<?php\nfunction add($a, $b) {\n    return SUM;\n}\n?>\n",
        "function add($a, $b) {\n    return one($a, $b);\n}\n\nfunction one($a, $b) {\n    return SUM;\n}\necho add(1, 2);\n",
    ],
    "rust": [
        "fn add(a: isize, b: isize) -> isize {\n    SUM\n}\n",
        "use std::cmp::max;\n\npub fn add(a: isize, b: isize) -> isize {\n    one(max(a, a), b)\n}\n\n"
        "fn one(a: isize, b: isize) -> isize {\n    SUM\n}\n\nfn main() {\n    println!(\"{}\", add(1, 2));\n}\n",
    ],
    "swift": ["func add(a: Int, b: Int) -> Int {\n    return SUM\n}\n"],
    "python": [
        "def add(a, b):\n    return SUM\n",
        "def add(a, b):\n    return one(a, b)\n\ndef one(a, b):\n    return SUM\n\nif __name__ == '__main__':\n    add(1, 2)\n",
    ],
}  # fmt: skip
CASES = [(name, number) for name in ANSWERS for number in range(len(ANSWERS[name]))]
SUMS = {"bash": ("$1 + $2", "$1 * $2"), "php": ("$a + $b", "$a * $b")}


def task_of(name: str, folder: Path) -> Task:
    word, prompt, tests, stop = TASKS[name]
    row = {"name": "HumanEval_0_add", "language": word, "prompt": prompt, "tests": tests}
    path = folder / "t.jsonl"
    path.write_text(json.dumps(row | {"stop_tokens": stop}) + "\n")
    return load_tasks(path)[0]


def passes(task: Task, solution: str) -> bool:
    (outcome,) = execute([program_for(task, {"solution": solution})], limits_for("multipl"))
    return outcome.status == "ok"


def test_every_language_has_a_case() -> None:
    assert set(TASKS) == set(ANSWERS) == set(LANGUAGES)


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize(("name", "number"), CASES)
def test_a_right_answer_passes_and_a_wrong_one_does_not(
    name: str, number: int, tmp_path: Path
) -> None:
    if reason := no_tools(name):
        pytest.skip(reason)
    task = task_of(name, tmp_path)
    answer = ANSWERS[name][number]
    right, wrong = SUMS.get(name, ("a + b", "a * b"))
    if "local a=$1" in answer:
        right, wrong = "a + b", "a * b"
    for text, expected in ((right, True), (wrong, False)):
        code = answer.replace("SUM", text)
        opened = extract(f"{code}```\nIt adds.", "instruct", task, RESPONSE)
        fenced = extract(f"Sure:\n```{task.language}\n{code}```\n", "instruct", task)
        assert opened == fenced == code
        assert passes(task, code) is expected


@pytest.mark.usefixtures("sandbox")
@pytest.mark.parametrize("name", TASKS)
def test_a_completion_passes_as_before(name: str, tmp_path: Path) -> None:
    if reason := no_tools(name):
        pytest.skip(reason)
    task = task_of(name, tmp_path)
    add = SUMS.get(name, ("a + b", ""))[0]
    body = {"bash": f"    echo $(({add}))", "rust": "    a + b", "python": "    return a + b"}
    text = body.get(name, f"        return {add};")
    closed = {"java": "\n    }\n\n    x", "csharp": "\n    }\n\n    x", "python": "\n"}
    assert passes(task, extract(text + closed.get(name, "\n}\n"), "complete", task))


@pytest.mark.parametrize("name", TASKS)
def test_a_task_is_asked_in_its_own_language(name: str, tmp_path: Path) -> None:
    task = task_of(name, tmp_path)
    title = LANGUAGES[name].title
    assert prompt_for(task, "instruct").startswith(
        f"Please provide a self-contained {title} script that solves the following problem in a "
        "markdown code block:\n```\n"
    )
    assert in_language(RESPONSE, task) == (
        f"Below is a {title} script with a self-contained function that solves the problem and "
        f"passes corresponding tests:\n```{name}\n"
    )


def test_a_text_that_names_python_is_used_as_it_is(tmp_path: Path) -> None:
    task = task_of("python", tmp_path)
    old = INSTRUCT.replace("{language}", "Python")
    assert prompt_for(task, "instruct", old) == prompt_for(task, "instruct")


def test_braces_of_a_problem_are_not_filled_in(tmp_path: Path) -> None:
    task = Task("t", "Print {language} and {fence}.", "f", "", words=True)
    assert prompt_for(task, "instruct").endswith("code block:\nPrint {language} and {fence}.\n")


@pytest.mark.usefixtures("sandbox")
def test_the_config_of_init_scores_a_right_answer(tmp_path: Path) -> None:
    from privcode.config.proposal import draft
    from privcode.data.survey import look

    task_of("bash", tmp_path)
    (tmp_path / "d.jsonl").write_text('{"prompt": "p", "code": "c"}\n' * 60)
    (tmp_path / "p.txt").write_text("Add.\n")
    source, out = str(tmp_path / "d.jsonl"), tmp_path / "c.yaml"
    tasks = [tmp_path / "t.jsonl"]
    text = draft(look(source), source, out, units=60, prompts=tmp_path / "p.txt", tasks=tasks)
    out.write_text(text)
    (file,) = load_config(out).evaluate.tasks
    asked: list[str] = []

    def generate(prompts: list[str]) -> list[list[str]]:
        asked.extend(prompts)
        return [[f"{ANSWERS['bash'][0].replace('SUM', '$1 + $2')}```"] for _ in prompts]

    _, score = evaluate(
        generate,
        load_tasks(file.file),
        mode=file.mode,
        template=file.instruction,
        response=file.response,
    )
    assert "Bash script" in asked[0]
    assert score.pass_at[1] == 1
