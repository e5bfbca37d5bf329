"""The files of a server's page: its own, and those that all pages share. Only their names lead to them."""

from pathlib import Path

from starlette.exceptions import HTTPException
from starlette.responses import Response

SHARED = Path(__file__).parent / "page"  # how elements are made, and the look that pages have in common
THEME = Path(__file__).parents[1] / "report" / "page" / "theme.css"  # colours and type, as reports have them
KINDS = {".html": "text/html", ".js": "text/javascript", ".css": "text/css"}


def files_of(page: Path) -> dict[str, Path]:
    """Name → file of all that a page may load; `page` is the folder of its own ones."""
    files = [*SHARED.iterdir(), THEME, *page.iterdir()]
    return {file.name: file for file in files if file.suffix in KINDS}


def page_file(page: Path, name: str) -> Response:
    """A file by its name. Raises HTTPException 404 for all others."""
    file = files_of(page).get(name)
    if file is None:
        raise HTTPException(404)
    return Response(file.read_bytes(), media_type=KINDS[file.suffix])
