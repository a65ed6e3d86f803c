"""The command line of demo.py."""

from collections.abc import Sequence
from dataclasses import dataclass

from options.parser import Parser
from options.schema import Role, add_arguments, option
from options.values import number, weights_file

HOST = "127.0.0.1"  # which only this machine reaches
PORTS = range(7860, 7960)  # where Gradio's pages are looked for


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """All options of demo.py."""

    weights: str = option(
        None, "a run's best.pth, or its folder", type=weights_file, required=True, metavar="FILE|RUN", role=Role.COMMAND
    )
    port: int | None = option(
        None, f"port of the page (default: the first free one from {PORTS[0]})", type=number(int, 1, 65535), metavar="N"
    )
    host: str = option(
        HOST, "address that the page is served at; 0.0.0.0 lets other machines open it", metavar="ADDRESS"
    )
    cpu: bool = option(False, "use the CPU even if there is an accelerator", action="store_true")


def parse_demo(argv: Sequence[str] | None = None) -> DemoOptions:
    """Parse demo.py's options.

    Raises:
        UserError: an unknown option, or a port that is out of range.
    """
    parser = Parser(
        prog="demo.py",
        usage="%(prog)s --weights FILE|RUN [options]",
        description="A local web page: drop a photo, see its likeliest classes and what speaks for the first.",
    )
    add_arguments(parser.add_argument, DemoOptions)
    return DemoOptions(**vars(parser.parse_args(argv)))
