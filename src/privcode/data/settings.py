"""The settings of the private records and of the prompts."""

from typing import Literal

from pydantic import Field, model_validator

from privcode.fields import (
    Amount,
    File,
    Finite,
    Positive,
    Rate,
    Section,
    Size,
    Temperature,
    Text,
)


def _not_both(input: str | None, suffix: str | None) -> None:
    if input is not None and suffix is not None:
        raise ValueError("input: a prompt with a suffix has no input; leave one of them out")


class ColumnNames(Section):
    """The columns of the private data. Without this section they are guessed from usual names."""

    prompt: str = Field(
        description="column with the problem, in words; a.b: the field b of a nested column a"
    )
    code: str = Field(
        description="column with the solution: bare code, or text with fenced code; the same "
        "column as prompt if it holds chat turns"
    )
    language: str | None = Field(None, description="column with the language of each row")
    unit: str | None = Field(
        None, description="column with the owner of each row, for privacy.unit: column"
    )
    input: str | None = Field(
        None, description="column with more prompt text, which is appended to the prompt"
    )
    suffix: str | None = Field(
        None,
        description="column with the text behind a gap to fill; the prompt is then the text before "
        "the gap, `<FILL_ME>`, and this text",
    )

    @model_validator(mode="after")
    def _one_kind_of_prompt(self) -> "ColumnNames":
        _not_both(self.input, self.suffix)
        return self


class Data(Section):
    """The private records."""

    source: File = Field(
        description="JSONL, JSON, CSV, TSV or Parquet file, a folder or pattern of such files, "
        "datasets folder or hub name"
    )
    columns: ColumnNames | None = Field(None, description="names of the columns; default: guessed")
    language: str | None = Field(None, description="language of all rows, if no column names it")
    languages: list[str] | None = Field(None, description="keep only the rows in these languages")
    contains: Text | None = Field(None, description="keep only the rows with this text")
    on_bad_row: Literal["refuse", "skip"] = Field(
        "refuse", description="refuse: stop at a bad row; skip: leave it out and count it"
    )
    public: bool = Field(
        False, description="true only for public benchmark data: allows methods without privacy"
    )


class Histogram(Section):
    """How many prompts of which language, kind of task and library are written."""

    noise_multiplier: Finite | None = Field(
        None,
        description="synthesised: as many as a noised histogram of the private records says, which "
        "is in ε; this is the standard deviation of the noise on each count of units, 10 for "
        "instance; default: no histogram",
    )
    least: Amount = Field(
        4.0, description="counts below so many standard deviations of the noise are taken as 0"
    )


class Latent(Section):
    """Latent conditioning: a vector z for each record, and what it adds to the loss."""

    size: Size = Field(8, le=1024, description="numbers of z")
    prefix: Size = Field(
        4, le=16, description="virtual tokens that z puts before the prompt to be written"
    )
    kl: Amount = Field(0.01, description="weight of the divergence of z from the prior, in nats")
    alignment: Amount = Field(
        0.1,
        description="weight of the contrast: the z of a record's code must be told to belong to "
        "its prompt, among draws of the prior; 0: none",
    )
    contrasted: Size = Field(
        16, le=10**4, description="number of draws of the prior for the contrast"
    )
    contrast_temperature: Rate = Field(
        0.2, description="temperature of the contrast: cosines are divided by it"
    )


class Prompts(Section):
    """The problems that synthesis solves: public ones, or such as a model writes."""

    source: Literal["public", "synthesised", "latent", "described"] = Field(
        description="public: your statement that the prompts of the file are public; synthesised: "
        "the junior learns prompt and code, and writes both; latent: the same, and what it writes "
        "follows a random vector whose meaning it learns, too; described: the junior learns the "
        "code alone, and the public describer writes the prompt of each program"
    )
    file: File | None = Field(None, description="public: file of prompts, one in each row or line")
    column: str | None = Field(
        None, description="column with the prompt; default: this and the next two are guessed"
    )
    input: str | None = Field(
        None, description="column with more prompt text, which is appended to the prompt"
    )
    suffix: str | None = Field(
        None, description="column with the text behind the gap to fill, as in data.columns"
    )
    limit: Positive | None = Field(
        None,
        description="number of prompts to take, from the first on, or to write; default: all of "
        "the file",
    )
    opening: Text = Field(
        "Write a programming problem.",
        description="synthesised, latent, described: the public text that the junior is given to "
        "begin with, put to it like a prompt",
    )
    temperature: Temperature = Field(
        1.0, description="synthesised, latent: temperature of the sampling of prompts"
    )
    max_new_tokens: Size = Field(
        256, description="synthesised, latent, described: maximum number of tokens of a prompt"
    )
    latent: Latent = Field(
        default_factory=Latent, description="source latent: the vector and its losses"
    )
    histogram: Histogram = Field(default_factory=Histogram)

    @model_validator(mode="after")
    def _fits_its_source(self) -> "Prompts":
        _not_both(self.input, self.suffix)
        if self.source == "public" and self.file is None:
            raise ValueError(
                "file: name the file of public prompts, or take source: synthesised, which needs "
                "none"
            )
        if self.source != "public" and self.limit is None:
            raise ValueError(f"limit: say how many prompts to write (source: {self.source})")
        if self.source != "public" and not self.opening.strip():
            raise ValueError("opening: is empty; give the junior a public text to begin with")
        if not self.by_junior and self.histogram.noise_multiplier is not None:
            raise ValueError(
                "histogram.noise_multiplier: is for prompts that the junior writes, and source is "
                f"{self.source}; leave it out, or take source: synthesised"
            )
        return self

    @property
    def lesson(self) -> tuple[str | float | None, ...] | None:
        """What training reads of this section. None for public prompts.

        Source, opening, the noise multiplier of the histogram, and the settings of a latent vector.
        """
        if self.source == "public":
            return None
        latent = (self.latent.model_dump_json(),) if self.source == "latent" else ()
        return (self.source, self.opening, self.histogram.noise_multiplier, *latent)

    @property
    def by_junior(self) -> bool:
        """Whether the junior writes the prompts, and so learns prompt and code."""
        return self.source in ("synthesised", "latent")

    @property
    def public_file(self) -> str | None:
        """The file that prompts are read from. None if they are written."""
        return self.file if self.source == "public" else None
