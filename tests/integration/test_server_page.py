"""The built-in page in a browser."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlencode

import httpx
import pytest

from neuronbert import StaticShape
from tests.support.serving import served

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CONTEXT = "It was Ada who wrote it. <b>Nobody</b> else."


def opened(url: str, tmp_path: Path, **asked: str) -> dict[str, str]:
    """What stands in the page's elements once it has been answered, by their ids."""
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}"]
    command += ["--virtual-time-budget=5000", "--dump-dom", f"{url}/#{urlencode(asked)}"]
    page = subprocess.run(map(str, command), capture_output=True, text=True, check=True, timeout=120).stdout
    return dict(re.findall(r'<(?:p|pre|dd) id="([\w-]+)"[^>]*>(.*?)</(?:p|pre|dd)>', page, flags=re.DOTALL))


@pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")
def test_a_model_answers_in_the_browser(exported: Callable[..., Path], tmp_path: Path) -> None:
    shape = StaticShape(4, 48)
    tasks = {"embed": "sentence-embedding", "ask": "question-answering"}
    with served({name: exported(task, shape) for name, task in tasks.items()}) as (url, _):
        shown = opened(url, tmp_path, model="ask", text="Who?", context=CONTEXT)
        expected = httpx.post(f"{url}/models/ask", json={"inputs": {"question": "Who?", "context": CONTEXT}}).json()
        assert shown["took"].startswith("200, ")
        for bracket, written in {"<": "&lt;", ">": "&gt;"}.items():
            expected["answer"] = expected["answer"].replace(bracket, written)  # shown, and not obeyed
        assert f'"answer": "{expected["answer"]}"' in shown["answer"]
        assert shown["waiting"] == "0"
        assert float(shown["rate"]) >= 0


def test_only_browsers_get_it(exported: Callable[..., Path]) -> None:
    with served({"one": exported("sentence-embedding", StaticShape(4, 16))}, api_key="s3cret") as (url, _):
        page = httpx.get(url, headers={"accept": "text/html,*/*"})
        assert page.headers["content-type"].startswith("text/html")
        assert "connect-src 'self'" in page.headers["content-security-policy"]
        assert (httpx.get(url).status_code, httpx.get(url).content) == (200, b"")
