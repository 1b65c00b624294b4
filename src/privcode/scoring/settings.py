"""The settings of the benchmarks and of how they are scored."""

from collections import Counter
from typing import Literal

from pydantic import Field, model_validator

from privcode.fields import File, Memory, Name, Seconds, Section, Seed, Size, Temperature, Text
from privcode.generation.settings import Sampled

INSTRUCT = (
    "Please provide a self-contained {language} script that solves the following problem in a "
    "markdown code block:\n{problem}\n"
)
RESPONSE = (
    "Below is a {language} script with a self-contained function that solves the problem and "
    "passes corresponding tests:\n```{fence}\n"
)


class TaskFile(Section):
    """One benchmark, in the file format of its owners."""

    name: Name = Field(description="name of the benchmark in tables and file names")
    file: File = Field(description="task file, or OWNER/NAME:SPLIT on the hub")
    format: Name | None = Field(
        None, description="format of the file; default: found from its fields"
    )
    stdlib_only: bool = Field(
        False, description="leave out tasks that need more than Python's standard library"
    )
    mode: Literal["complete", "instruct"] = Field(
        "instruct", description="complete: the model continues code; instruct: it is asked for code"
    )
    prelude: File | None = Field(None, description="file of code to put before each program")
    instruction: Text = Field(
        INSTRUCT,
        description="instruct: text that asks for the solution of {problem} in {language}",
    )
    response: Text = Field(
        RESPONSE,
        description="instruct: text that every answer is made to begin with; {language} and "
        "{fence} are the language of the task, in words and behind a Markdown fence",
    )


class Evaluate(Sampled):
    """Scoring of base and tuned models on benchmarks, by pass@k."""

    tasks: list[TaskFile] = Field(default_factory=list, description="benchmarks to score")
    models: list[Literal["base", "junior", "tuned"]] = Field(
        ["base", "tuned"],
        description="models to score: base (the untuned premium), junior (the tuned junior), "
        "tuned (the tuned premium)",
    )
    samples: Size = Field(1, description="number of answers for each task; at least the largest k")
    k: list[Size] = Field(default_factory=lambda: [1], description="values of k in pass@k")
    temperature: Temperature = Field(0.0, description="temperature of the answers; 0: greedy")
    max_new_tokens: Size = Field(512, description="maximum number of tokens of an answer")
    batch_size: Size = Field(
        64, description="number of answers that are sampled together, or asked for at once"
    )
    sandbox: str = Field("auto", description="auto, or the name of a sandbox that doctor lists")
    cpu_seconds: Seconds | None = Field(
        None,
        description="processor time limit of each program; default: 5 (HumanEval+, MBPP+ and "
        "BigCodeBench: 60)",
    )
    memory_mb: Memory | None = Field(
        None,
        description="memory limit of each program with all its processes; default: 1024 "
        "(HumanEval+, MBPP+ and BigCodeBench: 4096)",
    )
    preload: list[str] = Field(
        default_factory=list, description="modules that are imported before every program starts"
    )
    seed: Seed = Field(0, description="seed of the sampling")

    @model_validator(mode="after")
    def _fits_together(self) -> "Evaluate":
        if max(self.k, default=1) > self.samples:
            raise ValueError("k: is more than samples; raise samples, or lower k")
        names = Counter(task.name for task in self.tasks)
        if max(names.values(), default=1) > 1:
            raise ValueError("tasks: two have the same name; give each its own")
        if self.endpoint.model and len(self.models) > 1:
            raise ValueError(
                "endpoint.model: names one model, and evaluate.models has several; leave it out, "
                "and let the server call them by privcode's names"
            )
        return self
