"""What the pages for readers say is run, what they lead to is there, and the site has every page."""

from __future__ import annotations

import os
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pages
import pytest
from pages import DOCS

RUN = [DOCS / "tutorial.md", *sorted((DOCS / "how-to").glob("*.md"))]
IN_SHORT = ("tutorial.md", "ci.md", "partial-load.md", "fine-tunes.md")
ALL = [*DOCS.rglob("*.md")]


def name_of(page: Path) -> str:
    return str(page.relative_to(DOCS))


@pytest.mark.parametrize("page", [page for page in RUN if page.name in IN_SHORT], ids=name_of)
def test_a_page_runs_as_it_stands_there(tmp_path: Path, page: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "model.safetensors").write_bytes(pages.small_model())

    printed = pages.run(page, tmp_path / "here")

    assert len(printed) >= 3


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """A server that speaks S3, with the bucket that pages name; what gets one into it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    request = urllib.request.Request(f"http://{host}:{port}/team-models", method="PUT")
    urllib.request.urlopen(request).close()
    access = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    yield access | {"AWS_ENDPOINT_URL": f"http://{host}:{port}"}
    server.stop()


@pytest.mark.deep
@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_a_page_runs_with_real_weights_and_prints_what_it_says(
    tmp_path: Path, page: Path, bucket: dict[str, str]
) -> None:
    if not pages.real_model().exists():
        pytest.skip("needs the weights that `make demo` fetches")
    (tmp_path / "here").mkdir()
    shutil.copyfile(pages.real_model(), tmp_path / "here" / "model.safetensors")

    printed = pages.run(page, tmp_path / "here", bucket)

    for block, output in zip(pages.blocks(page), printed, strict=True):
        assert not pages.missing_lines(block.expected, output), output


@pytest.mark.parametrize("page", ALL, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in pages.links(page):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        path, _, anchor = link.partition("#")
        target = Path(os.path.normpath(page.parent / path)) if path else page
        assert target.exists(), link
        assert not anchor or anchor in pages.anchors(target), link
