"""`reelgate completion`: what has a shell complete verbs, options and their values.

The scripts are click's, which ask `reelgate` itself, so that they are never behind. Not held here: the verbs.
"""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from gateway.client.words import Choice, Command

SHELLS: Final = ("bash", "zsh", "fish")
VARIABLE: Final = "_REELGATE_COMPLETE"  # what the scripts ask by


@click.command("completion", cls=Command)
@click.argument("shell", type=Choice(SHELLS))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print what makes SHELL complete verbs, options and values.

    source <(reelgate completion bash)
    reelgate completion bash > ~/.local/share/bash-completion/completions/reelgate
    reelgate completion zsh > "${fpath[1]}/_reelgate"
    reelgate completion fish > ~/.config/fish/completions/reelgate.fish

    SHELL is bash (4.4 or newer), zsh or fish.
    """
    scripts = get_completion_class(shell)
    if scripts is None:
        raise click.ClickException(f"Nothing is known of {shell}.")
    made = scripts(ctx.find_root().command, {}, "reelgate", VARIABLE)
    # Its `source` of bash would run the bash of this machine, which need not be the one that reads this.
    click.echo(made.source_template % made.source_vars())
