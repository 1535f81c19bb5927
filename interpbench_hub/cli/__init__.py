"""The command line, `interpbench`: thin commands over the public functions, with tables and progress."""

import sys

# The order in which `interpbench --help` lists the commands.
from interpbench_hub.cli import browsing as browsing
from interpbench_hub.cli import evaluating as evaluating
from interpbench_hub.cli import fetching as fetching
from interpbench_hub.cli import training as training
from interpbench_hub.cli.common import Tier as Tier
from interpbench_hub.cli.common import app, print_error
from interpbench_hub.cli.common import console as console
from interpbench_hub.cli.common import print_text as print_text
from interpbench_hub.errors import InterpBenchError


def main() -> None:
    """Entry point: errors of this package print as one line, without a traceback."""
    try:
        app()
    except InterpBenchError as error:
        print_error(" ".join(str(error).split("\n")))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
