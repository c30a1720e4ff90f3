"""Options that the hospital's commands share."""

from pathlib import Path

import click

from common.host.owner import require_owner, user_name


def _owned(_context: click.Context, _option: click.Parameter, home: Path) -> Path:
    """Refuse to work in somebody else's home, before anything is opened there."""
    require_owner(home)
    return home


home_option = click.option(
    "--home", type=click.Path(path_type=Path), envvar="WARDROUND_HOME", default="wardround-site", show_default=True,
    callback=_owned, help="The site's home folder (also WARDROUND_HOME).",
)  # fmt: skip
"""Where the site keeps everything; passed on as `home`. For its owner alone."""

seen_home_option = click.option(
    "--home", type=click.Path(path_type=Path), envvar="WARDROUND_HOME", default="wardround-site", show_default=True,
    help="The site's home folder (also WARDROUND_HOME).",
)  # fmt: skip
"""The same for a command that only looks, and makes no file; for anybody who may."""

by_option = click.option("--by", default=user_name, show_default="the user logged in", help="Who decides; recorded.")
"""Who takes a decision; passed on as `by`."""
