"""Scoring programs as the benchmarks do: task formats, prompts, judges and ground truth.

Promises:
- Each benchmark's own file is read as its owners publish it.
- Every program runs in the sandbox.
- A score states what it depends on: format, limits, versions, and how many of the benchmark's own
  solutions pass on this machine.

Does not:
- Bundle a benchmark.
- Load a model.
"""

from privcode.scoring.format import Format, Verdict
from privcode.scoring.formats import format_named, formats
from privcode.scoring.ground_truth import GroundTruth, ground_truth
from privcode.scoring.loading import load_tasks
from privcode.scoring.programs import limits_for, program_for, unsupported, verdict, whole
from privcode.scoring.prompts import RULES, Mode, extract, in_language, prompt_for
from privcode.scoring.samples import Sample, eval_results, read_samples
from privcode.scoring.tasks import Cases, Task

__all__ = [
    "RULES",
    "Cases",
    "Format",
    "GroundTruth",
    "Mode",
    "Sample",
    "Task",
    "Verdict",
    "eval_results",
    "extract",
    "format_named",
    "formats",
    "ground_truth",
    "in_language",
    "limits_for",
    "load_tasks",
    "program_for",
    "prompt_for",
    "read_samples",
    "unsupported",
    "verdict",
    "whole",
]
