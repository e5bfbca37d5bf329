"""An annotator in a process of its own: labels what it is given until nothing is left, and prints what was kept.

    python annotate.py FOLDER OVERLAP NAME...

Each name is a thread. It prints "ready" and waits for a line, so that several begin together; then a line after each
label that is acknowledged: its id.
"""

import sys
import threading
import uuid

from easyrlhf.labels.rows import NewLabel
from easyrlhf.labels.store import NEW, Store


def annotate(store: Store, name: str, overlap: int) -> None:
    """Label all that is given."""
    who = store.annotator(name).id
    while given := store.next_item(who, overlap):
        label = NewLabel(uuid.uuid4().hex, given.item.id, who, 1, "3")
        if store.add_label(label) == NEW:
            print(label.id, flush=True)


if __name__ == "__main__":
    folder, overlap, *names = sys.argv[1:]
    with Store(folder) as shared:
        threads = [threading.Thread(target=annotate, args=(shared, name, int(overlap))) for name in names]
        print("ready", flush=True)
        sys.stdin.readline()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
