"""Guards of signatures, the gate and the verdicts behind it: how to take each out."""

from mutation import APP, EGRESS, Mutation

_SIGNING = ("tests/common/test_signing.py",)
_GATE = ("tests/server/test_gate.py",)
_VERDICT = ("tests/client/test_verdict.py",)
_SECRET = tuple(f"tests/client/test_admission_steward.py::test_{name}" for name in (
    "another_secret_in_the_place_of_the_first_is_noticed",
    "a_lost_secret_is_not_replaced_in_a_home_that_was_used_with_it",
))  # fmt: skip
_BUDGET = ("tests/client/test_budget_cli.py",)
_CONSENT = ("tests/client/test_consent.py",)
_ENROLMENT = ("tests/server/test_coordinator_enrolment.py",)
_RUNNER = (
    "tests/client/test_daemon_runner.py::"
    "test_every_answer_has_its_line_in_the_egress_log_whatever_the_runner_had_to_do",
)
_BUNDLE = ("tests/deploy/test_generate.py::test_an_altered_release_is_refused",
           "tests/deploy/test_generate.py::test_a_bundle_of_another_signer_is_refused_where_one_is_named")  # fmt: skip
_S, _G, _V = "common/wire/signing.py", "server/protocol/gate.py", "client/evaluation/votes.py"
_Y, _YARDSTICK = "client/evaluation/yardstick.py", ("tests/client/test_yardstick.py",)


def _guard(name: str, file: str, old: str, new: str, tests: tuple[str, ...], *, at: str = "") -> Mutation:
    return Mutation(name=name, file=file, old=old, new=new, tests=tests, at=at)


