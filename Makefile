# make demo    compares plain cross-entropy, re-weighting, ISDA and MetaSAug on long-tailed digits over three seeds
# make test    runs the tests
# make slow    runs the tests that make test leaves out, some minutes each
# make lint    ruff and mypy
# make bench   measures time and memory against the published structure, some minutes
# make lock    resolves requirements.lock anew (needs uv)
# All but the last make .venv from requirements.lock first, when that is new.
PYTHON ?= python3
PY := .venv/bin/python
STAMP := .venv/installed

.PHONY: demo test slow lint bench lock clean

demo: $(STAMP)
	$(PY) scripts/sweep.py demo

test: $(STAMP)
	$(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

slow: $(STAMP)
	$(PY) -m pytest -q -n 2 -m slow

lint: $(STAMP)
	$(PY) -m ruff check .
	$(PY) -m mypy

bench: $(STAMP)
	$(PY) benchmarks/compare.py

# A failed installation leaves no stamp, so the next call goes on with it.
$(STAMP): requirements.lock
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "make: $(PYTHON) is older than Python 3.10; name a newer one: make PYTHON=python3.11 $(MAKECMDGOALS)" >&2; exit 2; }
	@echo "installing the pinned packages into .venv: about 6 GB with CUDA's libraries on Linux, a few minutes"
	$(PYTHON) -m venv .venv
	$(PY) -m pip install --disable-pip-version-check -r requirements.lock
	@touch $(STAMP)

lock:
	printf '%s\n' \
	  "torch==2.14.1 ; platform_machine != 'aarch64'" "torch==2.9.1 ; platform_machine == 'aarch64'" \
	  "torchvision==0.29.1 ; platform_machine != 'aarch64'" "torchvision==0.24.1 ; platform_machine == 'aarch64'" \
	  | uv pip compile --universal --python-version 3.10 --no-emit-index-url --no-annotate --no-header \
	      --extra dev --extra export --constraints - pyproject.toml -o requirements.lock

clean:
	rm -rf .venv demo_runs
