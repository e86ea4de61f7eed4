"""Called by `pip install .`: there is nothing to install; says what to do instead."""

import sys

sys.exit("MetaSAug runs from its folder: `make demo`, or `pip install -r requirements.lock` and the commands of the README")
