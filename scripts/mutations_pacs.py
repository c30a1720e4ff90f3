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
        tests=(WHOLE,),
    ),
    Mutation(
        name="pacs: an image cut before its pixels is whole",
        file="client/pacs/elements.py",
        at="_Walk._check_end",
        old="        if len(self._open) > 1 or (self._image and not self._pixels and not self._instead):",
        new="        if len(self._open) > 1:",
        tests=(WHOLE,),
    ),
    Mutation(
        name="pacs: what lies behind the pixels is not looked at",
        file="client/pacs/elements.py",
        at="_Walk._note",
        old="        if self._pixels and tag[0] < _PIXEL_GROUP:",
        new="        if False:",
        tests=(WHOLE,),
    ),
    Mutation(
        name="pacs: a partial answer is an object",
        file="client/pacs/dicomweb.py",
        at="DicomwebPacs._object",
        old="            if answer.status_code != _WHOLE:",
        new="            if False:",
        tests=(WHOLE,),
    ),
    Mutation(
        name="pacs: a list that breaks off is whole",
        file="client/pacs/dicomweb.py",
        at="DicomwebPacs._search",
        old="            if not fresh and (partial or len(page) == _PAGE):",
        new="            if not fresh and len(page) == _PAGE:",
        tests=(WHOLE,),
    ),
    Mutation(
        name="pacs: a boundary inside the pixels ends the object",
        file="client/pacs/multipart.py",
        at="only_object",
        old="    end = body.rfind(_LINE + marker + _DASHES, place)",
        new="    end = body.find(_LINE + marker + _DASHES, place)",
        tests=(WHOLE,),
    ),
    Mutation(
        name="pacs: two objects are one",
        file="client/pacs/multipart.py",
        at="only_object",
        old="    if another.search(body, begin, end):",
        new="    if False:",
        tests=(WHOLE,),
    ),
    Mutation(
        name="pacs: a list without an end is as good as its count",
        file="client/pacs/inbox.py",
        at="StudyInbox.check_complete",
        old="        if not listed or missing or strays or (short and not self._closed):",
        new="        if not listed or missing or strays:",
        tests=("tests/client/test_pacs_job.py",),
    ),
    Mutation(
        name="pacs: a study that has grown is done",
        file="client/pacs/job.py",
        at="pull_studies",
        old="        if done is not None and study.instances == done.announced == done.instances:",
        new="        if done is not None:",
        tests=(WHOLE,),
    ),
    Mutation(
        name="pacs: what an older version took for whole stays so",
        file="client/pacs/job.py",
        at="PullFolder.done",
        old="        if len(whole_files(files)) < len(files):",
        new="        if False:",
        tests=(WHOLE,),
    ),
]
