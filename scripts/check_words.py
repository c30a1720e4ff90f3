"""Hold the words of this project: banned words everywhere, and the length of sentences in the documents.

    .venv/bin/python scripts/check_words.py            every fault; exit code 1 if there is one
    .venv/bin/python scripts/check_words.py --counts   how many there are, by file

Readers include engineers whose English is a second language. docs/glossary.md defines the terms.
"""

import io
import re
import subprocess
import sys
import tokenize
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BANNED = {
    "whoever": "name the actor: the operator, a hospital, an attacker",
    "whatever": "name what varies, or drop the clause",
    "whichever": "the ... that",
    "nobody": "no patient, no person, no process",
    "beside": "next to, with, in addition to",
    "told apart": "distinguished",
    "tell apart": "distinguish",
    "telling apart": "distinguishing",
    "tells apart": "distinguishes",
    "none knows": "say who does not know what",
}
LONGEST_SENTENCE = 25
_TEXTS = ("*.md", "*.py", "*.html", "*.jinja", ":!tests/old/*/*")
"""What is read; but for what old code wrote, which is kept as it was."""
_PRODUCT = ("common/", "client/", "server/", "deploy/")
_BANNED = re.compile(r"\b(" + "|".join(word.replace(" ", r"\s+") for word in BANNED) + r")\b", re.IGNORECASE)
_FENCE = re.compile(r"^(```|~~~).*?^\1[^\n]*$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_CODE = re.compile(r"``[^\n]*?``|`[^`]*`")
_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_REFERENCES = re.compile(r"\((?:see )?(?:CODE(?:, | and | or |; )?)+\)")
_SENTENCE = re.compile(r"(?<=[.!?])[)\"*_]*\s+(?=[\"(*_]*[A-Z0-9]|CODE)")
_FIELD = re.compile(r"\{[^{}\n]*\}")
_WORD = re.compile(r"[^\W_]")


@dataclass(frozen=True, kw_only=True)
class Fault:
    """One fault of a text.

    Attributes:
        path: The file, from the root of the repository.
        line: Its line there, from 1.
        text: What is wrong.
    """

    path: str
    line: int
    text: str


def main(arguments: list[str]) -> int:
    """Print every fault, or with `--counts` how many each file has; 1 if there is one."""
    names = _files()
    faults = [fault for name in names for fault in faults_of(name, (ROOT / name).read_text(encoding="utf-8"))]
    if "--counts" in arguments:
        lines = [f"{count:5}  {path}" for path, count in Counter(fault.path for fault in faults).most_common()]
    else:
        lines = [f"{fault.path}:{fault.line}: {fault.text}" for fault in faults]
    sys.stdout.write("\n".join([*lines, f"{len(names)} files, {len(faults)} faults in words"]) + "\n")
    return 1 if faults else 0


def faults_of(name: str, source: str) -> Iterator[Fault]:
    """Find the faults of one file by its path from the root: a document, a template or a module."""
    if name.endswith(".py"):
        for line, text in _texts(source):
            yield from _banned(name, line, text)
        return
    prose = _prose(source)
    yield from _banned(name, 1, prose)
    if name == "README.md" or re.fullmatch(r"docs/[^/]+\.md", name):
        yield from _long_sentences(name, prose)


def sentences(paragraph: str) -> list[str]:
    """Split a paragraph of Markdown into sentences; a piece of code counts as one word, a list of tests as none."""
    plain = _LINK.sub(r"\1", _CODE.sub("CODE", paragraph))
    plain = _REFERENCES.sub("", plain)
    return [one for one in _SENTENCE.split(" ".join(plain.split())) if one]


def words(sentence: str) -> int:
    """Count the words of a sentence; a dash or an arrow is none."""
    return sum(bool(_WORD.search(word)) for word in sentence.split())


def _files() -> list[str]:
    listing = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *_TEXTS],
        cwd=ROOT, capture_output=True, encoding="utf-8", check=True,
    )  # fmt: skip
    names = [name for name in listing.stdout.splitlines() if (ROOT / name).is_file()]
    return [name for name in names if not name.endswith(".py") or name.startswith(_PRODUCT)]


def _banned(name: str, first: int, text: str) -> Iterator[Fault]:
    for match in _BANNED.finditer(text):
        word = " ".join(match[0].lower().split())
        line = first + text.count("\n", 0, match.start())
        yield Fault(path=name, line=line, text=f"{word!r} is banned: {BANNED[word]}")


def _long_sentences(name: str, prose: str) -> Iterator[Fault]:
    for line, paragraph in _paragraphs(prose):
        for sentence in sentences(paragraph):
            if (count := words(sentence)) > LONGEST_SENTENCE:
                yield Fault(path=name, line=line, text=f"{count} words, at most {LONGEST_SENTENCE}: {sentence[:70]}")


def _prose(source: str) -> str:
    """Blank the fenced code and the comments of a document, line for line."""
    for pattern in (_FENCE, _COMMENT):
        source = pattern.sub(lambda match: "\n" * match[0].count("\n"), source)
    return source


def _paragraphs(prose: str) -> Iterator[tuple[int, str]]:
    """Give each paragraph, list item, heading and table cell with its line."""
    start, held = 1, [""]
    for number, line in enumerate([*prose.splitlines(), ""], start=1):
        text = line.strip()
        if text.startswith("|"):
            yield from ((number, cell.strip()) for cell in _cells(text))
            text = ""
        if not text or re.match(r"([-*+]|\d+\.|#+|>)\s", text):
            yield start, " ".join(held)
            start, held = number if text else number + 1, []
        held.append(re.sub(r"^([-*+]|\d+\.|#+|>)\s+", "", text))


def _cells(row: str) -> list[str]:
    return _CODE.sub("`x`", row).strip("|").split("|")


def _texts(source: str) -> Iterator[tuple[int, str]]:
    """Give every comment and every string of a module with its line."""
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", tokenize.STRING)}
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type in kinds:
            formatted = re.match(r"[rR]?[fF]", token.string)
            yield token.start[0], _FIELD.sub("", token.string) if formatted else token.string


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
