"""What a classifier looks at: heat maps of its classes, how faithful they are, and pictures of both.

The maps are computed by the packages grad-cam (class activation maps) and captum (the others). This file names the
methods and imports neither, so that a command line is answered at once.
"""

CAMS = ("gradcam", "gradcam++", "scorecam", "eigencam")  # of a layer's feature maps
OF_PIXELS = ("integrated-gradients", "occlusion")  # of the pixels themselves, for any model
COUNT = 10  # images that a figure is taken from, of each class where they have one
METHODS = (*CAMS, *OF_PIXELS)


def parse(text: str) -> list[str]:
    """The methods that are named, separated by commas, each once.

    Raises:
        ValueError: an unknown one.
    """
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in METHODS:
            raise ValueError(f"unknown method '{name}': give some of {', '.join(METHODS)}, separated by commas")
    return names
