"""pass@k of the untuned and the tuned models on the task files."""

from collections.abc import Callable, Sequence
from pathlib import Path

from privcode.cluster import Engine, Workers, engine
from privcode.console import progress_bar
from privcode.errors import UserError
from privcode.files import write_json, write_jsonl
from privcode.generation import Generator
from privcode.models.settings import Model
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.models import answers_of, asking_of, sampling_of
from privcode.pipeline.preflight import tasks_of, text_of
from privcode.pipeline.scale import executing, generators
from privcode.pipeline.stages._stage import Stage
from privcode.scoring import Task, ground_truth, in_language, limits_for
from privcode.scoring.evaluation import evaluate
from privcode.scoring.settings import TaskFile

Answers = Callable[[list[str]], list[list[str]]]


def _check(run: RunDirectory) -> None:
    if not run.config.evaluate.tasks:
        raise UserError(f"{run.out / 'config.yaml'}, field evaluate.tasks: names no task file")


def _work(run: RunDirectory) -> Path:
    config = run.config.evaluate
    files = [(file, tasks_of(file)) for file in config.tasks]
    wanted = [m for m in config.models if m == "base" or run.config.method != "base"]
    if run.config.method != "privcode" and "junior" in wanted:
        wanted.remove("junior")
    with engine(run.config.scale) as chosen:
        for label in wanted:
            missing = [
                (file, tasks) for file, tasks in files if not _result(run, file, label).exists()
            ]
            if missing:
                with generators(chosen, run, label, config, "evaluate") as models:
                    for file, tasks in missing:
                        _score(run, label, file, tasks, models, chosen)
    return run.evaluation


def _result(run: RunDirectory, file: TaskFile, label: str) -> Path:
    return run.evaluation / f"{file.name}.{label}.json"


def _score(
    run: RunDirectory,
    label: str,
    file: TaskFile,
    tasks: Sequence[Task],
    models: Workers[Generator],
    chosen: Engine,
) -> None:
    """Write the score of one model on one task file."""
    config, section = run.config.evaluate, run.config.labelled(label)
    sampling = sampling_of(config, config.samples)
    limits = limits_for(tasks[0].format, config.cpu_seconds, config.memory_mb, config.preload)
    with progress_bar("ground truth", len(tasks)) as progress:
        truth = ground_truth(
            tasks,
            prelude=text_of(file.prelude),
            limits=limits,
            sandbox=config.sandbox,
            progress=progress,
        )
    with progress_bar(f"{file.name} {label}", 2 * len(tasks)) as progress:
        answers = answers_of(models, config.batch_size, sampling, progress, chosen)
        samples, score = evaluate(
            _answering(answers, section, file, tasks),
            tasks,
            mode=file.mode,
            template=file.instruction,
            response=file.response if file.mode == "instruct" else "",
            k=config.k,
            prelude=text_of(file.prelude),
            limits=limits,
            sandbox=config.sandbox,
            progress=progress,
            truth=truth,
            run=executing(chosen),
        )
    rows = [
        sample | {"passed": row["passed"], "error": row["error"]}
        for sample, row in zip(samples, score.rows, strict=True)
    ]
    result = _result(run, file, label)
    write_jsonl(result.with_suffix(".samples.jsonl"), rows)
    facts = score.summary()
    del facts["seconds"]  # in the manifest: the rest is the same on every run
    write_json(result, {"task": file.name, "model": label, "mode": file.mode} | facts)


def _answering(answer: Answers, section: Model, file: TaskFile, tasks: Sequence[Task]) -> Answers:
    """From the prompts of `tasks` to answers, which begin with the response that the file asks for.

    Code to be completed stands alone. In a chat, an answer begins in the model's own turn.
    """
    if file.mode == "complete":
        return answer
    asking = asking_of(section)
    begun = [in_language(file.response, task) for task in tasks]
    return lambda prompts: answer(
        [asking(prompt) + own for prompt, own in zip(prompts, begun, strict=True)]
    )


STAGE = Stage(
    name="evaluate",
    made=lambda run: run.evaluation,
    work=_work,
    outputs=lambda run: [run.evaluation],
    passed_on=False,
    check=_check,
)
