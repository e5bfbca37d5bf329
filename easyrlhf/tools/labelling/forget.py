"""easyrlhf label forget: an annotator's name is deleted; docs/labelling.md."""

from easyrlhf.config import LabelForgetConfig
from easyrlhf.labels.store import Store


def forget_name(config: LabelForgetConfig) -> None:
    """Delete a name and its links from the store. Raises InputError for a name that is not there."""
    with Store(config.labels) as store:
        number = store.forget(config.name)
        wiped = store.wipe()
    print(f"{store.file}: {config.name} is forgotten; the labels of annotator {number} stay")
    if not wiped:
        print(f"note: another command is reading; {store.file}-wal may hold the name until all of them have ended")
