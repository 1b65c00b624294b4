"""The configuration of a run: all sections together, and what they must agree on.

Promises: every field is documented where it is declared, and `privcode init` prints these words.
Does not: read data or models. Everything that affects the guarantee is in `privacy`, but for the
noise of a histogram, which is in `prompts.histogram`.
"""

import os
from collections.abc import Iterator
from typing import Any

from pydantic import Field, model_validator

from privcode.audit.settings import Audit
from privcode.cluster.settings import Scale
from privcode.config.several import Compare, Method, Sweep
from privcode.data.rows import files_of
from privcode.data.settings import Data, Latent, Prompts
from privcode.fields import Section
from privcode.generation.settings import Synthesize
from privcode.models.settings import Model
from privcode.models.templates import CHAT, is_chat, is_fim
from privcode.privacy.plan import PrivacyPlan, make_plan
from privcode.privacy.settings import Privacy
from privcode.scoring.settings import Evaluate
from privcode.training.settings import Boost, Sanitize
from privcode.validation.settings import Validate


class Config(Section):
    """The settings of one run."""

    method: Method = Field(
        "privcode",
        description="privcode, or a method to compare with: base (nothing is tuned), control "
        "(privcode with an untuned junior), dpft (DP-SGD on the premium), jft (plain tuning on "
        "masked data, then DP-SGD), nondpft (plain tuning on the private data)",
    )
    data: Data
    privacy: Privacy
    prompts: Prompts
    junior: Model
    sanitize: Sanitize = Field(default_factory=Sanitize)
    synthesize: Synthesize = Field(default_factory=Synthesize)
    validate_: Validate = Field(default_factory=Validate, alias="validate")
    premium: Model
    boost: Boost = Field(default_factory=Boost)
    evaluate: Evaluate = Field(default_factory=Evaluate)
    audit: Audit = Field(default_factory=Audit)
    compare: Compare = Field(default_factory=lambda: Compare())
    sweep: Sweep = Field(default_factory=lambda: Sweep())
    scale: Scale = Field(default_factory=Scale)

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        columns = self.data.columns
        if self.privacy.unit == "column" and not (columns and columns.unit):
            raise ValueError("privacy.unit is column: name it in data.columns.unit")
        if self.privacy.unit == "record" and self.privacy.max_records_per_unit != 1:
            raise ValueError("privacy.max_records_per_unit: must be 1 when the unit is the record")
        for field, file in () if self.data.public else self._public_files():
            if why := not_public(file, self.data.source):
                raise ValueError(f"{field}: {why}")
        if self.junior.lora.dropout:
            raise ValueError(
                "junior.lora.dropout: is not 0, but DP training has no dropout: a mask is for "
                "a whole batch, so one record would change the gradients of others; leave it out"
            )
        self._divides_or_quantises()
        if 2 * self.audit.holdout > self.privacy.units:
            raise ValueError("audit.holdout: is more than half of privacy.units; hold out fewer")
        self._fills_gaps()
        if self.method in ("jft", "nondpft") and not self.data.public:
            raise ValueError(
                f"method {self.method} trains without privacy, so what it prints would be computed "
                "from private records; it needs data.public: true"
            )
        return self

    def _divides_or_quantises(self) -> None:
        """Refuse ways to save memory that do not work together."""
        trained = "premium" if self.sanitized is self.premium else "junior"
        if self.sanitize.shard and self.sanitized.quantization != "none":
            raise ValueError(
                "sanitize.shard: quantised weights cannot be divided over processes; write "
                f"{trained}.quantization: none, or sanitize.shard: false"
            )
        if self.boost.shard and self.premium.quantization != "none":
            raise ValueError(
                "boost.shard: quantised weights cannot be divided over processes; write "
                "premium.quantization: none, or boost.shard: false"
            )
        if self.method == "jft" and self.premium.quantization != "none":
            raise ValueError(
                "premium.quantization: jft merges its first adapter into the weights, which would "
                "be rounded again; write none"
            )
        if self.boost.method == "full" and self.premium.quantization != "none":
            raise ValueError(
                "premium.quantization: quantised weights are frozen, so boost.method must be lora; "
                "write none, or lora"
            )

    def _fills_gaps(self) -> None:
        """Refuse what makes no sense where models fill gaps in code."""
        fills = is_fim(self.junior.template)
        if fills != is_fim(self.premium.template):
            raise ValueError(
                "premium.template: junior and premium must both fill gaps (fim), or none; they "
                "get the same prompts"
            )
        if fills and self.prompts.source != "public":
            raise ValueError(
                f"prompts.source: is {self.prompts.source}, but template fim fills the gaps of "
                "public code; name a file of such prompts with source: public"
            )
        if self.prompts.source == "latent" and self.synthesize.backend != "local":
            raise ValueError(
                "synthesize.backend: prompts.source latent puts embeddings before a text, which "
                "only local does; write local, or prompts.source: synthesised"
            )
        if fills and self.validate_.round_trip.method != "off":
            raise ValueError(
                'validate.round_trip.method: must be "off" for template fim; no words describe a '
                "gap"
            )
        if fills and any(task.mode == "instruct" for task in self.evaluate.tasks):
            raise ValueError("evaluate.tasks: mode must be complete for template fim")

    def _public_files(self) -> Iterator[tuple[str, str]]:
        """The files that a run treats as public: field, name."""
        execution = self.validate_.execution
        yield "prompts.file", self.prompts.public_file or ""
        yield "validate.execution.prelude", execution.prelude or ""
        yield from (("validate.execution.files", file) for file in execution.files)
        for tasks in self.evaluate.tasks:
            yield "evaluate.tasks.file", tasks.file
            yield "evaluate.tasks.prelude", tasks.prelude or ""

    @property
    def latent(self) -> Latent | None:
        """The latent vector of the model that DP-SGD tunes. None if nothing is written for one."""
        written = self.method == "privcode" and self.prompts.source == "latent"
        return self.prompts.latent if written else None

    @property
    def sanitized(self) -> Model:
        """The model that DP-SGD tunes."""
        return self.premium if self.method in ("dpft", "jft") else self.junior

    def labelled(self, label: str) -> Model:
        """The section of the model that a run calls `label`; see `pipeline.models.weights_of`."""
        return self.junior if "junior" in label else self.premium

    @property
    def describer(self) -> Model | None:
        """The public model that describes code in words, and how it is asked.

        It is for the round trip, and for `prompts.source: described`; None if neither is asked for.
        The premium describes unless another model is named. Outside of a chat, a question stands
        alone.
        """
        trip, premium = self.validate_.round_trip, self.premium
        if trip.method == "off" and self.prompts.source != "described":
            return None
        chats = trip.describer is None and is_chat(premium.template)
        asked: dict[str, Any] = {"template": "{prompt}"}
        if trip.chat if trip.chat is not None else chats:
            own = {"template": premium.template, "system": premium.system}
            asked = own if chats else {"template": CHAT}
        return Model(model=trip.describer or premium.model, dtype=trip.dtype, **asked)


