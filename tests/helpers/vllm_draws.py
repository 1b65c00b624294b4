"""What vLLM draws, as JSON: run with the interpreter of vLLM's own environment.

python -m tests.helpers.vllm_draws MODEL ADAPTERS.json OUT.json
"""

import json
import os
import random
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch

from privcode.errors import UserError
from privcode.generation import Sampling, Weights
from privcode.generation.settings import Vllm
from privcode.generation.vllm import load

PROMPTS = [f"Question: Write a function that adds {n} to x.\n\nAnswer:\n" for n in range(6)]
OPEN = PROMPTS[0] + "@"
"""Many tokens may follow it."""
GREEDY = Sampling(temperature=0.0, max_new_tokens=24)
WARM = Sampling(temperature=1.0, max_new_tokens=24, n=3, seed=5)
DRAWS = {
    "plain": Sampling(1.0, max_new_tokens=1, n=2000, seed=1),
    "nucleus": Sampling(1.0, 0.5, max_new_tokens=1, n=2000, seed=2),
    "cold": Sampling(0.5, max_new_tokens=1, n=2000, seed=3),
}


def main(model: str, adapters: list[str], out: Path) -> None:
    """Draw from `model`, and from `model` with the adapters."""
    machine = os.sched_getaffinity(0), torch.get_num_threads(), torch.set_num_threads
    states = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    generator = load(Weights(model, model, "float32"), 64, Vllm())
    found: dict[str, Any] = {"greedy": generator.generate(PROMPTS, GREEDY)}
    found |= {name: generator.generate([OPEN], draws)[0] for name, draws in DRAWS.items()}
    first, second = (generator.generate(PROMPTS, WARM, chunk) for chunk in (0, 1))
    found |= {
        "first": first,
        "second": second,
        "second again": generator.generate(PROMPTS, WARM, 1),
    }
    twice = Sampling(0.0, max_new_tokens=4, n=3)
    found["three greedy"] = generator.generate(PROMPTS[:1], twice)
    found["none"] = generator.generate([], WARM)
    found["context"] = generator.context
    long = generator.tokenizer.decode(generator.tokenizer(PROMPTS[0] * 60)["input_ids"][:1020])
    found["long"] = generator.generate([long], GREEDY)
    # More tokens than the engine reads at once.
    crowd = [f"Question {n}. {PROMPTS[0] * 30}" for n in range(64)]
    found["crowd"] = generator.generate(crowd, Sampling(1.0, max_new_tokens=4, seed=1))
    for name, prompt in (("too long", "x " * 3000), ("empty", "")):
        try:
            generator.generate(["Question", prompt], GREEDY)
        except UserError as error:
            found[name] = str(error)
    now = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    found["random state kept"] = torch.equal(states[0], now[0]) and states[1:] == now[1:]
    found["machine kept"] = machine == (
        os.sched_getaffinity(0),
        torch.get_num_threads(),
        torch.set_num_threads,
    )
    stacked = Weights(model, model, "float32", tuple(map(Path, adapters)))
    found["adapters"] = load(stacked, 64, Vllm()).generate(PROMPTS, GREEDY)
    try:
        load(Weights("/nowhere", model, "float32"), 64, Vllm())
    except UserError as error:
        found["absent"] = str(error)
    out.write_text(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3]))
