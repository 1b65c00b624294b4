"""What is so: doctor of this machine, verify of a run or a bundle."""

from pathlib import Path
from typing import Annotated, cast

import typer

from privcode.cli._options import Json
from privcode.console import answer, epsilon_text, say
from privcode.errors import UserError


def doctor(
    model: Annotated[
        str | None, typer.Option(help="Instead: can this model be clipped per record here?")
    ] = None,
    dtype: Annotated[str, typer.Option(help="Of that model's weights.")] = "float32",
    micro_batch: Annotated[int, typer.Option(min=1, help="sanitize.micro_batch.")] = 8,
    max_tokens: Annotated[int, typer.Option(min=2, help="junior.max_tokens.")] = 1024,
    latent: Annotated[
        bool, typer.Option("--latent", help="With the parts of prompts.source: latent.")
    ] = False,
    measure: Annotated[
        Path | None,
        typer.Option(
            metavar="CONFIG",
            help="Instead: how fast is this machine at this config's work? For plan.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Of --measure. Default: CONFIG's name, with .rates.json."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Self-test of this machine, in under two minutes: is the guarantee kept, would faults show?

    With --measure, models of a config are timed on made-up texts, and plan uses the rates.
    """
    if measure is not None:
        if model is not None:
            raise UserError("--measure and --model: give one of them")
        return _measure(measure, out, as_json)
    if out is not None:
        raise UserError("--out: belongs to --measure CONFIG, which is not given")
    from privcode.doctor import Check, checks, line, report

    done: list[Check] = []
    wanted = checks()
    if model is not None:
        from typing import get_args

        from privcode.data.settings import Latent
        from privcode.doctor.model import model_checks
        from privcode.models import Dtype

        if dtype not in get_args(Dtype):
            raise UserError(f"--dtype {dtype}: choose of {', '.join(get_args(Dtype))}")
        latents = Latent() if latent else None
        wanted = model_checks(model, cast(Dtype, dtype), micro_batch, max_tokens, latents)
    for check in wanted:
        if not done or done[-1].group != check.group:
            say(f"\n{check.group}")
        done.append(check)
        say(line(check))
    facts = report(done)
    answer(facts, as_json, "ready" if facts["ok"] else "not ready")
    raise typer.Exit(0 if facts["ok"] else 1)


def _measure(config: Path, out: Path | None, as_json: bool) -> None:
    from privcode.config import load_config
    from privcode.console import progress_bar
    from privcode.outputs import check_output
    from privcode.pipeline.rates import rates_path

    loaded = load_config(config)
    where = check_output(out or rates_path(config))
    from privcode.doctor.measure import measure, pieces, shown  # slow
    from privcode.files import write_json

    say("rates are measured on made-up texts; nothing of yours is read, and nothing is spent")
    with progress_bar("measure", pieces(loaded)) as progress:
        found = measure(loaded, lambda _: progress(1))
    facts = found.file().model_dump()
    write_json(where, facts)
    lines = [*shown(found), *(f"not measured: {line}" for line in found.left_out)]
    named = "" if where == rates_path(config) else f" --rates {where}"
    lines += [f"rates           {where}", f"next            privcode plan {config}{named}"]
    answer(facts | {"not_measured": found.left_out}, as_json, "\n".join(lines))


def verify(
    folder: Annotated[Path, typer.Argument(help="A run's directory, or a release bundle.")],
    digest: Annotated[
        str | None, typer.Option(help="The bundle's, as its maker published it elsewhere.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Recompute ε and every hash of a run or a release bundle; fails on any byte changed."""
    from privcode.pipeline.directory import versions

    if (folder / "privacy.json").exists():
        from privcode.release.page import loud
        from privcode.release.verify import attested, verify_bundle

        facts = verify_bundle(folder)
        facts |= attested(folder, facts)
        words = loud(facts)
    else:
        from privcode.pipeline import results
        from privcode.pipeline.run import Run

        if not (folder / "config.yaml").exists():
            raise UserError(
                f"{folder}: is neither a release bundle (no privacy.json) nor a run; give one"
            )
        facts = results.verify(Run.open(folder, look=True))
        words = facts.get("warning")
    if digest and facts.get("digest") != digest.lower():
        raise UserError(
            f"{folder}: its digest is {facts.get('digest') or 'not there: it is no bundle'}, not "
            f"{digest}; this is not what its maker published: get the bundle again"
        )
    here = versions()
    other = {n: v for n, v in facts["versions"].items() if here.get(n) != v}
    facts |= {"verified_with": here}
    epsilon = "–" if facts["epsilon"] is None else epsilon_text(float(facts["epsilon"]))
    text = f"{folder}: unchanged; ε = {epsilon}, δ = {facts['delta']:g}, recomputed"
    if facts["noise"] == "reproducible":
        text += "; the noise was reproducible: this holds while nobody knows the seed"
    if words:
        text += f"\n{words}"
    for title, lines in (
        ("recomputed", facts.get("recomputed", [])),
        ("the maker's word, which nobody can recompute", facts.get("stated_by_the_maker", [])),
    ):
        text += "".join([f"\n{title}", *(f"\n  - {line}" for line in lines)]) if lines else ""
    if other:
        stated = ", ".join(f"{name} {made} (here {here.get(name)})" for name, made in other.items())
        text += f"\nmade with other versions than these: {stated}"
    if "digest" in facts and not digest:
        text += "\ndigest    " + facts["digest"]
        text += "\n          compare it with the one its maker published, or give --digest: who can"
        text += "\n          write the bundle can seal it again"
    answer(facts, as_json, text)
