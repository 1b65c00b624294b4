"""The settings of sampling from the junior."""

from pydantic import Field

from privcode.fields import Name, Section, Seed, Share, Size, Temperature


class Synthesize(Section):
    """Sampling solutions of the public prompts from the DP junior."""

    samples_per_prompt: Size = Field(1, description="number of solutions for each prompt")
    temperature: Temperature = Field(1.0, description="temperature of the sampling; 0: greedy")
    top_p: Share = Field(
        1.0, description="sample from the likeliest tokens with this total probability; 1: all"
    )
    max_new_tokens: Size = Field(512, description="maximum number of tokens of a solution")
    batch_size: Size = Field(64, description="number of solutions that are sampled together")
    backend: Name = Field(
        "local",
        description="backend that samples: local (transformers in this process), or the name of "
        "one that another package adds",
    )
    seed: Seed = Field(0, description="seed of the sampling")
