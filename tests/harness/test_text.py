"""Names of others on their way to a terminal."""

import io

from harness.text import printable, say


def test_lines_are_printed_letter_by_letter_with_tabs_only_between_fields():
    file = io.StringIO()
    say("a\tb\n", ["c\x1b[2J", "d\te", "\udcff"], "", file=file)
    assert file.getvalue() == "a\\tb\\n\nc\\x1b[2J\td\\te\t\\udcff\n\n"
    assert printable(printable("\r\u202e")) == r"\r\u202e"
