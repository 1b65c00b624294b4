"""One run: run, its stages, report, release."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any

import typer

from privcode.cli._options import Json, Out, RunFolder, RunOrConfig, opened_run
from privcode.console import answer, epsilon_text, say

if TYPE_CHECKING:
    from privcode.pipeline.run import Run

STAGES = {
    "sanitize": "Stage 1: tune the junior on the private records with DP-SGD.",
    "synthesize": "Stage 2a: sample solutions from the DP junior, of public prompts or of its own.",
    "validate": "Stage 2b: keep samples that run and that say what the prompt asked.",
    "boost": "Stage 2c: tune the premium model on the accepted samples.",
    "evaluate": "pass@k of the untuned and the tuned model on the config's task files.",
    "audit": "Attack the tuned models: planted canaries, membership inference.",
}
"""The stages that are commands, and their help."""


def run(config: RunOrConfig, out: Out = None, as_json: Json = False) -> None:
    """All stages; called again, it goes on where it was."""
    with opened_run(config, out) as opened:
        opened.all()
        say(f"run: {opened.report()}; next: privcode release {opened.out}")
        _summary(opened, as_json)


def stage(name: str) -> Callable[..., None]:
    """The command of one stage."""

    def command(run: RunOrConfig, out: Out = None, as_json: Json = False) -> None:
        with opened_run(run, out) as opened:
            opened.do(name)
            _summary(opened, as_json)

    return command


def report(run: RunFolder, as_json: Json = False) -> None:
    """One page about a run: the guarantee, what survived, what the models reach, what leaked."""
    from privcode.pipeline.run import Run

    with Run.open(run) as opened:
        page = opened.report()
    answer({"report": str(page)}, as_json, f"report {page}")


def release(
    run: RunFolder,
    push_to_hub: Annotated[str | None, typer.Option(help="Also upload as this data set.")] = None,
    allow_reproducible_noise: Annotated[
        bool, typer.Option(help="Release although the noise can be drawn again from its seed.")
    ] = False,
    license: Annotated[
        str | None, typer.Option(help="Of the synthetic data, as the card names it.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Check a run and bundle what may leave the building."""
    from privcode.files import read_sealed
    from privcode.pipeline.run import Run
    from privcode.release.bundle import FACTS
    from privcode.release.page import loud

    with Run.open(run) as opened:
        stated = opened.bundle / FACTS
        before = read_sealed(stated)["digest"] if stated.exists() else None
        facts = opened.release(allow_reproducible_noise=allow_reproducible_noise, license=license)
    if push_to_hub:
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(push_to_hub, repo_type="dataset", private=True, exist_ok=True)
        # The hub adds a .gitattributes, which a recipient's verify would call foreign.
        api.upload_folder(
            repo_id=push_to_hub,
            repo_type="dataset",
            folder_path=str(opened.bundle),
            delete_patterns=".gitattributes",
        )
    text = (
        f"release {opened.bundle}: ε = {epsilon_text(facts['epsilon'])}, δ = {facts['delta']:g}\n"
    )
    if words := loud(facts):
        text += f"{words}\n"
    text += f"digest  {facts['digest']} (publish it by another way than the bundle)\n"
    if before not in (None, facts["digest"]):
        text += f"        in place of {before}: tell whoever has that one\n"
    text += f"next    privcode verify {opened.bundle}"
    answer({"release": str(opened.bundle)} | facts, as_json, text)


def _summary(run: "Run", as_json: bool) -> None:
    from privcode.pipeline.results import summary

    facts = summary(run)
    answer(facts, as_json, summary_text(facts))


def summary_text(facts: dict[str, Any]) -> str:
    """What a run came to, in lines."""
    lines = [f"run        {facts['run']}"]
    if facts["epsilon"] is not None:
        epsilon = epsilon_text(float(facts["epsilon"]))
        lines.append(f"guarantee  ε = {epsilon}, δ = {facts['delta']:g}")
        if facts["warning"]:
            lines.append(facts["warning"])
    if facts["samples"]:
        lines.append(
            f"samples    {facts['samples']['accepted']} of {facts['samples']['samples']} accepted"
        )
    lines += [
        f"{task:<10} {model}: pass@1 {figures['pass@1']:.3f} of {figures['tasks']} tasks"
        for task, models in facts["evaluation"].items()
        for model, figures in models.items()
    ]
    for place, found in facts["one_run"].items():
        bounds = [b for b in (found["epsilon"], found["epsilon_same_shape"]) if b is not None]
        lines.append(f"audit      ε is at least {max(bounds):.3g}, by {place}")
    if facts["leaks"]:
        found = facts["leaks"]["places"]["anywhere"]
        lines.append(f"canaries   {found['leaked']} of {found['planted']} came out")
    return "\n".join(lines)
