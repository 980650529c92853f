"""``mmsb completion``: what makes a shell complete the commands."""

import click
from click.shell_completion import get_completion_class

from mmsb_jax.cli.common.command import say


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the script that makes SHELL complete mmsb and its options.

    \b
      bash  eval "$(mmsb completion bash)"          in ~/.bashrc
      zsh   eval "$(mmsb completion zsh)"           in ~/.zshrc
      fish  mmsb completion fish | source           in ~/.config/fish/config.fish
    """
    kind = get_completion_class(shell)
    assert kind is not None
    root = ctx.find_root()
    say(kind(root.command, {}, "mmsb", "_MMSB_COMPLETE").source())
