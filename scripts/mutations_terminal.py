"""The guards of what a person sees and types: how to take each out, and the tests that must notice."""

from mutation import guard

_PLAIN = ("tests/deploy/test_plain_output.py",)
_FAULTS = ("tests/common/test_plan_faults.py",)
_TEXTS = ("tests/common/test_texts.py",)
_PROCESSORS = ("tests/common/test_processors.py",)
_BUNDLE = ("tests/deploy/test_bundle.py",)
_T = "common/display/terminal.py"


TERMINAL = [
    guard("terminal: a terminal obeys data", "common/display/plain.py", "if character.isprintable() or", "if True or",
          _PLAIN, at="_shown"),
    guard("terminal: a cell is read as markup", _T,
          'Text(plain(cell), style=first if j == 0 else "")', "cell", _PLAIN, at="Sheet.drawn"),
    guard("terminal: text goes out as it is", _T, "_encodable(plain_lines(text), err=err)",
          "_encodable(text, err=err)",
          _PLAIN, at="say"),
    guard("terminal: an error is of several lines", _T, 'say(plain(f"wardround:', 'say(str(f"wardround:', _PLAIN,
          at="_fail"),
    guard("terminal: the command line's own errors quote as it is", _T, "if (shown := plain_lines(text)) == text:",
          "if (shown := plain_lines(text)) or True:", _PLAIN, at="_told_plainly"),
    guard("terminal: a traceback is obeyed", _T, "    sys.excepthook = _unexpected\n", "", _PLAIN, at="listen"),
    guard("terminal: a library's warning reaches a person", _T, "    logging.captureWarnings(capture=True)\n", "",
          _PLAIN, at="listen"),
    guard("terminal: a message draws lines of its own", "server/coordinator/status.py", "{plain(_words(one))}",
          "{_words(one)}", _PLAIN, at="text"),
    guard("pages: data is HTML", "common/display/pages.py", "autoescape=True", "autoescape=False", _PLAIN,
          at="environment"),
    guard("pages: data turns the direction of writing", "common/display/pages.py", "finalize=plain_value",
          "finalize=None",
          _PLAIN, at="environment"),
    guard("plan: the first fault hides the others", "common/plan/reader.py", "            self.faults += faults\n",
          "            self.faults += faults[:1]\n", _FAULTS, at="_Reader.table"),
    guard("plan: a key that is not known has no nearest", "common/plan/reader.py", "if near else",
          "if False else", _FAULTS, at="_Reader._unknown"),
    guard("labels: a label may be a path", "common/plan/label_rule.py", "[\\w .-]{0,30}", "[\\w ./-]{0,30}", _FAULTS,
          at="_LABEL"),
    guard("labels: an import writes what no plan can name", "deploy/data/importers.py",
          "if item.label and not is_label(item.label)", "if False", ("tests/deploy/test_importers_refusals.py",),
          at="_labelled"),
    guard("texts: a byte-order mark is text", "common/display/texts.py", "content.removeprefix(codecs.BOM_UTF8)",
          "content", _TEXTS, at="decoded"),
    guard("texts: another encoding is not named", "common/display/texts.py", "if content.startswith(mark):",
          "if False:", _TEXTS, at="decoded"),
    guard("texts: a lower limit loses the byte-order mark", "client/site/rules_file.py", "mark + draft.encode()",
          "draft.encode()", _TEXTS, at="lower"),
    guard("processors: a quota above ours is not seen", "common/host/processors.py", "range(len(parts), -1, -1)",
          "range(len(parts), len(parts) - 1, -1)", _PROCESSORS, at="_upwards"),
    guard("bundle: a changed file is carried to a hospital", "deploy/install/offline_bundle.py",
          'if file.hash is None or (file.hash.mode, file.hash.value) != ("sha256", digest):', "if False:", _BUNDLE,
          at="repack"),
    guard("bundle: no text is looked for where it is installed", "deploy/install/offline_bundle.py",
          'OURS = "wardround[ocr]"', 'OURS = "wardround"', _BUNDLE, at="OURS"),
    guard("ingest: nobody is told that no text was looked for", "client/dicom/text_finder.py",
          "'yes' if looked else 'no'", "'yes'", ("tests/client/test_text_detection.py",), at="in_words"),
    guard("ingest: a detector that cannot be loaded is counted on", "client/dicom/text_finder.py",
          'return f"the extra `ocr` cannot be loaded ({error})"', 'return ""',
          ("tests/client/test_text_detection.py",), at="why_not"),
    guard("lab: it outlives its script", "deploy/install/lab.py", "launch.bound(", "list(",
          ("tests/flows/test_lab_deploy.py::test_a_lab_that_is_killed_leaves_no_process_behind",), at="Party.serve"),
    guard("processors: the affinity is not seen", "common/host/processors.py", "len(os.sched_getaffinity(0))",
          "os.cpu_count() or 1", _PROCESSORS, at="processors"),
]  # fmt: skip
