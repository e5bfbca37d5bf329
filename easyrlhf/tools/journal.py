"""What a command with many steps has done so far: records that grow step by step."""

import json
import os
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from easyrlhf.errors import InputError
from easyrlhf.tools.resumable import append

Key = tuple


class Journal:
    """Records by key in a .jsonl file, to which every addition is appended, on disk when `add` returns.

    A later line of the same key adds its fields to the record. Half a line at the end, which a killed process left, is
    cut off. Threads may add at the same time.

    records  key -> fields
    """

    def __init__(self, file: Path, key: tuple[str, ...]):
        self.file, self.key = file, key
        self.records: dict[Key, dict[str, Any]] = {}
        self._lock = threading.Lock()
        self._read()

    def add(self, rows: Iterable[dict[str, Any]]) -> None:
        """Add rows, each with the fields of the key. Raises RunError when the disk does not take them."""
        rows = list(rows)
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode(errors="surrogatepass")
        with self._lock:
            append(self.file, lines)
            for row in rows:
                self._merge(row)

    def missing(self, keys: Iterable[Key], field: str) -> list[Key]:
        """Those of the keys whose record has no such field yet."""
        return [key for key in keys if field not in self.records.get(key, {})]

    def _merge(self, row: dict[str, Any]) -> None:
        key = tuple(row[name] for name in self.key)
        self.records.setdefault(key, {}).update({name: row[name] for name in row if name not in self.key})

    def _read(self) -> None:
        """Take back what is in the file. Raises InputError for a line that was not written here."""
        if not self.file.exists():
            return
        data = self.file.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            try:
                self._merge(json.loads(line.decode(errors="surrogatepass")))
            except (ValueError, KeyError, TypeError) as error:
                raise InputError(
                    f"{self.file}:{number}: is not as this command wrote it; delete the line, or give --overwrite to "
                    "begin anew"
                ) from error
        if len(whole) < len(data):
            os.truncate(self.file, len(whole))
