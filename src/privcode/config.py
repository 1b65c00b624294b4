"""The configuration of a run: YAML in, checked values out.

Promises: unknown keys and wrong values are refused in one line that names the field; every
field is documented where it is defined, and `privcode init` prints these words.
Does not: read data or models. Everything that bears on the guarantee is in `privacy`.
"""

import math
import os
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from privcode.errors import UserError
from privcode.privacy.plan import PrivacyPlan, Selection, make_plan
from privcode.yaml_file import read_yaml


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("is true or false, and must be a number")
    return value


def _temperature(value: float) -> float:
    if 0 < value < 1e-3:
        raise ValueError("must be 0 (the likeliest token), or at least 0.001")
    return value


def _file(name: str) -> str:
    if not name or "\0" in name or len(name) > 4000:
        raise ValueError("is not the name of a file")
    return name


def _text(text: str) -> str:
    if text != text.encode(errors="replace").decode():
        raise ValueError("has half a surrogate pair; remove it")
    return text


def _name(name: str) -> str:
    if not re.fullmatch(r"\w[^/\0]{0,99}", name):
        raise ValueError("must begin with a letter or digit, and hold no /; it names a file")
    return name


_Number = BeforeValidator(_number)  # or `true` would be 1
Positive = Annotated[int, _Number, Field(ge=1, le=10**12)]
Count = Annotated[int, _Number, Field(ge=0, le=10**12)]
Size = Annotated[int, _Number, Field(ge=1, le=10**6)]
"""Of what is held in memory: records, tokens or samples."""
Seed = Annotated[int, _Number, Field(ge=0, lt=2**63)]
Finite = Annotated[float, _Number, Field(allow_inf_nan=False)]
Amount = Annotated[Finite, Field(ge=0, le=1e9)]
Rate = Annotated[Finite, Field(gt=0, le=1000)]
Temperature = Annotated[Finite, Field(ge=0, le=1000), AfterValidator(_temperature)]
Seconds = Annotated[Finite, Field(ge=0.01, le=1e6)]
Fraction = Annotated[Finite, Field(ge=0, le=1)]
Share = Annotated[Finite, Field(gt=0, le=1)]
Epsilon = Annotated[float, _Number]
Memory = Annotated[int, _Number, Field(ge=1, le=10**8)]
Repetitions = Annotated[int, _Number, Field(ge=1, le=10**5)]
Planted = Annotated[int, _Number, Field(ge=0, le=10**5)]
Text = Annotated[str, AfterValidator(_text)]
Name = Annotated[str, AfterValidator(_name)]
File = Annotated[str, AfterValidator(_file)]
_MOST_FILES = 16  # that extend one another
Dtype = Literal["float32", "bfloat16", "float16"]
Method = Literal["privcode", "base", "control", "dpft", "jft", "nondpft"]
Ablation = Literal[
    "no-privsa", "constant-lambda", "no-execution", "no-round-trip", "no-surest", "no-filters"
]
Compared = Method | Ablation

INSTRUCT = (
    "Please provide a self-contained Python script that solves the following problem in a "
    "markdown code block:\n{problem}\n"
)
RESPONSE = (
    "Below is a Python script with a self-contained function that solves the problem and passes "
    "corresponding tests:\n```python\n"
)


