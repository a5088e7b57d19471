"""Repository, Colab, Binder and download buttons, and the .ipynb files they need; what of a notebook a page leaves out.

The repository's address is known only where the book is built: BOOK_REPOSITORY_URL, else GitHub's own variables, else
the git remote. Without one there are no such buttons. Launch buttons point to the branch `notebooks`, which publishing
fills with the .ipynb files (book/publish.py).
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from notebook_files import write_notebook

BRANCH = "notebooks"


def repository_url(root: Path) -> str:
    """The https address of the repository on GitHub or GitLab, or "" where there is none."""
    url = os.environ.get("BOOK_REPOSITORY_URL")
    if url is None and os.environ.get("GITHUB_REPOSITORY"):
        server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
        url = f"{server}/{os.environ['GITHUB_REPOSITORY']}"
    if url is None:
        command = ["git", "-C", str(root), "remote", "get-url", "origin"]
        try:
            url = subprocess.run(command, capture_output=True, text=True).stdout
        except FileNotFoundError:  # no git on this machine
            url = ""
    return normalised(url)


def normalised(url: str) -> str:
    """git@host:owner/name.git, ssh:// and https:// addresses as https://host/owner/name; "" for anything else."""
    match = re.fullmatch(
        r"(?:https?://(?:[^@/]*@)?|ssh://(?:[^@/]*@)?|[^@/:]+@)([^/:]+)(?::\d+)?[/:]([\w.-]+)/([\w.-]+?)(?:\.git)?/?",
        url.strip(),
    )
    if not match or not re.search("github|gitlab", match[1]):
        return ""
    return "https://{}/{}/{}".format(*match.groups())


def _configure(app, config) -> None:
    options = config.html_theme_options
    url = repository_url(Path(app.srcdir))
    if not url:
        for key in ("launch_buttons", "repository_url", "repository_branch", "path_to_docs"):
            options.pop(key, None)
        return
    options.update(
        repository_url=url,
        repository_provider="github" if "github" in url.split("/")[2] else "gitlab",
        repository_branch=BRANCH,
        path_to_docs="",
        use_repository_button=True,
        use_issues_button=True,
    )
    if options["repository_provider"] != "github":
        options["launch_buttons"].pop("colab_url", None)  # Colab opens notebooks from GitHub only


def _is_notebook(app, page: str) -> bool:
    return page in app.env.all_docs and "kernelspec" in app.env.metadata[page]


def _announce_download(app, page, template, context, doctree) -> None:
    if _is_notebook(app, page):
        context["ipynb_source"] = f"{page}.ipynb"  # the theme then shows a download button


def _fix_launch_links(app, page, template, context, doctree) -> None:
    """The theme links to the page's source file; the published branch holds it as .ipynb."""
    for group in context["header_buttons"]:
        if group.get("label") == "launch-buttons":
            for button in group["buttons"]:
                button["url"] = re.sub(r"\.md$", ".ipynb", button["url"])


def _write_downloads(app, exception) -> None:
    if exception or app.builder.format != "html":
        return
    root = Path(app.srcdir)
    for page in app.env.all_docs:
        if _is_notebook(app, page):
            target = Path(app.outdir) / "_sources" / f"{page}.ipynb"
            write_notebook(app.env.doc2path(page), target, repository_url(root), root)


def _hide_parameters(app, doctree) -> None:
    """The cell with the parameters is for papermill: the .ipynb has it, the page does not."""
    for cell in [*doctree.findall(lambda node: "tag_parameters" in getattr(node, "attributes", {}).get("classes", []))]:
        cell.parent.remove(cell)


def setup(app) -> dict:
    app.connect("config-inited", _configure)
    app.connect("doctree-read", _hide_parameters)
    app.connect("html-page-context", _announce_download, priority=499)  # before and
    app.connect("html-page-context", _fix_launch_links, priority=600)  # after the theme makes the buttons
    app.connect("build-finished", _write_downloads)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
