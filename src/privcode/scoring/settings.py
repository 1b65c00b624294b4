"""Which benchmarks are scored, and how."""

from collections import Counter
from typing import Literal

from pydantic import Field, model_validator

from privcode.fields import File, Memory, Name, Seconds, Section, Seed, Size, Temperature, Text

INSTRUCT = (
    "Please provide a self-contained Python script that solves the following problem in a "
    "markdown code block:\n{problem}\n"
)
RESPONSE = (
    "Below is a Python script with a self-contained function that solves the problem and passes "
    "corresponding tests:\n```python\n"
)


class TaskFile(Section):
    """One benchmark, in the file format of its owners."""

    name: Name = Field(description="what its figures go by; also in names of files")
    file: File = Field(description="a file, or OWNER/NAME:SPLIT on the hub")
    format: Name | None = Field(None, description="default: by the fields of the file")
    stdlib_only: bool = Field(
        False, description="leave out tasks that need more than Python's standard library"
    )
    mode: Literal["complete", "instruct"] = "instruct"
    prelude: File | None = Field(None, description="file of code put before each program")
    instruction: Text = Field(INSTRUCT, description="instruct: asks for the solution of {problem}")
    response: Text = Field(
        RESPONSE, description="instruct: what every answer is made to begin with"
    )


class Evaluate(Section):
    """pass@k of base and tuned models."""

    tasks: list[TaskFile] = Field(default_factory=list)
    models: list[Literal["base", "junior", "tuned"]] = Field(
        ["base", "tuned"], description="untuned premium, tuned junior, tuned premium"
    )
    samples: Size = 1
    k: list[Size] = Field(default_factory=lambda: [1])
    temperature: Temperature = 0.0
    max_new_tokens: Size = 512
    batch_size: Size = 64
    backend: Name = Field("local", description="what samples; see synthesize.backend")
    sandbox: str = Field("auto", description="auto, or the name of one that doctor lists")
    cpu_seconds: Seconds | None = Field(
        None,
        description="of each program; default: 5, HumanEval+ and MBPP+ 30, BigCodeBench 60",
    )
    memory_mb: Memory | None = Field(
        None,
        description="of each program, all its processes; default: 1024, HumanEval+, MBPP+, "
        "BigCodeBench 4096",
    )
    preload: list[str] = Field(
        default_factory=list, description="modules that every program finds imported already"
    )
    seed: Seed = 0

    @model_validator(mode="after")
    def _fits_together(self) -> "Evaluate":
        if max(self.k, default=1) > self.samples:
            raise ValueError("k: is more than samples; raise samples, or lower k")
        names = Counter(task.name for task in self.tasks)
        if max(names.values(), default=1) > 1:
            raise ValueError("tasks: two have the same name; give each its own")
        return self
