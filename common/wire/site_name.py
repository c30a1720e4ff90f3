"""What a site may be called: the one rule for a site's name, in its rules, in certificates and in messages."""

import re

RULE = "lower-case letters, digits and dashes, at most 32"
"""The rule in words."""
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}")


def is_site_name(text: str) -> bool:
    """Whether a text can be a site's name; the first character is no dash."""
    return _NAME.fullmatch(text) is not None
