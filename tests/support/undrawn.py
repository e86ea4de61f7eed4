"""In place of vl_convert, for tests that do not look at the pictures of a page: drawing takes seconds a page, this none.

fork_server.py gives it to the scripts that it runs, unless the variable PICTURES is "drawn".
"""

import json


def vegalite_to_svg(spec, vl_version):
    """An empty picture."""
    json.dumps(spec, allow_nan=False)
    return '<svg width="1" height="1"></svg>'


def vegalite_to_png(spec, vl_version, ppi, scale):
    """The first bytes of one."""
    json.dumps(spec, allow_nan=False)
    return b"\x89PNG"


def javascript_bundle(snippet, vl_version):
    """No runtime."""
    return "/* no runtime */"
