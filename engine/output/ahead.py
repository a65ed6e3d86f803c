"""What the report needs, scikit-learn and matplotlib, takes seconds to import: done while the last epoch is trained."""

import importlib
from collections.abc import Sequence
from threading import Thread


def import_ahead(modules: Sequence[str]) -> Thread:
    """Import modules in a thread, which is to be joined before anything else imports what they do.

    Two threads that import modules which import one another may each see the other's half done.
    """
    thread = Thread(target=lambda: [importlib.import_module(name) for name in modules], name="imports of the report")
    thread.start()
    return thread
