from tools.vllm_environment import core, requirements

LINES = [
    "regex",
    'setuptools<81.0.0,>=78.1.1; python_version > "3.99"',
    'xgrammar==0.2.8; platform_machine == "x86_64" or platform_machine != "x86_64"',
    "fastapi[standard]<0.137.0,>=0.133.0",
    'torch==2.13.0+cpu; platform_machine == "x86_64"',
    "torchaudio",
    'torchvision; platform_machine != "riscv64"',
    "torchcodec>=0.14",
    'bitsandbytes; extra == "bitsandbytes"',
]


def test_vllm_gets_what_it_needs_for_texts_here_and_nothing_else() -> None:
    assert requirements(LINES) == [
        "regex",
        "xgrammar==0.2.8",
        "fastapi[standard]<0.137.0,>=0.133.0",
    ]


def test_the_environment_can_run_privcode() -> None:
    names = core()
    assert any(name.startswith("dp-accounting") for name in names)
    assert not any(name.startswith("torch") for name in names)