class Section(BaseModel):
    """Base of all sections: immutable, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ColumnNames(Section):
    """Which column of the private data holds what. Left out: guessed from usual names."""

    prompt: str = Field(description="the problem, in words")
    code: str = Field(description="the solution: bare code, or text with fenced code")
    language: str | None = Field(None, description="language of each row")
    unit: str | None = Field(None, description="owner of each row, when the unit is not the record")
    input: str | None = Field(None, description="extra prompt text, appended when not empty")


class Data(Section):
    """The private records."""

    source: File = Field(
        description="JSONL, JSON, CSV or Parquet file, datasets folder or hub name"
    )
    columns: ColumnNames | None = Field(None, description="column names; guessed when left out")
    language: str | None = Field(None, description="language of all rows, if no column says")
    languages: list[str] | None = Field(None, description="keep only rows in these languages")
    contains: Text | None = Field(None, description="keep only rows whose text contains this")
    on_bad_row: Literal["refuse", "skip"] = Field("refuse", description="stop, or skip and count")
    public: bool = Field(
        False, description="true only for benchmark data: allows methods and controls without DP"
    )


class Privacy(Section):
    """Everything that decides the guarantee."""

    epsilon: Epsilon | None = Field(4.0, description="target ε; .inf trains without privacy")
    noise_multiplier: Finite | None = Field(
        None, description="instead of epsilon: the noise itself"
    )
    delta: Finite = Field(description="δ; 1/(10·units) is usual, more than 1/units is refused")
    units: Positive = Field(description="declared, public number of units: not the true count")
    unit: Literal["record", "column"] = Field(
        "record", description="what is protected: one record, or all records of one owner (column)"
    )
    max_records_per_unit: Positive = Field(1, description="records of one unit that may take part")
    batch: Positive = Field(256, description="expected units per step")
    steps: Positive = Field(100, description="noised updates")
    clip_norm: Finite = Field(1.0, description="bound on one unit's gradient")
    noise: Literal["cryptographic", "reproducible"] = Field(
        "cryptographic", description="reproducible noise makes runs repeatable, not releasable"
    )
    seed: Seed = Field(0, description="of reproducible noise; unused otherwise")
    selection: Selection = Field(
        "composition",
        description="runs over the same data, and choosing settings by them: composition composes "
        "all of them into ε; trials charges the best of a privcode sweep; not-charged leaves them "
        "out of ε, and says so on everything",
    )
    trials: Finite | None = Field(
        None, ge=1, le=10**4, description="selection trials: mean of the random number of trials"
    )

    @model_validator(mode="after")
    def _one_target(self) -> "Privacy":
        if self.noise_multiplier is not None and self.epsilon is not None:
            raise ValueError("give epsilon: null with noise_multiplier")
        if (self.selection == "trials") != (self.trials is not None):
            raise ValueError("trials belongs to selection: trials; give both or none")
        return self


class Prompts(Section):
    """The problems that synthesis solves. They must be public: they are published with it."""

    source: Literal["public"] = Field(description="your decision: these prompts are public")
    file: File = Field(description="file of prompts, one per row or line")
    column: str | None = Field(None, description="column that holds the prompt")
    limit: Positive | None = Field(None, description="take only the first ones")


class Lora(Section):
    """A low-rank adapter."""

    r: Positive = Field(16, le=65536, description="rank")
    alpha: Size = Field(32, description="scale: the update is multiplied by alpha / r")
    dropout: Fraction = Field(0.0, description="of plain training; DP training goes without")
    targets: list[str] | None = Field(None, description="layers; default: attention and MLP")


class Model(Section):
    """A Hugging Face causal language model."""

    model: File = Field(description="hub id, local path, or bundled:junior / bundled:premium")
    dtype: Dtype = Field("float32", description="of the base model's weights")
    lora: Lora = Field(default_factory=lambda: Lora())
    max_tokens: Size = Field(1024, description="context; longer records are truncated")
    template: Text = Field("Question: {prompt}\n\nAnswer:\n", description="how a prompt is put")
    gradient_checkpointing: bool = Field(False, description="less memory, more time")


class Syntax(Section):
    """PrivSA, the syntax-aware term: λ(t) × KL to the untuned junior on structural tokens."""

    schedule: Literal["decay", "constant", "off"] = Field("decay", description="of λ")
    lambda_max: Amount = Field(1000.0, description="at the start")
    lambda_min: Amount = Field(0.1, description="in the end")
    decay: Amount = Field(0.01, description="α: λ falls as exp(-α·step)")


class Sanitize(Section):
    """DP-SGD on the junior: optimisation only, nothing here bears on the guarantee."""

    learning_rate: Rate = 1e-4
    schedule: Literal["cosine", "constant"] = "cosine"
    warmup_steps: Count = 5
    weight_decay: Amount = 0.05
    micro_batch: Size = Field(8, description="records at a time; memory only, same result")
    checkpoint_every: Positive = Field(10, description="steps between checkpoints")
    syntax: Syntax = Field(default_factory=lambda: Syntax())
    merge: bool = Field(False, description="also write the whole model, adapter merged in")
    seed: Seed = Field(0, description="of the adapter's start")


class Synthesize(Section):
    """Sampling from the DP junior."""

    samples_per_prompt: Size = 1
    temperature: Temperature = 1.0
    top_p: Share = 1.0
    max_new_tokens: Size = 512
    batch_size: Size = 64
    seed: Seed = 0


class Execution(Section):
    """Keep samples whose code runs with exit code 0, in the sandbox."""

    enabled: bool = True
    sandbox: str = Field("auto", description="auto, or the name of one that doctor lists")
    prelude: File | None = Field(
        None, description="file of code put before each sample in the language of the data"
    )
    files: list[File] = Field(
        default_factory=list,
        description="files that lie beside every program: modules to import, headers, jars, data",
    )
    cpu_seconds: Seconds = 5.0
    memory_mb: Memory = 1024
    preload: list[str] = Field(
        default_factory=list, description="modules that every program finds imported already"
    )


class RoundTrip(Section):
    """Keep samples whose code, put back into words, resembles the prompt."""

    method: Literal["bertscore", "embeddings", "likelihood", "off"] = "likelihood"
    describer: File | None = Field(None, description="model that describes; default: the premium")
    dtype: Dtype = Field("float32", description="of the describer's weights")
    template: Text = Field("Answer:\n{code}\n\nQuestion:\n", description="asks for the problem")
    similarity_model: File | None = Field(None, description="for bertscore and embeddings")
    similarity_layers: Size | None = Field(None, description="bertscore: layer to read")
    samples: Size = 20
    temperature: Temperature = 0.8
    max_new_tokens: Size = 200
    threshold: Finite = Field(0.0, description="τ; likelihood: nats per token gained")
    batch_size: Size = 16
    seed: Seed = 0


class Validate(Section):
    """The filters."""

    execution: Execution = Field(default_factory=lambda: Execution())
    round_trip: RoundTrip = Field(default_factory=lambda: RoundTrip())
    surest: Share = Field(
        1.0,
        description="share to keep of what passes both: the samples that the junior finds "
        "likeliest, by the mean log-probability of their tokens (not in the paper; 1: all)",
    )


class Boost(Section):
    """Plain fine-tuning of the premium model on the accepted pairs."""

    method: Literal["lora", "full"] = "lora"
    epochs: Size = 2
    learning_rate: Rate = 1e-4
    batch_size: Size = 32
    micro_batch: Size = 8
    warmup_ratio: Fraction = 0.05
    weight_decay: Amount = 0.0
    merge: bool = Field(False, description="lora: also write the whole model, adapter merged in")
    limit: Positive | None = Field(None, description="nondpft, jft: private records to tune on")
    seed: Seed = 0


TaskFormat = Literal["humaneval", "humaneval+", "mbpp", "mbpp+", "bigcodebench", "multipl"]


class TaskFile(Section):
    """One benchmark, in the file format of its owners."""

    name: Name = Field(description="what its figures go by; also in names of files")
    file: File = Field(description="a file, or OWNER/NAME:SPLIT on the hub")
    format: TaskFormat | None = Field(None, description="default: by the fields of the file")
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


class Audit(Section):
    """Planted canaries (empty repetitions: none), and records held out for membership inference."""

    repetitions: list[Repetitions] = Field(default_factory=list, description="e.g. [1, 10, 100]")
    candidates: Count = Field(
        1000,
        le=10**7,
        description="other secrets that each canary's exposure is ranked among; 0: none",
    )
    holdout: Count = Field(
        0,
        description="about so many units are not trained on, to see whether others can be told "
        "from them; what comes of it stays in private/",
    )
    samples: Size = Field(
        20, description="samples for each canary's own prompt, beside its likeliest answer"
    )
    max_new_tokens: Size = 128
    seed: Seed = 0
    gradient_canaries: Planted = Field(
        0,
        description="units of known gradient, half of which take part: a lower bound on ε from "
        "what training gives away; each takes a coordinate of the adapter",
    )
    coin_canaries: Planted = Field(
        0,
        description="made-up records, half of which take part: lower bounds on ε from the models",
    )


class Compare(Section):
    """Which arms `privcode compare` runs; every arm is this config with one thing changed."""

    methods: list[Compared] = Field(
        ["base", "control", "privcode", "dpft"],
        min_length=1,
        description="methods, and privcode without one part: no-privsa, constant-lambda, "
        "no-execution, no-round-trip, no-surest, no-filters (none of the three)",
    )
    epsilons: dict[Compared, list[Epsilon]] = Field(
        default_factory=dict,
        description="e.g. {privcode: [1, 4]}; methods that are not named: privacy.epsilon",
    )
    seeds: list[Seed] = Field([0], min_length=1, description="of everything but the noise")
    settings: dict[Compared, dict[str, Any]] = Field(
        default_factory=dict,
        description="what a method has of its own: {dpft: {sanitize.learning_rate: 1.0e-4}}",
    )
    grid: dict[str, list[Any]] = Field(
        default_factory=dict,
        description="fields to vary under all methods: {validate.round_trip.threshold: [0, 1]}",
    )
    published: list[dict[str, Any]] = Field(
        default_factory=list,
        description="to show beside: {method, epsilon, fields of grid, TASK: pass@1 from 0 to 1}",
    )
    parallel: Size = Field(1, description="arms at a time, each on its share of the cores")


class Score(Section):
    """What makes one setting better than another: pass@1 on a public task file."""

    task: str | None = Field(None, description="one of evaluate.tasks; default: the first")
    model: Literal["junior", "tuned"] = Field("tuned", description="one of evaluate.models")


class Sweep(Section):
    """Settings that `privcode sweep` tries: nothing that bears on the guarantee or the score."""

    settings: dict[str, list[Any]] = Field(
        default_factory=dict, description="e.g. {sanitize.learning_rate: [1.0e-4, 1.0e-3]}"
    )
    score: Score = Field(default_factory=lambda: Score())
    parallel: Size = Field(1, description="runs at a time, each on its share of the cores")


class Config(Section):
    """One run."""

    method: Method = Field(
        "privcode",
        description="privcode; or, to compare: base (nothing tuned), control (privcode on the "
        "untuned junior), dpft (DP-SGD on the premium), jft (plain on masked data, then DP-SGD), "
        "nondpft (plain, on the private data)",
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

    @model_validator(mode="after")
    def _fits_together(self) -> "Config":
        columns = self.data.columns
        if self.privacy.unit == "column" and not (columns and columns.unit):
            raise ValueError("privacy.unit is column: name it in data.columns.unit")
        if self.privacy.unit == "record" and self.privacy.max_records_per_unit != 1:
            raise ValueError("privacy.max_records_per_unit: must be 1 when the unit is the record")
        if not self.data.public and (why := not_public(self.prompts.file, self.data.source)):
            raise ValueError(f"prompts.file: {why}")
        if self.junior.lora.dropout:
            raise ValueError(
                "junior.lora.dropout: is not 0, but DP training goes without: a mask is drawn for "
                "a whole batch, so one record would change what the others give; leave it out"
            )
        if 2 * self.audit.holdout > self.privacy.units:
            raise ValueError("audit.holdout: is more than half of privacy.units; hold out fewer")
        if self.method in ("jft", "nondpft") and not self.data.public:
            raise ValueError(
                f"method {self.method} trains without privacy, so what it prints would be computed "
                "from private records; it needs data.public: true"
            )
        return self

    @property
    def sanitized(self) -> Model:
        """The model that DP-SGD tunes."""
        return self.premium if self.method in ("dpft", "jft") else self.junior

    def labelled(self, label: str) -> Model:
        """The section of the model that a run calls `label`; see `run_models.generator_of`."""
        return self.junior if "junior" in label else self.premium

    @property
    def describer(self) -> str | None:
        """The model that puts code back into words for the round trip; None where there is none."""
        trip = self.validate_.round_trip
        return None if trip.method == "off" else trip.describer or self.premium.model


def not_public(prompts: str, source: str) -> str | None:
    """Why `prompts` cannot be the prompts to these private data; None where nothing is known."""
    if os.path.realpath(prompts) != os.path.realpath(source):
        return None
    return (
        "is the private data, and prompts are published with the synthetic ones; name a file of "
        "public prompts"
    )


def plan_of(config: Config) -> PrivacyPlan:
    """The privacy plan that `config` asks for.

    Raises:
        UserError: a number is out of range, by field.
    """
    columns = config.data.columns
    return plan_from(config.privacy, columns.unit if columns else None)


def plan_from(p: Privacy, owner: str | None) -> PrivacyPlan:
    """The plan of a privacy section; `owner` is the unit's column, where the unit is one.

    Raises:
        UserError: a number is out of range, by field.
    """
    return make_plan(
        epsilon=p.epsilon,
        noise_multiplier=p.noise_multiplier,
        delta=p.delta,
        units=p.units,
        batch=p.batch,
        steps=p.steps,
        clip_norm=p.clip_norm,
        unit="record" if p.unit == "record" else str(owner),
        max_records_per_unit=p.max_records_per_unit,
        reproducible_seed=p.seed if p.noise == "reproducible" else None,
        selection=p.selection,
        trials=p.trials,
    )


def parse_config(values: Any, name: str = "config") -> Config:
    """Check plain values.

    Raises:
        UserError: one line that names the first wrong field and what it should be.
    """
    try:
        return Config.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(_tellable, first["loc"])) or "the whole"
        more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
        reason = {
            "extra_forbidden": "is not a setting; check the spelling against privcode init",
            "missing": "is missing; add it",
        }.get(first["type"], first["msg"].removeprefix("Value error, "))
        raise UserError(f"{name}, field {field}: {reason}{more}") from None


def _tellable(part: str | int) -> str:
    """A part of a field's name, if it can be one: what is given as settings may be a record."""
    return str(part) if re.fullmatch(r"[\w.-]{1,60}", str(part)) else "(a long name)"


