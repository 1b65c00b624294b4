"""How the junior is sampled."""

from privcode.fields import Section, Seed, Share, Size, Temperature


class Synthesize(Section):
    """Sampling from the DP junior."""

    samples_per_prompt: Size = 1
    temperature: Temperature = 1.0
    top_p: Share = 1.0
    max_new_tokens: Size = 512
    batch_size: Size = 64
    seed: Seed = 0
