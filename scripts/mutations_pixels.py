"""The guards between a DICOM file and a picture: what is no patient, what may carry a name, what cannot be known."""

from mutation import Mutation

SCREENING, CODECS = "tests/client/test_screening_rules.py", "tests/client/test_codec_rules.py"
DISPLAY, FRAMES = "tests/client/test_display_rules.py", "tests/client/test_frames_and_forms.py"

PIXELS = [
    Mutation(
        name="pixels: our own generated images enter as patients",
        file="client/dicom/provenance.py",
        at="provenance_of",
        old='        synthetic="SYNTHETIC" in kinds or _marked_synthetic(dataset),',
        new='        synthetic=text_of(dataset, "SyntheticData") == "YES",',
        tests=(SCREENING,),
    ),
    Mutation(
        name="pixels: NO vouches for a captured screen in a cross section",
        file="client/dicom/screening.py",
        at="says_text",
        old='    if provenance.burned_in == "YES" or _not_of_its_class(facts, provenance):',
        new='    if provenance.burned_in == "YES":',
        tests=(SCREENING,),
    ),
    Mutation(
        name="pixels: pages are images",
        file="client/dicom/screening.py",
        at="screen_type",
        old="    if _PAGES.search(kinds):",
        new="    if False:",
        tests=(SCREENING,),
    ),
    Mutation(
        name="pixels: tiled slices are one image",
        file="client/dicom/screening.py",
        at="screen_type",
        old="    if facts.sop_class in sop_classes.CLASSIC_SECTIONS and tiled:",
        new="    if False:",
        tests=(SCREENING,),
    ),
    Mutation(
        name="pixels: only the first frame is read for text",
        file="client/decoder/worker.py",
        at="Decoder._admit",
        old="            if finder is not None and finder.finds_text(",
        new="            if number == 0 and finder is not None and finder.finds_text(",
        tests=(SCREENING + "::test_a_name_is_found_in_whichever_frame_it_stands",),
    ),
    Mutation(
        name="pixels: frames beyond those counted are dropped",
        file="client/decoder/fragments.py",
        at="frames_of",
        old="    if len(starts) > frames:",
        new="    if False:",
        tests=(FRAMES,),
    ),
    Mutation(
        name="pixels: a codestream of another size is reshaped",
        file="client/decoder/frame_decoder.py",
        at="_check_size",
        old="    if found != declared:",
        new="    if False:",
        tests=(CODECS,),
    ),
    Mutation(
        name="pixels: bits above the stored ones show",
        file="client/decoder/frame_decoder.py",
        at="_true_values",
        old="    bits = code.precision if code.lossy else min(code.precision, stored)",
        new="    bits = code.precision",
        tests=(CODECS,),
    ),
    Mutation(
        name="pixels: a unit is as good as another under a plan's window",
        file="client/dicom/units.py",
        at="check_unit",
        old="    if isinstance(window, str):",
        new="    if True:",
        tests=(DISPLAY,),
    ),
    Mutation(
        name="pixels: a header of two polarities is shown in one",
        file="client/dicom/rendering.py",
        at="_inverted",
        old="    if shape in _SHAPES and _SHAPES[shape] != inverted:",
        new="    if False:",
        tests=(DISPLAY,),
    ),
    Mutation(
        name="pixels: the modality LUT of angiography is for display",
        file="client/dicom/rendering.py",
        at="_modality",
        old='    if text_of(dataset, "SOPClassUID") in ANGIOGRAPHY:',
        new="    if False:",
        tests=(DISPLAY,),
    ),
    Mutation(
        name="pixels: a JPEG that breaks off is painted to its end",
        file="client/decoder/frame_decoder.py",
        old="    if complaints.pixels_lost(lambda: raw(decoding_plugin=_OUTSPOKEN)):",
        new="    if False:",
        tests=(CODECS,),
    ),
    Mutation(
        name="pixels: a JPEG needs no end",
        file="client/decoder/frame_decoder.py",
        old="    if encapsulated.rfind(_END_OF_IMAGE) < encapsulated.rfind(_START_OF_SCAN):",
        new="    if False:",
        tests=(CODECS,),
    ),
    Mutation(
        name="pixels: only a word tells of tiled slices",
        file="client/dicom/screening.py",
        old="    tiled = provenance.tiles > 1 or any(",
        new="    tiled = any(",
        tests=("tests/client/test_variants_screens.py",),
    ),
]