RELEASE = [
    _guard("signing: a signature is not checked", _S,
           'key.verify(raw if one_form else b"", canonical(record))', "pass", _SIGNING, at="verify"),
    _guard("signing: another form of the same signature is good", _S,
           'raw if one_form else b""', "raw", _SIGNING, at="verify"),
    _guard("signing: a signed file may be altered", _S, "or _entry(folder / name) != entry:", "or False:", _SIGNING,
           at="verify_folder"),
    _guard("signing: the trusted signer is not asked for", _S,
           "if trusted and signer != trusted:", "if False:", _SIGNING, at="verify_folder"),
    _guard("bundle: it is used unchecked", "common/wire/release_bundle.py",
           "signer = verify_folder(folder, trusted=trusted)", 'signer = ""', _BUNDLE, at="Bundle.load"),
    _guard("gate: a verdict's signature is not checked", "common/wire/verdicts.py",
           "    verify(_content(verdict),", "    (lambda *_, **__: None)(_content(verdict),", _GATE, at="verified"),
    _guard("gate: any key may sign a verdict", "server/study/signers.py",
           "if verdict.public != enrolled:", "if False:", _GATE, at="require"),
    _guard("gate: a site without an enrolled key is heard", "server/study/signers.py",
           'if not (enrolled := signers.get(verdict.site, "")):',
           'if not (enrolled := signers.get(verdict.site, verdict.public)):', _GATE, at="require"),
    _guard("gate: a stored verdict is believed", _G,
           "verdict.site: _checked(study, verdict, candidate, enrolled)", "verdict.site: verdict", _GATE, at="load"),
    _guard("gate: a verdict on another candidate counts", "common/wire/verdicts.py",
           "if (verdict.plan, verdict.candidate) != (plan, candidate):", "if False:",
           (*_GATE, "tests/deploy/test_release.py::test_a_verdict_on_another_candidate_does_not_count"), at="verified"),
    _guard("gate: one site speaks for another", _G, "if verdict.site != name:", "if False:", _GATE, at="_hear"),
    _guard("gate: a verdict may state any cost", _G, "if not _honest_cost(study, verdict):", "if False:", _GATE,
           at="_hear"),
    _guard("gate: a no is no hindrance", _G, "if verdict.outcome != PASSED:", "if False:", _GATE, at="require"),
    _guard("gate: a silence is a yes", _G, "    if missing:\n", "    if False:\n", _GATE, at="require"),
    _guard("verdict: no sum is ever too low", _V, "if value < -MARGIN * spread and", "if False and", _VERDICT,
           at="decide"),
    _guard("verdict: a patient's vote is not a mean of images", "client/cohort/image_blocks.py",
           "return total / counts.reshape(-1, *[1] * (values.ndim - 1))", "return total", _VERDICT,
           at="mean_by_patient"),
    _guard("verdict: a pass is as large as what is left, so rounding depends on who is there", _Y,
           "        count = len(part.labels)\n", "        count = slots = len(part.labels)\n", _YARDSTICK, at="shares"),
    _guard("verdict: nobody tries whether passes keep images apart here", _Y,
           'return most_apart(plan, work, slots=most, each=1, device=torch.device("cpu"))', "return most", _YARDSTICK,
           at="slots_of"),
    _guard("verdict: the trial leaves out distances in pixels", _Y,
           "        yardstick.in_pixels(pictures, labels),\n", "", _YARDSTICK, at="_everything"),
    _guard("verdict: a fault in the steward's figures shows outside", "client/evaluation/judge.py",
           "    except Exception as error:", "    except SystemExit as error:", _VERDICT, at="tell_steward"),
    _guard("verdict: it is compared with an empty set", "client/evaluation/nearness.py",
           "    if not len(among):\n", "    if False:\n", ("tests/client/test_evaluation_measures.py",), at="nearest"),
    _guard("verdict: what leaves is not checked", "client/egress/egress.py",
           "        verified(verdict, plan=plan.digest, candidate=verdict.candidate)\n", "        pass\n", _VERDICT,
           at="release_verdict"),
    _guard("verdict: it is not booked", "client/hospital.py",
           "    number = _reserve(site, plan, step, entry)", "    number = 1", _VERDICT, at="_made"),
    _guard("egress log: a full file is thrown away", "client/egress/egress_log.py",
           "    path.rename(old)\n", "    path.unlink()\n", ("tests/client/test_egress.py",), at="_put_away"),
    _guard("egress log: a torn line takes the next one with it", "client/egress/egress_log.py",
           "if torn := _torn(path):", 'if torn := b"":', ("tests/client/test_egress.py",), at="append"),
    _guard("egress log: two writers put one file away twice", "client/egress/egress_log.py",
           '    with locked(home / LOCK):', "    if True:", ("tests/client/test_egress.py",), at="append"),
    _guard("refusal: it leaves though it could not be written down", "client/egress/refusals.py",
           "        return UNRECORDED\n", "        return answer\n", (APP,), at="refused"),
    _guard("refusal: a site that was not opened writes none down", "client/app.py",
           'context.node_config.get("site-home")\n    if home is None:', "None\n    if home is None:", (APP,),
           at="_refusal"),
    _guard("refusal: the runner's own is not written down", "client/daemon/runner.py",
           "return refused(self._home.home, reason=reason, site=site).to_record()",
           'return type(refused(Path("/gone"), reason="x"))(plan="", site=site, reason=reason).to_record()', _RUNNER,
           at="Runner._refused"),
    _guard("refusal: that of an unknown kind of message is not written down", "client/daemon/task.py",
           'refused(Path(header["home"]), reason', 'type(refused(Path("/gone"), reason="x"))(plan="", site="", reason',
           _RUNNER, at="answer"),
    _guard("consent: a withdrawal has no receipt", "client/cohort/consent.py",
           "    receipt.keep(home, ledger)\n", "", _CONSENT, at="withdraw"),
    _guard("consent: a withdrawal is booked on an older copy", "client/cohort/consent.py",
           "    ledger.require(receipt.last_head(home))\n", "", _CONSENT, at="withdraw"),
    _guard("consent: an id alone passes over who left the cache", "client/cohort/consent.py",
           "if issuer is None and not known and", "if False and", _CONSENT, at="withdraw"),
    _guard("secret: a lost one is replaced", "client/cohort/identity.py",
           "if _in_use(home) and not", "if False and not", _SECRET, at="site_secret"),
    _guard("secret: rows of the ledger do not tell that it was in use", "client/cohort/identity.py",
           "or (begun and bool(LedgerStore(ledger).rows()))", "or False", _SECRET, at="_in_use"),
    _guard("secret: another one is not noticed", "client/cohort/identity.py",
           "if check.read_bytes() != commitment:", "if False:", _SECRET, at="site_secret"),
    _guard("permit: the total is read at the asking plan's delta", "client/approval/approvals.py",
           "min(deltas, default=default)", "plan.privacy.delta if plan else default", _BUDGET, at="smallest_delta"),
    _guard("receipt: it may go back", "client/ledger/receipt.py",
           "            ledger.require(known)\n", "            pass\n", (EGRESS,), at="keep"),
    _guard("receipt: it names a row that the reply knew and no later one", "client/ledger/receipt.py",
           'receipt = {"head": ledger.head(),', 'receipt = {"head": head or ledger.head(),', _CONSENT, at="keep"),
    _guard("enrolment: a request without a verdict key is taken", "server/coordinator/invitations.py",
           'if not re.fullmatch(r"[0-9a-f]{64}", request.verdict_key):', "if False:", _ENROLMENT,
           at="_require_verdict_key"),
    _guard("enrolment: a renewal may change the verdict key", "server/coordinator/invitations.py",
           'if request.signature and node.verdict_key not in ("", request.verdict_key):', "if False:", _ENROLMENT,
           at="_require_verdict_key"),
    _guard("enrolment: two sites share a verdict key", "server/coordinator/invitations.py",
           "if any(other.verdict_key == request.verdict_key for", "if any(False for", _ENROLMENT,
           at="_require_verdict_key"),
]  # fmt: skip