def with_settings(config: Config, settings: Mapping[str, Any], where: str) -> Config:
    """`config` with these settings, dotted field -> value.

    Raises:
        UserError: there is no such field, or the value is wrong; begins with `where`.
    """
    values = config.model_dump(by_alias=True)
    for field, value in settings.items():
        *sections, name = field.split(".")
        section: Any = values
        for step in sections:
            section = section.get(step) if isinstance(section, dict) else None
        if not isinstance(section, dict) or name not in section:
            raise UserError(f"{where}, {field}: is not a setting; check the spelling")
        section[name] = value
    return parse_config(values, where)


def load_config(path: Path | str) -> Config:
    """Read a YAML file, over the one that its line `extends: FILE` names, if it has one.

    Mappings are merged, whatever else it sets replaces what was there. Relative file names, those
    in the file that is extended too, are taken from its own directory; FILE itself from that of
    the file that names it.

    Raises:
        UserError: a file is missing, is not YAML or extends itself, or a field is wrong.
    """
    path = Path(path)
    values, files = _read(path, ())
    name = " over ".join(map(str, files))
    config = parse_config(values, name)
    rooted = config.model_copy(update=_rooted(config, Path(os.path.realpath(path.parent))))
    return parse_config(rooted.model_dump(by_alias=True), name)  # one file may have had two names


