"""The folders of a run: none of what it writes may become a photo of the next one, and one run writes to a folder."""

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Iterator, Sequence

from gm.console import log
from gm.data.concepts import REPEATS_AND_PROMPT, ClassFolder, Subject
from gm.errors import UserError
from gm.files import FolderLock
from gm.parallel.ranks import Ranks


def check_folders(
    save_path: str, subjects: Sequence[Subject], class_folders: Sequence[ClassFolder], where: str, of: str
) -> None:
    """UserError when a folder that is written to is one of photos, or in one, whatever links lead there. `where` and `of`: what
    the folders of photos and of class images are called in messages."""
    photos = {subject.folder.resolve(): f"{where} {subject.folder}" for subject in subjects}
    classes = {one.folder.resolve(): f"{of} {one.folder}" for one in class_folders}
    for folder, name in classes.items():
        for other, theirs in photos.items():
            if folder == other:
                raise UserError(f"{name} and {theirs} are the same folder: the class images need one of their own")
            if other in folder.parents:
                raise UserError(f"{name} is inside {theirs}: give the class images a folder beside the photos")
    written = Path(save_path).resolve()
    for folder, name in {**photos, **classes}.items():
        if written == folder:
            raise UserError(f"--save_path {save_path} is {name}: loss.png would become a photo, give a folder of its own")
        if folder in written.parents:
            raise UserError(f"--save_path {save_path} is inside {name}: give a folder beside it")
        if folder.parent == written and REPEATS_AND_PROMPT.fullmatch(folder.name):
            raise UserError(
                f"--save_path {save_path} holds {name}, whose name says its repeats: loss.png would stand among such folders, give "
                "a folder of its own"
            )


@contextmanager
def used_alone(flag: str, folders: Sequence[Path], ranks: Ranks) -> Iterator[None]:
    """In the body no other run writes to these folders; rank 0 has them locked. UserError where another one does."""
    with ExitStack() as locks:
        with ranks.agreeing():
            for folder in folders if ranks.is_main else ():
                lock = FolderLock(flag, folder)
                locks.callback(lock.release)
                if lock.problem:
                    log.warning(
                        "%s %s cannot be locked (%s): see to it that no other run writes there", flag, folder, lock.problem
                    )
        yield
