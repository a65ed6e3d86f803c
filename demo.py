"""A local web page of a trained classifier: python demo.py --help.

    python demo.py --weights runs/<run>
    python demo.py --weights runs/<run>/best.pth --port 8000

Drop a photo on the page: it shows the five likeliest classes and the Grad-CAM heat map of the first. Needs
`pip install gradio`. No photo leaves the machine, and those that were dropped are deleted when the page is closed.
"""

import errno
import importlib.util
import os
import signal
import socket
import sys
import tempfile
import threading
import warnings
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

from common import console
from common.errors import UserError, exit_on_user_error
from options.demo import PORTS, DemoOptions, parse_demo

NEEDED = {"gradio": "gradio", "pytorch_grad_cam": "grad-cam"}  # module -> package
# Gradio and the Hub's client read these when they are imported. Gradio keeps runs in the browser unless told not to.
PRIVATE = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_RUN_HISTORY": "False", "HF_HUB_OFFLINE": "1"}


def demo(args: DemoOptions) -> None:
    """Serve the page until a signal ends it.

    Raises:
        UserError: a package is missing, the address cannot be had, or the weights do not name one class an image.
    """
    missing = [package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f"demo.py: {' and '.join(missing)} not installed; run 'pip install {' '.join(missing)}'")
    if int((version := metadata.version("gradio")).partition(".")[0]) < 6:
        raise UserError(f"demo.py: Gradio {version} is too old; run 'pip install -U gradio'")
    port = free_port(args.host, args.port)
    os.environ.update(PRIVATE)
    console.status("loading PyTorch")
    # Imported only now, as they take seconds: --help and mistyped options are answered at once.
    from explain import demo_page
    from infer import load

    predictor = load(args.weights, device="cpu" if args.cpu else None)
    name = Path(args.weights).absolute().parent.name
    end_on_signals()
    with tempfile.TemporaryDirectory(prefix="sameloop-demo-") as photos:
        os.environ["GRADIO_TEMP_DIR"] = photos
        console.status("starting the page")
        with demo_page.serve(predictor, name, args.host, port) as url:
            console.say(f"{name}: open {url} (Ctrl-C ends it)")
            threading.Event().wait()


def free_port(host: str, port: int | None) -> int:
    """`port` if it can be served at, else, where it is None, the first of PORTS that can.

    Raises:
        UserError: it is in use or not ours to take, none is free, or the host is no address of this machine.
    """
    for candidate in PORTS if port is None else [port]:
        try:
            family, kind, _, _, address = socket.getaddrinfo(host, candidate, type=socket.SOCK_STREAM)[0]
            with socket.socket(family, kind) as taken:
                taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does
                taken.bind(address)
            return candidate
        except PermissionError as error:
            raise UserError(f"--port {candidate}: {error.strerror}; give one from 1024 on") from error
        except (OSError, UnicodeError) as error:  # UnicodeError: a name that cannot be one of a host
            if getattr(error, "errno", None) != errno.EADDRINUSE:
                reason = getattr(error, "strerror", None) or error
                raise UserError(f"--host {host}: {reason}; give an address of this machine") from error
    if port is None:
        raise UserError(f"no port from {PORTS[0]} to {PORTS[-1]} is free: give --port")
    raise UserError(f"--port {port}: is in use; give another one, or leave it out")


def end_on_signals() -> None:
    """Let SIGTERM and a closed terminal end the program as an exception does, so that the photos are deleted."""

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    for number in {signal.SIGTERM, getattr(signal, "SIGHUP", signal.SIGTERM)}:
        if signal.getsignal(number) is not signal.SIG_IGN:  # as nohup has it
            signal.signal(number, end)


def main(argv: Sequence[str] | None = None) -> None:
    """Run with the options in `argv` (default: the command line's) until a signal ends it."""
    warnings.filterwarnings("ignore", module="PIL")  # a photo is read, or the page says why it is not
    with exit_on_user_error():
        demo(parse_demo(argv))


if __name__ == "__main__":
    main()
