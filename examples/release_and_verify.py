"""A whole run from Python: a config, all stages, a bundle, and what its recipient recomputes.

    python examples/release_and_verify.py [FOLDER]    (default: runs/example)

It takes the bundled models and made-up records, and so few steps that it is done within a minute.
Run it again after a stop: it continues.
"""

import sys
from pathlib import Path

import privcode
from privcode.exercises.corpus import prelude, private_records, public_prompts
from privcode.files import write_jsonl, write_text
from privcode.release.verify import verify_bundle

# data.public is true because these records are made up. Leave it out with your own data.
CONFIG = """\
data: {source: private.jsonl, language: python, public: true}
privacy: {epsilon: 8, delta: 5.0e-5, units: 2000, batch: 32, steps: 8, clip_norm: 0.05}
prompts: {source: public, file: prompts.jsonl}
junior: {model: "bundled:junior", lora: {r: 2, alpha: 4}, max_tokens: 512}
sanitize: {learning_rate: 0.003, syntax: {schedule: "off"}}
synthesize: {temperature: 0.3, max_new_tokens: 130}
validate:
  execution: {prelude: house.py}
  round_trip: {threshold: 0.2}
premium: {model: "bundled:premium", lora: {r: 4, alpha: 8}, max_tokens: 512}
boost: {epochs: 1}
audit: {repetitions: [1, 10], samples: 2, candidates: 30, max_new_tokens: 40,
        gradient_canaries: 300}
"""


def main(folder: Path) -> None:
    """Write the data and the config, run all stages, release, and verify the bundle."""
    write_jsonl(folder / "private.jsonl", private_records(2000, seed=0))
    write_jsonl(folder / "prompts.jsonl", public_prompts(60, seed=0))
    write_text(folder / "house.py", prelude())
    write_text(folder / "privcode.yaml", CONFIG)

    config = privcode.load_config(folder / "privcode.yaml")
    cost = privcode.plan(config).cost()
    print(f"planned   ε = {cost.epsilon:.3f} (by RDP {cost.epsilon_rdp:.3f}); nothing is spent yet")

    run = privcode.Run(config, folder / "run")
    run.all()
    run.report()
    released = run.release(license="apache-2.0")
    run.close()
    print(f"released  {released['rows']} pairs, digest {released['digest']}")

    # What a recipient does: everything that is stated is computed again from the bundle alone.
    verified = verify_bundle(run.bundle)
    print(f"verified  ε = {verified['epsilon']:.3f} at δ = {verified['delta']:g}")
    print(f"bundle    {run.bundle}")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/example"))
