"""Options that the hospital's commands share."""

from pathlib import Path

import click

home_option = click.option(
    "--home", type=click.Path(path_type=Path), envvar="WARDROUND_HOME", default="wardround-site", show_default=True,
    help="The site's home folder (also WARDROUND_HOME).",
)  # fmt: skip
"""Where the site keeps everything; passed on as `home`."""
