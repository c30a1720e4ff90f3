"""The one way in which an HTML page is made: what is data is escaped as HTML, and shown rather than obeyed."""

from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from common.display.plain import plain_value


def environment(package: str, **options: Any) -> Environment:
    """Return the templates of one of our packages; every `{{ expression }}` of them is escaped.

    Args:
        package: Name of the package that holds a folder `templates`.
        options: Others of Jinja's.
    """
    return Environment(
        loader=PackageLoader(package), autoescape=True, undefined=StrictUndefined, finalize=plain_value, **options
    )
