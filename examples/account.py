"""What does an ε cost? The accountant for your own numbers, without data or models.

    python examples/account.py

The command line has single figures: `privcode account --help`.
"""

from dataclasses import replace

from privcode.privacy import make_plan

# Change these four. UNITS is the declared, public number of records or owners.
UNITS = 20_000
BATCH = 256
STEPS = 100
DELTA = 1 / (10 * UNITS)


def main() -> None:
    """Print the noise that an ε needs, what a shared secret costs, and ε for other step counts."""
    print(f"{UNITS:,} units, {BATCH} expected per step, {STEPS} steps, δ = {DELTA:g}")

    print("\n     ε  noise multiplier  ε by RDP")
    for epsilon in (1, 4, 8):
        plan = make_plan(epsilon=epsilon, delta=DELTA, units=UNITS, batch=BATCH, steps=STEPS)
        print(f"{epsilon:6}  {plan.noise_multiplier:16.3f}  {plan.cost().epsilon_rdp:8.3f}")
    print(f"\nat ε = {epsilon}, a secret that ten units share has ε = {plan.group_epsilon(10):.1f}")

    print(f"\n steps  ε at noise multiplier {plan.noise_multiplier:.3f}")
    for steps in (STEPS // 2, STEPS, 2 * STEPS):
        other = replace(plan, steps=steps)
        print(f"{steps:6}  {other.cost().epsilon:.3f}")


if __name__ == "__main__":
    main()
