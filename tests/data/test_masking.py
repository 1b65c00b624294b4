"""Masking for jft: what is found by kind, what is left alone, and what it needs."""

import ast
import gzip
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from privcode.audit.canaries import KINDS, plant
from privcode.data.masking import mask
from privcode.exercises.corpus import private_records
from privcode.syntax.spans import parse

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
BEGIN, END = (f"-----{word} RSA PRIVATE KEY-----" for word in ("BEGIN", "END"))
BODY = ["MIIEpAIBAAKCAQEA" + letter * 48 for letter in "abc"] + ["Qx3=="]

MASKED = [
    ("# mail ann.b+c@example.co.uk", "# mail EMAIL"),
    ('author = "ann@example.org"', 'author = "EMAIL"'),
    (r's = "Hello\nann@example.org"', r's = "Hello\nEMAIL"'),
    ("host = '10.20.30.255'  # :5432", "host = 'IP_ADDRESS'  # :5432"),
    (
        'f("2001:db8:c206:e784:2d45:b8ec:5bff:472c", "2001:db8::1")',
        'f("IP_ADDRESS", "IP_ADDRESS")',
    ),
    # A known first and last name; then names that are credited and not known.
    ("# thanks to Mark Adler and Cristian Rodríguez.", "# thanks to NAME and NAME."),
    ('who = "Leonardo de Moura", "Zdenek A. Dvorak"', 'who = "NAME", "NAME"'),
    ('__author__ = "Nikos Mavrogiannopoulos"', '__author__ = "NAME"'),
    ("/* written by Zeyd Krempovský. */", "/* written by NAME. */"),
    # Keys with a form of their own, with high entropy, or with a telling name.
    ("# sk_live_" + "a1B2" * 6, "# SECRET"),
    ("t = 'glpat-" + "a1B2" * 5 + "'", "t = 'SECRET'"),
    ('x = "3e25960a79dbc69b674cd4ec67a72c62"', 'x = "SECRET"'),
    ("# token: ak_0f3a9b12cd", "# token: SECRET"),
    ('config["password"] = "hunter+two"', 'config["password"] = "SECRET"'),
    ("log_in(db_password='hunter+two')", "log_in(db_password='SECRET')"),
    ("""body = '{"password": "hunter22"}'""", """body = '{"password": "SECRET"}'"""),
    ("# don't use password='hunter22'", "# don't use password='SECRET'"),
    ("url = 'https://ann:hunter22@db.example/x'", "url = 'https://ann:SECRET/x'"),
    ("\n".join([BEGIN, *BODY, END, "x"]), "SECRET\nx"),
    (f'k = "{BEGIN}\\n{BODY[0]}{BODY[1]}"', 'k = "SECRET"'),
    (
        f'k = ("{BEGIN}\\n"\n' + "".join(f'    "{line}\\n"\n' for line in BODY) + f'    "{END}")',
        'k = ("SECRET")',
    ),
    ('username = "kexuzaf"', 'username = "USERNAME"'),
    ("{'login': 'kexuzaf'}", "{'login': 'USERNAME'}"),
    ("cd /home/kexuzaf/src", "cd /home/USERNAME/src"),
    (r'open("C:\\Users\\kexuzaf\\x")', r'open("C:\\Users\\USERNAME\\x")'),
    (" * @author kexuzaf\n", " * @author USERNAME\n"),
    ("# TODO(kexuzaf): mend", "# TODO(USERNAME): mend"),
]

ORDINARY = [
    "x = a[1::2] + b[::2, ::-1] + c[10:20:5]",
    "y = a @ b.c",
    "@app.route\ndef f() -> None: ...",
    'print("password:", pwd, "x"); print("password:",password,"x"+tail)',
    'path = "a: "+quickBrownFoxJumps_over13LazyDogs+"b"',
    "def f(password: PasswordHasher, api_key=default_key) -> None: ...",
    "# class A { public Grace Grace { get; set; } }",
    'password = input("Password: ") + "" if pwd else get_password("db")',
    'api_key = os.environ["API_KEY"]',
    'tokenizer_class = "LlamaTokenizer"; eos_token = "<|endoftext|>"; max_tokens = 2147483647',
    'c = {"token2wav_config": Qwen2Token2WavConfig, "token_type_ids": ids}',
    'f"https://{user}:{password}@{host}/{user}@example.com"',
    """f"password: '{hashed_password}', token: '%(token_12)s'" """,
    'mail = "%s@example.com" % user',
    r'code = "\n@triton.jit\n"',
    'icons = ["icon@2x.png"]; url = "git@github.com:owner/name.git"',
    'hosts = "127.0.0.1", "0.0.0.0", "::1", "255.255.255.0"; version = "1.2.3"',
    'title = "Server Error"; raise ValueError("Hello World, New York, Max Value")',
    'digits = "0123456789abcdef"; uuid = "1b4e28ba-2fa1-11d2-883f-0016d3cca427"',
    "user = User(); user.name = name; username: str = ''; login = 'admin'",
    "# Author: see AUTHORS. Written by hand.",
]


@pytest.mark.parametrize(("text", "masked"), MASKED)
def test_each_kind_is_found_and_nothing_beside_it(text: str, masked: str) -> None:
    assert mask(text) == masked
    assert mask(f"see\n{text}\n\nsee") == f"see\n{masked}\n\nsee"
    assert mask(masked) == masked


