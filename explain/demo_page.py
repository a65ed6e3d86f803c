"""The page of demo.py: a photo in; its likeliest classes, and the heat map of the first, out.

Gradio is imported when the page is served, as it is optional; what the page shows is computed without it.
"""

import importlib
import ipaddress
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import torch

from common.errors import UserError
from data.decode import read_image
from explain.layers import Layer, find_layer
from explain.methods import compute_maps
from explain.pictures import heat, overlay
from tasks.classification.predictor import Predictor

TOP = 5  # classes that are shown
SIDE = 448  # pixels that a map is drawn with at least, as browsers show small pictures small
HIGH = 400  # pixels of the page for the photo, and for the map beside it
NO_MAP = "No heat map: no layer of this model keeps the places of the image."
# The browser is told to fetch nothing from elsewhere, whatever a version of Gradio would like to.
POLICY = b"default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:"


class Explainer:
    """What the page shows of a photo.

    Args:
        predictor: from `infer.load`.

    Attributes:
        layer: whose maps Grad-CAM looks at; None where the model has none that keeps the places of the image.
    """

    def __init__(self, predictor: Predictor) -> None:
        self.predictor, self.task = predictor, predictor.task
        self.layer = self._find_layer()

    def __call__(self, photo: Path) -> tuple[dict[str, float], np.ndarray | None, str]:
        """The TOP likeliest classes, the heat map of the first over the photo as the model sees it, and a line on it.

        The map is uint8 (H, W, 3), None where there is no layer for it.

        Raises:
            UserError: the photo cannot be read.
        """
        seen = self.predictor(photo)
        classes = dict(list(seen.probabilities.items())[:TOP])
        if self.layer is None:
            return classes, None, NO_MAP
        image = read_image(photo, self.task.image_shape, self.task.ranges, self.task.geometry)
        pixels = torch.from_numpy(np.stack([image])).to(self.task.device)
        label = self.predictor.class_names.index(seen.label)
        maps = compute_maps("gradcam", self.predictor.model, self.layer, self.task.inputs(pixels), [label])
        times = max(1, SIDE // max(image.shape[:2]))
        large = image.repeat(times, axis=0).repeat(times, axis=1)
        hot = heat(maps, large.shape[:2])[0]
        says = f"What speaks for {seen.label}" if hot.any() else f"Nothing speaks for {seen.label}"
        return classes, (255 * overlay(large, hot)).round().astype(np.uint8), f"{says}: {self.layer.in_words()}."

    def _find_layer(self) -> Layer | None:
        noise = torch.randint(256, (1, *self.task.image_shape), generator=torch.Generator().manual_seed(0))
        try:
            return find_layer(self.predictor.model, self.task.inputs(noise.byte().to(self.task.device)), None)
        except UserError:  # which advises options that the page does not have
            return None


class OwnHostOnly:
    """ASGI middleware that sends POLICY with every answer."""

    def __init__(self, app: Callable[..., Awaitable[None]]) -> None:
        self.app = app

    async def __call__(self, scope: dict, receive: Callable, send: Callable) -> None:
        """Answer as the app does, with one header more."""

        async def send_with_policy(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", []), (b"content-security-policy", POLICY)]
            await send(message)

        await self.app(scope, receive, send_with_policy)


@contextmanager
def serve(predictor: Predictor, name: str, host: str, port: int) -> Iterator[str]:
    """Serve the page in threads of its own while the block runs; gives the address to open.

    Args:
        predictor: from `infer.load`.
        name: of the run, the title.
        host, port: that it is served at, which are free.

    Raises:
        UserError: the server does not start.
    """
    # Gradio asks its own server whether it is there: not by way of a proxy.
    os.environ["NO_PROXY"] = ",".join(filter(None, (os.environ.get("NO_PROXY"), "localhost", host)))
    page = build(Explainer(predictor), name, host)
    middleware = importlib.import_module("starlette.middleware").Middleware
    try:
        _, url, _ = page.launch(
            server_name=f"[{host}]" if ":" in host else host,
            server_port=port,
            share=False,
            ssr_mode=False,
            quiet=True,
            footer_links=[],
            prevent_thread_lock=True,
            app_kwargs={"middleware": [middleware(OwnHostOnly)]},
        )
    except (OSError, ValueError) as error:
        raise UserError(f"--host {host} --port {port}: {error}") from error
    try:
        yield url
    finally:
        page.close(verbose=False)


def build(explain: Explainer, name: str, host: str) -> Any:
    """The page, a `gradio.Blocks`, with one function in its API, `/predict`."""
    gradio = importlib.import_module("gradio")

    def predict(photo: str | None) -> tuple[dict[str, float] | None, np.ndarray | None, str]:
        if photo is None:
            return None, None, ""
        try:
            classes, picture, says = explain(Path(photo))
        except UserError:  # it names the server's copy of the photo, which says nothing to who dropped it
            return None, None, "<p>This photo cannot be read: try another one.</p>"
        return classes, picture, f"<p>{escape(says)}</p>"

    as_dropped = {"type": "filepath", "image_mode": None, "sources": ["upload", "clipboard"]}
    to_look_at = {"format": "png", "interactive": False, "buttons": ["fullscreen", "download"]}  # and not to share
    with gradio.Blocks(title=name, analytics_enabled=False) as page:
        gradio.HTML(f"<h1>{escape(name)}</h1><p>{promise(host)}</p>")
        with gradio.Row():
            photo = gradio.Image(label="Photo", height=HIGH, **as_dropped)
            picture = gradio.Image(label="Grad-CAM", height=HIGH, visible=explain.layer is not None, **to_look_at)
        says = gradio.HTML("" if explain.layer else f"<p>{NO_MAP}</p>")
        classes = gradio.Label(num_top_classes=TOP, label="Likeliest classes")
        # The file as it was dropped, to be read as infer.py reads it: Gradio would decode it first, its own way.
        photo.preprocess = lambda payload: payload and payload.path
        # One photo at a time: Grad-CAM hangs its hooks into the one model there is.
        photo.change(predict, photo, [classes, picture, says], api_name="predict", concurrency_limit=1)
    return page


def promise(host: str) -> str:
    """What becomes of the photos, in a line for the page."""
    try:
        own = ipaddress.ip_address(host).is_loopback
    except ValueError:
        own = host == "localhost"
    if own:
        return "Nothing leaves this machine: photos go to the program that shows this page, and no further."
    return "Photos go to the machine that serves this page, and no further."
