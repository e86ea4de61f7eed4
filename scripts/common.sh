# Read by the other scripts, with the project's folder in $code. PYTHON is the interpreter: what the caller says, else that of
# .venv, which `make demo` and `make test` fill, else python3.
if [ -z "${PYTHON:-}" ]; then
  PYTHON=python3
  [ ! -x "$code/.venv/bin/python" ] || PYTHON=$code/.venv/bin/python
fi
