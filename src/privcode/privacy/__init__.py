"""Everything the guarantee rests on: plan, sampling, clipping, noise, accounting, ledger.

Promises: each of these is made from one frozen `PrivacyPlan`, so none can disagree with the
figure that is quoted. Does not: know about models' meaning, files' layout or stages.
"""

from privcode.privacy.accounting import Spent, calibrate_noise_multiplier, spend
from privcode.privacy.plan import PrivacyPlan, make_plan

__all__ = ["PrivacyPlan", "Spent", "calibrate_noise_multiplier", "make_plan", "spend"]
