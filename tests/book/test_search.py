"""What a reader looks for is found first; every page says what it is to others; an address that is not there has a page."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from bs4 import BeautifulSoup

from book_search import plain
from build import pages
from conftest import ROOT
from numbered import ROWS

PAGES = pages(ROOT / "_toc.yml")


def index_of(built_book) -> list[dict]:
    text = (built_book / "search-index.js").read_text(encoding="utf-8")
    return json.loads(text.removeprefix("window.searchIndex=").rstrip(";\n"))


@pytest.fixture(scope="module")
def search(chromium, site):
    page = chromium.new_page()
    page.goto(f"{site}search.html")
    yield lambda words: page.evaluate("words => window.quantizedTraining.search(words)", words)
    page.close()


@pytest.mark.parametrize(
    ("words", "title", "address"),
    [
        ("Theorem 3", r"^Theorem 3\b", None),
        ("thm 3", r"^Theorem 3\b", None),
        ("eq 19", r"^Equation \(19\)", "notebooks/04_askewsgd.html#eq-19"),
        ("equation (20)", r"^Equation \(20\)", "#eq-20"),
        ("ResNet", None, "notebooks/09_task_3_vision.html"),
        ("CIFAR-10", None, "notebooks/09_task_3_vision.html"),
        ("Task III", None, "notebooks/09_task_3_vision.html"),
        ("QAT", None, "notebooks/"),
        ("learning rate", None, "notebooks/"),
        ("figure 7.2", r"^Figure 7\.2", "notebooks/07_task_1_logistic.html#fig-"),
        ("quantization", None, "notebooks/"),  # the book writes quantisation
    ],
)
def test_the_first_result_is_what_one_looks_for(search, words, title, address):
    first = search(words)[0]
    assert title is None or re.search(title, first["title"]), first["title"]
    assert address is None or address in first["url"], first["url"]


def test_words_are_not_found_within_others(search):
    assert not any("SLSQP" in entry["title"] for entry in search("LSQ"))
    assert search("xyzzy") == []


def test_results_lead_somewhere_and_show_no_tex(search, built_book):
    entries = {(e["url"], e["text"]) for words in ("theorem", "ε", "step", "method") for e in search(words)}
    files = {}
    for url, text in entries:
        name, _, anchor = url.partition("#")
        files[name] = files.get(name) or (built_book / name).read_text(encoding="utf-8")
        assert not anchor or f'id="{anchor}"' in files[name], url
        assert not re.search(r"\\[a-z]{2,}", text), text


def test_the_page_lists_what_is_found(chromium, site):
    page = chromium.new_page()
    page.goto(f"{site}search.html?q=Theorem+3")
    page.wait_for_selector("#search-results li a")
    assert page.query_selector("#search-results li a").inner_text().startswith("Theorem 3")
    assert "“Theorem 3”" in page.query_selector("#search-results [role=status]").inner_text()
    page.close()


def test_the_index_holds_what_a_page_shows(built_book):
    """No markup, and no name of a place or of a citation in place of its words."""
    names = {row["see"] for row in ROWS.values()}
    names |= set(re.findall(r"^@\w+\{([^,]+),", (ROOT / "book" / "references.bib").read_text(encoding="utf-8"), re.M))
    markup = re.compile(r"\{\{|&#?\w+;|`|\\[a-zA-Z]|\$|<[a-z]+-[a-z]+>|(?<![^\s(,])[_^]|[_^](?![^\s_^,.;:)=<>≤≥\]|])")
    found = {}
    for entry in index_of(built_book):
        for text in (entry["title"], entry["text"], entry["page"]):
            if bad := markup.search(text) or next(
                (n for n in names if re.search(rf"(?<![\w/-]){n}(?![\w-])", text)), None
            ):
                found[entry["title"], entry["url"]] = bad
        assert entry["kind"] != "figure" or len(entry["title"]) < 100, entry["title"]
    assert found == {}


@pytest.mark.parametrize(
    ("tex", "words"),
    [
        (r"\psi_{\varepsilon}(w)\le\alpha", "ψ_ε(w)≤α"),
        (r"\tfrac12x^\top x", "1/2x x"),
        (r"\varepsilon<\Delta_{\min}^2/4", "ε<Δ_min^2/4"),
        (r"(2,2\,\_", "(2,2"),
    ],
)
def test_tex_becomes_words(tex, words):
    assert plain(tex) == words


@pytest.mark.parametrize("name", PAGES)
def test_every_page_says_what_it_is(built_book, name):
    page = BeautifulSoup((built_book / f"{name}.html").read_text(encoding="utf-8"), "html.parser")
    said = {m.get("name") or m.get("property"): m["content"] for m in page.find_all("meta", content=True)}
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert 40 < len(said["description"]) <= 200 and "\\" not in said["description"]
    assert said["citation_title"].endswith(citation["title"])
    assert said["citation_author"] == citation["authors"][0]["name"]
    assert said["og:title"] == page.find("h1").find(string=True)
    image = said["og:image"].replace("../", "")
    assert (built_book / image).is_file() or image.startswith("https://")


def test_descriptions_differ(built_book):
    found = [
        re.search('name="description" content="([^"]+)"', (built_book / f"{p}.html").read_text(encoding="utf-8"))[1]
        for p in PAGES
    ]
    assert len(set(found)) == len(found)


def test_an_address_that_is_not_there(built_book, chromium, site):
    page = BeautifulSoup((built_book / "404.html").read_text(encoding="utf-8"), "html.parser")
    assert "This page is not here" in [h.text for h in page.find_all("h1")] and page.find("base")
    for link in page.select("main a[href]"):
        assert link["href"].startswith("#") or (built_book / link["href"].split("#")[0]).is_file(), link
    assert page.find("form", action="search.html")


def test_citations_carry_their_years_in_the_bibliography(built_book):
    page = BeautifulSoup((built_book / "book/bibliography.html").read_text(encoding="utf-8"), "html.parser")
    labels = [label.get_text().strip("[]") for label in page.select(".citation .label")]
    assert len(labels) > 20 and all(re.search(r", (\d{4}|n\.d\.)$", label) for label in labels), labels


def test_the_index_is_no_larger_than_need_be(built_book):
    assert (built_book / "search-index.js").stat().st_size < 2_000_000
    assert {e["kind"] for e in index_of(built_book)} == {"page", "section", "equation", "figure", "statement"}
