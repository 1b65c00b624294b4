"""Everything that the guarantee rests on: plan, sampling, clipping, noise, accounting, ledger.

Promises:
- Each part is made from one frozen `PrivacyPlan`, so no part can disagree with the quoted figure.

Does not: know what models mean, how files are laid out, or which stages exist.
"""

from privcode.privacy.accounting import Spent, calibrate_noise_multiplier, spend
from privcode.privacy.plan import PrivacyPlan, make_plan

__all__ = ["PrivacyPlan", "Spent", "calibrate_noise_multiplier", "make_plan", "spend"]
