"""A folder ready for the Hugging Face Hub, of weights, config.json, pictures and a model card, and its upload."""

from collections.abc import Mapping
from pathlib import Path, PurePath

from common import console
from common.errors import UserError
from common.files import write_text
from common.hub import BEST, first_line
from deploy import model_card, weights_folder
from deploy.classifier import load_content
from deploy.staging import put_in_place, staging
from engine.checkpoints import best_weights
from options.export import ExportOptions
from tasks.inference import folder_beside

PICTURES = ("confusion_matrix.png", "examples.png", "curves.png")


def publish(args: ExportOptions) -> None:
    """Write the folder that `args` asks for and, with --push, upload it.

    Raises:
        UserError: the weights are not a classifier's, there is no room, or the Hub does not take the folder.
    """
    if args.push:
        check_login()  # before anything is written
    content = load_content(args.weights)
    folder = Path(args.output) if args.output else folder_beside(args.weights, "card")
    with staging(folder) as staged:
        console.status("writing")
        write(staged / "folder", content, args)
        written = put_in_place(staged / "folder", folder)
    console.say(f"written  {', '.join(str(path) for path in written)}")
    if args.push:
        url = upload(folder, [path.name for path in written], args.push, args.private)
        console.say(f"pushed   {url}")


def write(folder: Path, content: Mapping, args: ExportOptions) -> None:
    """Make the folder, with all that goes to the Hub.

    Raises:
        OSError: no room or no right to write.
        UserError: the weights do not fit the model that they name.
    """
    model, task = best_weights.restore(dict(content), args.weights)
    weights_folder.write(folder, content, model.eval(), task)
    content = {**content, "options": without_folders(content["options"])}
    best_weights.save(folder / BEST, content["weights"], {key: content[key] for key in content if key != "weights"})
    run = Path(args.weights).parent
    pictures = [name for name in PICTURES if (run / name).is_file()]
    for name in pictures:
        (folder / name).write_bytes((run / name).read_bytes())
    text = model_card.card(content, model_card.read_run(run), pictures, args.push, args.license)
    write_text(folder / "README.md", text)


def without_folders(options: Mapping) -> dict:
    """A run's options as they may be public: of absolute paths the last part alone, and of --data-dir nothing."""
    return {
        name: PurePath(value).name if isinstance(value, str) and PurePath(value).is_absolute() else value
        for name, value in {**options, "data_dir": None}.items()
    }


def check_login() -> None:
    """Refuse to begin without a token.

    Raises:
        UserError: huggingface_hub finds none, or HF_HUB_OFFLINE is set.
    """
    from huggingface_hub import constants, get_token

    if constants.HF_HUB_OFFLINE:
        raise UserError("--push needs the network, and HF_HUB_OFFLINE is set: unset it, or give --card-only")
    if get_token() is None:
        raise UserError("--push needs a token that may write: log in with 'hf auth login', or set HF_TOKEN")


def upload(folder: Path, names: list[str], repository: str, private: bool) -> str:
    """Upload the files `names` of `folder` as one commit, to a repository that is made where there is none.

    Args:
        repository: OWNER/NAME.
        private: whether one that is made is private.

    Returns:
        Its address.

    Raises:
        UserError: the Hub is out of reach, or refuses the token or the files; the folder stays.
    """
    from huggingface_hub import HfApi, errors

    console.status(f"uploading to {repository}")
    api = HfApi()
    try:
        url = api.create_repo(repository, private=private or None, exist_ok=True)
        api.upload_folder(
            repo_id=repository, folder_path=folder, allow_patterns=names, commit_message="Weights and model card"
        )
    except errors.HfHubHTTPError as error:
        if error.response.status_code in (401, 403):
            owner = repository.split("/")[0]
            raise UserError(
                f"--push {repository}: the Hub refuses the token: give one that may write to {owner}"
            ) from error
        raise UserError(f"--push {repository}: the Hub refuses it: {first_line(error)}; see {folder}") from error
    except (OSError, errors.HTTPError) as error:
        raise UserError(
            f"--push {repository}: the Hub is out of reach ({first_line(error)}); all is written to {folder}: "
            "connect and push again"
        ) from error
    except ValueError as error:  # the card's metadata
        raise UserError(f"--push {repository}: the Hub refuses the card: {first_line(error)}; see {folder}") from error
    return str(url)
