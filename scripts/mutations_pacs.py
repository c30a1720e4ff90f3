"""The guards of a pull: half an object, half a list and a study that has grown are not taken for the whole."""

from mutation import Mutation

WHOLE = "tests/client/test_pacs_whole.py"

PACS = [
    Mutation(
        name="pacs: half an object is whole",
        file="client/pacs/inbox.py",
        at="read_identity",
        old="    check_whole(path, syntax=syntax, sop_class=uids[2])",
        new="    pass",
        tests=(f"{WHOLE}::test_an_object_that_ends_early_does_not_make_a_study_done",),
    ),
    Mutation(
        name="pacs: an image cut before its pixels is whole",
        file="client/pacs/elements.py",
        at="_Walk._check_end",
        old="        if len(self._open) > 1 or (self._image and not self._pixels and not self._instead):",
        new="        if len(self._open) > 1:",
        tests=(f"{WHOLE}::test_no_object_is_whole_without_its_last_bytes",),
    ),
    Mutation(
        name="pacs: what lies behind the pixels is not looked at",
        file="client/pacs/elements.py",
        at="_Walk._note",
        old="        if self._pixels and tag[0] < _PIXEL_GROUP:",
        new="        if False:",
        tests=(f"{WHOLE}::test_zeros_behind_an_object_are_no_fault_and_anything_else_is",),
    ),
    Mutation(
        name="pacs: a partial answer is an object",
        file="client/pacs/dicomweb.py",
        at="DicomwebPacs._object",
        old="            if answer.status_code != _WHOLE:",
        new="            if False:",
        tests=(f"{WHOLE}::test_a_partial_answer_to_the_question_for_an_object_is_refused",),
    ),
    Mutation(
        name="pacs: a list that breaks off is whole",
        file="client/pacs/dicomweb.py",
        at="DicomwebPacs._search",
        old="            if not fresh and (partial or len(page) == _PAGE):",
        new="            if not fresh and len(page) == _PAGE:",
        tests=(f"{WHOLE}::test_a_list_that_breaks_off_with_206_is_not_taken_for_whole",),
    ),
    Mutation(
        name="pacs: a boundary inside the pixels ends the object",
        file="client/pacs/multipart.py",
        at="only_object",
        old="    end = body.rfind(_LINE + marker + _DASHES, place)",
        new="    end = body.find(_LINE + marker + _DASHES, place)",
        tests=(f"{WHOLE}::test_a_boundary_inside_the_pixels_is_part_of_them",),
    ),
    Mutation(
        name="pacs: two objects are one",
        file="client/pacs/multipart.py",
        at="only_object",
        old="    if another.search(body, begin, end):",
        new="    if False:",
        tests=(f"{WHOLE}::test_two_objects_in_one_message_are_not_one",),
    ),
    Mutation(
        name="pacs: a list without an end is as good as its count",
        file="client/pacs/inbox.py",
        at="StudyInbox.check_complete",
        old="        if not listed or missing or strays or (short and not self._closed):",
        new="        if not listed or missing or strays:",
        tests=("tests/client/test_pacs_job.py::test_complete_study_is_one_with_all_that_was_listed",),
    ),
    Mutation(
        name="pacs: a study that has grown is done",
        file="client/pacs/job.py",
        at="pull_studies",
        old="        if done is not None and study.instances == done.announced == done.instances:",
        new="        if done is not None:",
        tests=(f"{WHOLE}::test_a_study_that_has_grown_is_pulled_again",),
    ),
    Mutation(
        name="pacs: what an older version took for whole stays so",
        file="client/pacs/job.py",
        at="PullFolder.done",
        old="        if len(whole_files(files)) < len(files):",
        new="        if False:",
        tests=(f"{WHOLE}::test_a_half_object_that_an_older_version_took_for_whole_is_pulled_again",),
    ),
]