def _read(path: Path, above: tuple[Path, ...]) -> tuple[Any, tuple[Path, ...]]:
    """Plain values, and the files they come from; `above` extend this one."""
    values = read_yaml(path)
    files = (*above, path)
    if not isinstance(values, dict) or "extends" not in values:
        return values, files
    name = values.pop("extends")
    if not isinstance(name, str) or "\0" in name:
        raise UserError(f"{path}, field extends: must be the name of one file")
    base = path.parent / name
    if os.path.realpath(base) in map(os.path.realpath, files):
        raise UserError(f"{path}, field extends: {name} extends this file in turn; name another")
    if len(files) > _MOST_FILES:
        raise UserError(f"{path}, field extends: over {_MOST_FILES} files extend others; use fewer")
    under, files = _read(base, files)
    if not isinstance(under, dict):
        raise UserError(f"{base}: holds no settings, so nothing can extend it")
    return _over(under, values), files


def _over(under: dict[Any, Any], values: dict[Any, Any]) -> dict[Any, Any]:
    """`values` laid over `under`, mapping by mapping."""
    merged = dict(under)
    for key, value in values.items():
        both = isinstance(value, dict) and isinstance(under.get(key), dict)
        merged[key] = _over(under[key], value) if both else value
    return merged


def _rooted(config: Config, root: Path) -> dict[str, Any]:
    """The sections whose file names were relative and exist beside the config file."""

    def at(name: str | None) -> str | None:
        return str(root / name) if name and os.path.exists(root / name) else name

    execution, trip = config.validate_.execution, config.validate_.round_trip
    return {
        "data": config.data.model_copy(update={"source": at(config.data.source)}),
        "prompts": config.prompts.model_copy(update={"file": at(config.prompts.file)}),
        "junior": config.junior.model_copy(update={"model": at(config.junior.model)}),
        "premium": config.premium.model_copy(update={"model": at(config.premium.model)}),
        "validate_": config.validate_.model_copy(
            update={
                "execution": execution.model_copy(
                    update={
                        "prelude": at(execution.prelude),
                        "files": [at(name) for name in execution.files],
                    }
                ),
                "round_trip": trip.model_copy(
                    update={
                        "describer": at(trip.describer),
                        "similarity_model": at(trip.similarity_model),
                    }
                ),
            }
        ),
        "evaluate": config.evaluate.model_copy(
            update={
                "tasks": [
                    t.model_copy(update={"file": at(t.file), "prelude": at(t.prelude)})
                    for t in config.evaluate.tasks
                ]
            }
        ),
    }


def dump_config(config: Config) -> str:
    """The resolved configuration as YAML; `load_config` reads it back to the same values."""
    values = config.model_dump(mode="python", by_alias=True)
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True)


def json_number(value: float) -> float | str:
    """JSON has no infinity: "inf" stands for it."""
    return value if math.isfinite(value) else str(value)
