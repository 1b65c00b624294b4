"""How the junior is sampled."""

from pydantic import Field

from privcode.fields import Name, Section, Seed, Share, Size, Temperature


class Synthesize(Section):
    """Sampling from the DP junior."""

    samples_per_prompt: Size = 1
    temperature: Temperature = 1.0
    top_p: Share = 1.0
    max_new_tokens: Size = 512
    batch_size: Size = 64
    backend: Name = Field(
        "local",
        description="what samples: local (transformers in this process), or one that another "
        "package adds",
    )
    seed: Seed = 0
