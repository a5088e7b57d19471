/* Ranks the entries of search-index.js (book/_ext/book_search.py) for the words after ?q= and lists them. */
(() => {
  "use strict";
  const MOST = 40;
  const SAME = [ // spellings and abbreviations of one thing
    [/\b(eqn?|equation)s?\.?\b/g, "equation"], [/\bthm\b/g, "theorem"], [/\b(fig|figure)\.?(?= ?\d)/g, "figure"],
    [/is(e|ed|es|er|ers|ing|ation)\b/g, "iz$1"], [/\bqat\b/g, "quantization-aware training"], [/\bste\b/g, "straight-through"],
    [/\b(lr|step size)s?\b/g, "learning rate"],
  ];
  /** Lower case, one spelling, words only: "Eq. (19)" is "equation 19". */
  const normal = (text) => {
    let result = text.toLowerCase();
    for (const [from, to] of SAME) result = result.replace(from, to);
    return result.replace(/[^\p{L}\p{N}′″⋆]+/gu, " ").trim();
  };

  const count = (words, term, whole) => (whole ? words.filter((word) => word === term) : words.filter((word) => word.startsWith(term))).length;
  const within = (text, phrase) => ` ${text} `.includes(` ${phrase} `);
  const KIND = { page: 6, statement: 4, equation: 4, section: 3, figure: 0 };

  /** 0 when some word is nowhere; titles count most, then keywords, then how often the words occur. */
  function score(entry, query) {
    const terms = query.split(" ");
    const { title, text, keywords, page } = entry.normal;
    const words = { title: title.split(" "), text: text.split(" "), page: page.split(" "), keywords: keywords.join(" ").split(" ") };
    let total = KIND[entry.kind];
    for (const term of terms) {
      const best = Math.max(
        ...[true, false].flatMap((whole) => [
          count(words.title, term, whole) ? (whole ? 20 : 8) : 0,
          count(words.keywords, term, whole) ? (whole ? 18 : 6) : 0,
          Math.min(5, count(words.text, term, whole)) * (whole ? 2 : 0.5),
          count(words.page, term, whole) ? 1 : 0,
        ]),
      );
      if (!best) return 0;
      total += best / terms.length;
    }
    if (title === query) total += 60;
    else if (title.startsWith(`${query} `)) total += 50;
    else if (within(title, query)) total += 30;
    if (keywords.includes(query)) total += 55; // more than a title that begins so
    if (within(text, query)) total += 6;
    return total;
  }

  function snippet(text, terms) {
    const places = terms.map((term) => text.toLowerCase().search(new RegExp(`(?<![\\p{L}\\p{N}])${term}`, "u"))).filter((at) => at >= 0);
    const at = Math.max(0, Math.min(...places, text.length) - 80), start = places.length ? at : 0;
    const cut = start ? text.indexOf(" ", start) + 1 : 0;
    return (cut ? "… " : "") + text.slice(cut, cut + 220).replace(/\s\S*$/, "") + (text.length > cut + 220 ? " …" : "");
  }

  function search(words) {
    const query = normal(words);
    if (!query) return [];
    for (const entry of window.searchIndex)
      entry.normal ??= { title: normal(entry.title), text: normal(entry.text), page: normal(entry.page), keywords: (entry.keywords ?? "").split(",").map(normal) };
    const ranked = window.searchIndex.map((entry) => ({ entry, points: score(entry, query) })).filter(({ points }) => points > 0);
    const seen = new Set(); // one line for each place
    return ranked.sort((a, b) => b.points - a.points).map(({ entry }) => entry)
      .filter(({ url, title }) => !seen.has(url + title) && seen.add(url + title)).slice(0, MOST);
  }
  window.quantizedTraining = { ...window.quantizedTraining, search };

  document.addEventListener("DOMContentLoaded", () => {
    const box = document.getElementById("search-results");
    if (!box) return;
    const words = new URLSearchParams(location.search).get("q") ?? "";
    for (const input of document.querySelectorAll("form.bd-search input")) input.value = words;
    if (!words.trim()) return;
    const results = search(words), list = document.createElement("ul");
    list.className = "search";
    for (const { title, url, page, text, kind } of results) {
      const line = document.createElement("li"), link = document.createElement("a"), place = document.createElement("span"), context = document.createElement("p");
      link.href = url;
      link.textContent = title;
      place.className = "search-place";
      place.textContent = kind === "page" ? "" : ` in ${page}`;
      context.className = "context";
      context.textContent = snippet(text, normal(words).split(" "));
      line.append(link, place, context);
      list.append(line);
    }
    const found = document.createElement("p");
    found.setAttribute("role", "status");
    found.textContent = results.length ? `${results.length === MOST ? "The best " : ""}${results.length} for “${words}”` : `Nothing for “${words}”. Fewer or other words may help.`;
    box.replaceChildren(found, list);
  });
})();