def not_public(file: str, source: str) -> str | None:
    """Why `file` cannot be public: it is the private `source`. None if nothing is known.

    Links, hard links too, and splits (FOLDER:SPLIT) of one name are the same data. So is a file
    that a pattern or a folder takes in.
    """
    if not any(_same_data(one, other) for one in _names(file) for other in _names(source)):
        return None
    return (
        "is the private data, but this file must be public, because a run may publish it; name "
        "another file"
    )


def _names(source: str) -> set[str]:
    return {source, source.partition(":")[0], *map(str, files_of(source))} - {""}


def _same_data(one: str, other: str) -> bool:
    try:
        return os.path.samefile(one, other)
    except (OSError, ValueError):  # one is not on this disk: a hub name, or not a path at all
        return os.path.realpath(one.replace("\0", "")) == os.path.realpath(other.replace("\0", ""))


def plan_of(config: Config) -> PrivacyPlan:
    """The privacy plan that `config` asks for.

    Raises:
        UserError: a number is out of range. Names the field.
    """
    columns, noise = config.data.columns, config.prompts.histogram.noise_multiplier
    if config.method != "privcode":  # the others write no prompts after DP training
        noise = None
    return plan_from(config.privacy, columns.unit if columns else None, noise)


def plan_from(
    p: Privacy, owner: str | None, histogram_noise_multiplier: float | None = None
) -> PrivacyPlan:
    """The plan of a privacy section. `owner` is the unit's column, if the unit is a column.

    Raises:
        UserError: a number is out of range. Names the field.
    """
    return make_plan(
        epsilon=p.epsilon,
        noise_multiplier=p.noise_multiplier,
        delta=p.delta,
        units=p.units,
        batch=p.batch,
        steps=p.steps,
        clip_norm=p.clip_norm,
        owner_column=owner if p.unit == "column" else None,
        max_records_per_unit=p.max_records_per_unit,
        reproducible_seed=p.seed if p.noise == "reproducible" else None,
        selection=p.selection,
        trials=p.trials,
        histogram_noise_multiplier=histogram_noise_multiplier,
    )
