"""Commands that a shell script prints instead of running them."""

from covariance_rules import RULES
from harness.training_flags import parse_training
from meta_step import STAGE2


def parsed(lines):
    """The flags of every training among the commands."""
    return [parse_training("", STAGE2, RULES, line.split()[1:]) for line in lines if "_train.py" in line]
