"""pass@k of the untuned and the tuned models on the task files."""

from functools import partial
from pathlib import Path

from privcode.console import progress_bar
from privcode.errors import UserError
from privcode.files import write_json, write_jsonl
from privcode.generation.backends import backend_named
from privcode.pipeline.layout import RunDirectory
from privcode.pipeline.models import answers_of, sampling_of, weights_of
from privcode.pipeline.preflight import tasks_of, text_of
from privcode.pipeline.stages._stage import Stage
from privcode.scoring import generator_of, ground_truth, limits_for
from privcode.scoring.evaluation import evaluate


def _check(run: RunDirectory) -> None:
    if not run.config.evaluate.tasks:
        raise UserError(f"{run.out / 'config.yaml'}, field evaluate.tasks: names no task file")


def _work(run: RunDirectory) -> Path:
    config = run.config.evaluate
    files = [(file, tasks_of(file)) for file in config.tasks]
    wanted = [m for m in config.models if m == "base" or run.config.method != "base"]
    if run.config.method != "privcode" and "junior" in wanted:
        wanted.remove("junior")
    backend = backend_named(config.backend, "evaluate.backend")
    for label in wanted:
        section = run.config.labelled(label)
        generator = None
        for file, tasks in files:
            result = run.evaluation / f"{file.name}.{label}.json"
            if result.exists():
                continue
            generator = generator or backend(weights_of(run, label), config.batch_size)
            sampling = sampling_of(config, config.samples)
            template, response = "{prompt}", ""
            if file.mode == "instruct":
                template, response = section.template, file.response
            limits = limits_for(
                tasks[0].format, config.cpu_seconds, config.memory_mb, config.preload
            )
            with progress_bar("ground truth", len(tasks)) as progress:
                truth = ground_truth(
                    tasks,
                    prelude=text_of(file.prelude),
                    limits=limits,
                    sandbox=config.sandbox,
                    progress=progress,
                )
            with progress_bar(f"{file.name} {label}", 2 * len(tasks)) as progress:
                samples, score = evaluate(
                    generator_of(
                        partial(answers_of, generator, sampling, progress=progress),
                        template + response,
                        tasks,
                    ),
                    tasks,
                    mode=file.mode,
                    template=file.instruction,
                    response=response,
                    k=config.k,
                    prelude=text_of(file.prelude),
                    limits=limits,
                    sandbox=config.sandbox,
                    progress=progress,
                    truth=truth,
                )
            rows = [
                sample | {"passed": row["passed"], "error": row["error"]}
                for sample, row in zip(samples, score.rows, strict=True)
            ]
            write_jsonl(result.with_suffix(".samples.jsonl"), rows)
            facts = score.summary()
            del facts["seconds"]  # in the manifest: the rest is the same on every run
            write_json(result, {"task": file.name, "model": label, "mode": file.mode} | facts)
    return run.evaluation


STAGE = Stage(
    name="evaluate",
    made=lambda run: run.evaluation,
    work=_work,
    outputs=lambda run: [run.evaluation],
    passed_on=False,
    check=_check,
)
