"""The private records and the public prompts: what the config says of them."""

from typing import Literal

from pydantic import Field

from privcode.fields import File, Positive, Section, Text


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


class Prompts(Section):
    """The problems that synthesis solves. They must be public: they are published with it."""

    source: Literal["public"] = Field(description="your decision: these prompts are public")
    file: File = Field(description="file of prompts, one per row or line")
    column: str | None = Field(None, description="column that holds the prompt")
    limit: Positive | None = Field(None, description="take only the first ones")