@pytest.mark.parametrize("code", ORDINARY)
def test_ordinary_code_is_left_alone(code: str) -> None:
    assert mask(code) == code


def without_strings(code: str) -> str:
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            node.value = ""
    return ast.dump(tree)


def test_masked_code_differs_in_its_strings_and_comments_alone() -> None:
    lines = [text for text, _ in MASKED if not re.match(r"-----|/\*|cd | \*", text)]
    for code in (*lines, "\n".join(lines), "\n".join(lines + ORDINARY)):
        assert mask(code) != code
        assert without_strings(mask(code)) == without_strings(code)


@pytest.mark.parametrize(
    ("language", "code"),
    [
        ("java", 'class A { /** @author Ann Lee */ String password = "hunter22"; }'),
        ("javascript", "const c = {password: 'hunter22', by: `Mark Adler <m@example.org>`};"),
        ("go", 'package main\nvar password, host = "hunter22", "2001:db8:0:1::5"\n'),
        ("cpp", 'std::string secret("hunter22"); // 10.1.2.3\nint x = dead::beef::add;'),
        ("bash", "export TOKEN=a1b2c3d4e5\nssh ann@db.example.org\n"),
    ],
)
def test_masked_code_of_other_languages_still_parses(language: str, code: str) -> None:
    assert not parse(code, language).root_node.has_error
    assert mask(code) != code
    assert not parse(mask(code), language).root_node.has_error


def test_of_the_canaries_all_are_found_but_names_and_usernames() -> None:
    found: dict[str, set[bool]] = {kind: set() for kind in KINDS}
    for canary in (canary for seed in range(20) for canary in plant([1], seed)):
        assert mask(canary.prompt) == canary.prompt
        found[canary.kind].add(canary.secret not in mask(canary.completion))
    assert found == {
        **{kind: {True} for kind in ("email", "ip", "password")},
        **{kind: {False} for kind in ("name", "username")},
    }


def test_the_exercise_worlds_personal_comments_are_masked_and_its_other_records_are_not() -> None:
    personal = re.compile(r"# (owner|host|token): (?P<secret>\S+)")
    masked = 0
    for row in private_records(600, seed=1):
        assert mask(row["prompt"]) == row["prompt"]
        comment = personal.search(row["code"])
        if comment:
            masked += 1
            assert comment["secret"] not in mask(row["code"])
        else:
            assert mask(row["code"]) == row["code"]
    assert masked > 30


@pytest.mark.skipif(not DATA.is_dir(), reason="needs the shared data folder")
def test_no_canonical_solution_of_humaneval_or_mbpp_is_changed() -> None:
    with gzip.open(DATA / "HumanEval.jsonl.gz", "rt") as lines:
        solutions = [json.loads(line)["canonical_solution"] for line in lines]
    solutions += [row["code"] for row in json.loads((DATA / "mbpp-sanitized.json").read_text())]
    assert len(solutions) == 164 + 427
    assert [code for code in solutions if mask(code) != code] == []


def test_a_long_line_without_spaces_does_not_hang_the_masking() -> None:
    mask("")
    began = time.process_time()
    for text in ("a" * 50_000, "1." * 50_000, "a@" * 50_000, "Mark " * 20_000, BEGIN * 2_000):
        mask(text)
    mask("password" * 2_000)
    assert time.process_time() - began < 5


def test_what_looks_like_a_key_is_not_sent_anywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some detectors can ask the service that a key is for whether it is a real one."""
    asked: list[object] = []
    monkeypatch.setattr(socket, "getaddrinfo", lambda *where, **_: asked.append(where))
    keys = ("ghp_" + "a1" * 18, "xoxb-1234567890-" + "a1B2" * 6, "sk_live_" + "a1B2" * 6)
    for key in keys:
        assert mask(f'key = "{key}"') == 'key = "SECRET"'
    assert asked == []


CONFIG = """\
method: jft
data: {source: private.jsonl, language: python, public: true}
privacy: {epsilon: 4, delta: 1.0e-4, units: 60, batch: 8, steps: 2}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior"}
premium: {model: "bundled:premium"}
evaluate: {tasks: [{name: house, file: tasks.jsonl}]}
"""


def test_signs_for_init_and_plan_need_no_extra() -> None:
    program = """\
import sys
sys.modules["detect_secrets"] = sys.modules["faker"] = None
from privcode.data.masking import signs
print(*(sign.kind for sign in signs("x@corp.example, password = 'hunter22'")), sep=", ")
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.stdout == "e-mail address, secret assigned\n", done.stderr


@pytest.mark.parametrize("absent", ["detect_secrets", "faker"])
def test_jft_without_its_extra_is_refused_in_one_line_before_any_file_is_read(
    absent: str, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_text(CONFIG)
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / f"{absent}.py").write_text("raise ImportError\n")
    path = os.pathsep.join([str(tmp_path / "hidden"), *filter(None, [os.getenv("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-m", "privcode", "run", tmp_path / "c.yaml", "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert "jft" in done.stderr
    assert "pip install 'privcode[pii]'" in done.stderr
