"""Banned words are found in prose, docstrings, messages and comments, long sentences in documents; names are not."""

import ast
import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[2] / "scripts"))

import check_docstrings
import check_words

MODULE = '''"""What nobody knows."""

nobody = 1  # whatever comes
message = f"lies beside {nobody}"
'''


def _lines(name: str, text: str) -> list[int]:
    return [fault.line for fault in check_words.faults_of(name, text)]


def test_docstrings_comments_and_messages_are_searched_and_names_are_not() -> None:
    assert _lines("client/x.py", MODULE) == [1, 3, 4]


@pytest.mark.parametrize("word", sorted(check_words.BANNED))
def test_every_banned_word_is_found_also_over_the_end_of_a_line_and_in_capitals(word: str) -> None:
    assert len(_lines("docs/decisions/x.md", f"One.\n\n{word.capitalize()} is.")) == 1
    assert len(_lines("docs/decisions/x.md", "Two " + word.replace(" ", "\n"))) == 1


def test_code_in_a_document_is_not_prose() -> None:
    assert _lines("docs/x.md", "```console\n$ whatever beside\n```\n\nGood.\n") == []
    assert _lines("docs/x.md", "<!-- printed: whatever -->\nGood.\n") == []


@pytest.mark.parametrize("name", ["README.md", "docs/x.md"])
def test_a_sentence_of_26_words_is_too_long_in_prose_in_a_list_and_in_a_table(name: str) -> None:
    long, fits = " ".join(["Word"] * 26) + ".", " ".join(["Word"] * 25) + "."
    assert _lines(name, f"{fits}\n{fits} {fits}\n\n- {fits}\n- {fits}\n\n| {fits} | {fits} |\n") == []
    assert _lines(name, f"{fits}\n\n{long}\n\n- {long}\n\n| {fits} | {long} |\n") == [3, 5, 7]
    assert _lines("docs/decisions/x.md", long) == [], "decisions are held to the words alone"


def test_a_piece_of_code_is_one_word_and_a_list_of_tests_is_none() -> None:
    (sentence,) = check_words.sentences("It holds (`tests/a.py::test_b`, `tests/c.py::test_d`) for `a b c d`.")
    assert check_words.words(sentence) == 4


def test_arguments_that_a_docstring_does_not_name_are_found() -> None:
    source = 'def f(a, b, c):\n    """It.\n\n    Args:\n        a, b: Two.\n    """\n'
    (function,) = ast.parse(source).body
    assert isinstance(function, ast.FunctionDef)
    assert check_docstrings.lacks(function) == ["c"]


def test_two_arguments_and_a_protocols_own_need_no_list() -> None:
    for source in ('def f(self, a, b):\n    """It."""\n', 'def f(a, b, c):\n    """See `Generator`."""\n'):
        (function,) = ast.parse(source).body
        assert isinstance(function, ast.FunctionDef)
        assert check_docstrings.lacks(function) == []


def test_a_long_sentence_in_a_summary_is_found_and_one_below_it_is_not() -> None:
    long = " ".join(["word"] * 26)
    module = f'"""Short. {long}.\n\n{long}.\n"""\n\n\ndef f():\n    """{long}\n    and more."""\n'
    assert [line for line, _ in check_docstrings.long_summaries(ast.parse(module))] == [1, 7]
    assert list(check_docstrings.long_summaries(ast.parse(f'"""Short.\n\n{long}.\n"""'))) == []
