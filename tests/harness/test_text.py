"""Names of others on their way to a terminal."""

import io

from harness.text import printable, say


def test_lines_are_printed_letter_by_letter_with_tabs_only_between_fields():
    file = io.StringIO()
    say("a\tb\n", ["c\x1b[2J", "d\te", "\udcff"], "", file=file)
    assert file.getvalue() == "a\\tb\\n\nc\\x1b[2J\td\\te\t\\udcff\n\n"
    assert printable(printable("\r\u202e")) == r"\r\u202e"


def test_joiners_of_words_and_emoji_stay():
    assert printable("می\u200cخواهم 👩\u200d👧 \u200e") == "می\u200cخواهم 👩\u200d👧 \\u200e"
