"""python -m fastvideo_core <command>. Each command's --help lists its arguments.

generate   videos of one prompt or many, with each expert loaded once; resumes what was not finished
compare    the same prompt and seeds, dense and accelerated: time, memory, quality, videos
calibrate  measures the ratio table that MagCache reads
tune       finds the step cache's settings that reach a wanted SSIM
recipes    what few-step distilled models and LoRAs were trained to be sampled with
"""

import argparse
import sys
from collections.abc import Sequence

from .commands import calibrate, compare, generate, recipes, tune
from .commands.arguments import Parser
from .errors import FastVideoError

COMMANDS = {"generate": generate, "compare": compare, "calibrate": calibrate, "tune": tune, "recipes": recipes}


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit code: 0, 1 where it failed, 2 where an argument is wrong, 130 where it was stopped."""
    parser = Parser(prog="python -m fastvideo_core", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, command in COMMANDS.items():
        command.add_arguments(commands.add_parser(name, description=command.__doc__))
    given = parser.parse_args(arguments)
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading weights, between this program's own lines
    try:
        COMMANDS[given.command].run(given, lambda line: print(line, flush=True))
    except (FastVideoError, OSError) as error:
        print(f"python -m fastvideo_core {given.command}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
