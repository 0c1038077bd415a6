// The page: shows what the server says, and steers. Whatever comes from outside becomes text, never markup.
"use strict";

const byId = (id) => document.getElementById(id);
const KEPT_EVENTS = 200;
let role = null;
let skew = 0; // the server's clock minus ours, in milliseconds
let source = null;
let retry = null;
let waiting = []; // events that the next frame shows
let drawn = false;
let shown = null; // what the server said last

// ---- making and keeping elements

function make(tag, name, ...children) {
  const element = document.createElement(tag);
  if (name) element.className = name;
  element.append(...children);
  return element;
}

function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// Keeps one element per item, so that the focus and a reader's place survive an update.
function keep(parent, items, keyOf, create, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let before = null;
  for (const item of items) {
    const key = keyOf(item);
    let element = known.get(key);
    if (!element) {
      element = create(item);
      element.dataset.key = key;
    }
    known.delete(key);
    const place = before ? before.nextSibling : parent.firstChild;
    if (element !== place) parent.insertBefore(element, place);
    update(element, item);
    before = element;
  }
  for (const gone of known.values()) {
    if (gone.contains(document.activeElement)) byId("main").focus({ preventScroll: true });
    gone.remove();
  }
}

const part = (element, name) => element.querySelector(`[data-part="${name}"]`);

function slot(tag, name, cls) {
  const element = make(tag, cls);
  element.dataset.part = name;
  return element;
}

// ---- words

const now = () => Date.now() + skew;
const clock = (iso) => new Date(iso).toLocaleTimeString([], { hour12: false });

function span(ms) {
  const seconds = Math.max(0, Math.round(ms / 1000));
  const parts = seconds < 60 ? `${seconds} s`
    : seconds < 3600 ? `${Math.floor(seconds / 60)} min ${seconds % 60} s`
    : seconds < 86400 ? `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`
    : `${Math.floor(seconds / 86400)} d ${Math.floor((seconds % 86400) / 3600)} h`;
  return parts.replaceAll(" ", "\u00a0"); // a number stays with its unit
}

function sinceText(one) {
  const at = new Date(one.since);
  const day = now() - at > 72000000 ? `${at.toLocaleDateString()} ` : "";
  return `${day}${clock(one.since)} (${span(now() - at)} ago)`;
}

function untilText(one) {
  if (one.standing === "isolated") return "somebody resets it";
  if (one.standing === "hanging") return "an answer comes; one call a second tries";
  if (one.standing === "probing") return "its probes have worked; they run now";
  if (!one.until) return "its provider is back";
  const left = Date.parse(one.until) - now();
  return left > 0 ? `${clock(one.until)}, then a probe (in ${span(left)})` : "the next request, which is its probe";
}

function insteadText(one) {
  if (!one.instead.length) return "it is in no route";
  const routes = new Map(); // who serves instead -> where
  for (const place of one.instead) routes.set(place.target, [...(routes.get(place.target) || []), place.route]);
  return [...routes].map(([target, names]) => {
    const where = names.length > 1 ? `routes ${names.join(", ")}` : `route ${names[0]}`;
    if (target === null && one.eligible) return `nobody else (${where})`;
    return target === null ? `nobody: ${where} ${names.length > 1 ? "are" : "is"} down` : `${target} (${where})`;
  }).join("; ");
}

const ms = (value) => value === null || value === undefined ? "–" : value < 1000 ? `${Math.round(value)} ms` : `${(value / 1000).toFixed(1)} s`;
const capital = (text) => text ? text[0].toUpperCase() + text.slice(1) : "";
const plain = (word) => String(word ?? "").replaceAll("_", " ");
const failedShare = (traffic) => {
  const all = traffic.completed + traffic.failed;
  if (!all) return "–";
  return traffic.failed ? `${Math.max(0.1, 100 * traffic.failed / all).toFixed(1)} %` : "0 %";
};

// ---- drawing

function draw(doc) {
  shown = doc;
  skew = Date.parse(doc.at) - Date.now();
  const headline = byId("headline");
  headline.className = `headline ${doc.headline.tone}`;
  say(headline, doc.headline.text);
  byId("fleet-trouble").hidden = !doc.fleet_trouble;
  say(byId("fleet-trouble"), doc.fleet_trouble || "");
  document.title = doc.headline.tone === "good" ? "resilience" : `(!) ${doc.headline.text}`;
  const out = doc.breakers.filter((one) => !["working", "with_provider"].includes(one.standing));
  const providers = new Set(out.filter((one) => one.kind === "provider").map((one) => one.name));
  // A target that went out with its provider is told on the provider's card.
  const trouble = out.filter((one) => one.kind === "provider" || one.standing === "isolated" || !providers.has(one.provider));
  for (const one of trouble) one.along = one.kind === "provider" ? doc.breakers.filter((other) => other.kind === "target" && other.provider === one.name).map((other) => other.name) : [];
  byId("trouble-part").hidden = !trouble.length;
  keep(byId("trouble"), trouble, keyOf, createTrouble, updateTrouble);
  keep(byId("routes"), doc.routes, (route) => route.name, createRoute, updateRoute);
  drawBreakers(doc.breakers);
  say(byId("hidden"), doc.hidden_targets ? `${doc.hidden_targets} more targets of callers' own keys work and are not shown.` : "");
  if (!drawn) {
    drawn = true;
    performance.mark("drawn");
  }
}

const keyOf = (one) => `${one.kind}/${one.name}`;

function fact(list, name, label) {
  list.append(make("dt", "", label), slot("dd", name));
}

function createTrouble(one) {
  const facts = make("dl", "facts");
  fact(facts, "since", "since");
  fact(facts, "until", "until");
  fact(facts, "instead", "instead");
  if (one.kind === "provider") fact(facts, "along", "targets");
  return make("article", "", make("div", "top", slot("h3", "name"), slot("span", "word")), slot("p", "why", "why"), facts, actions(one));
}

function updateTrouble(card, one) {
  card.className = `card trouble ${one.standing}`;
  say(part(card, "name"), `${one.kind === "provider" ? "Provider" : "Target"} ${one.name}`);
  setWord(part(card, "word"), one);
  say(part(card, "why"), capital(one.why));
  updateTimes(card, one);
  say(part(card, "instead"), insteadText(one));
  if (one.kind === "provider") say(part(card, "along"), one.along.join(", ") || "none");
  updateActions(card, one);
}

function updateTimes(card, one) {
  card.times = one;
  say(part(card, "since"), sinceText(one));
  say(part(card, "until"), untilText(one));
}

function setWord(element, one) {
  element.className = `word ${one.standing}`;
  say(element, one.shadow ? `${one.word} (shadow)` : one.word);
}

function createRoute() {
  const numbers = make("p", "numbers");
  for (const [name, label] of [["rate", "requests a second"], ["failed", "failed"], ["p50", "median"], ["p95", "slowest 5 %"], ["active", "now running"]]) {
    const figure = make("span", name, slot("b", name), ` ${label}`);
    numbers.append(figure);
  }
  return make("article", "card", make("div", "top", slot("h3", "name"), slot("span", "word")), slot("p", "serving"), slot("ol", "walk", "walk"), numbers);
}

function updateRoute(card, route) {
  say(part(card, "name"), route.name);
  const up = Boolean(route.serving);
  const word = part(card, "word");
  word.className = `word ${up ? "working" : "out"}`;
  say(word, up ? "served" : "down");
  say(part(card, "serving"), up ? `${route.serving} answers now.` : "No target can answer.");
  keep(part(card, "walk"), route.targets, (one) => one.name, () => make("li", "", document.createElement("span")), (item, one) => {
    const label = item.firstChild;
    label.className = one.serving ? "serving" : one.eligible ? "" : "gone";
    say(label, one.name);
    item.setAttribute("aria-label", `${one.name}: ${one.serving ? "answers now" : one.eligible ? "stands by" : "out"}`);
  });
  const felt = route.requests || { completed: 0, failed: 0, per_second: 0, active: 0, p50_ms: null, p95_ms: null };
  say(part(card, "rate"), String(felt.per_second));
  say(part(card, "failed"), failedShare(felt));
  card.querySelector(".failed, .calm").className = felt.failed ? "failed" : "calm";
  say(part(card, "p50"), ms(felt.p50_ms));
  say(part(card, "p95"), ms(felt.p95_ms));
  say(part(card, "active"), String(felt.active));
}

function drawBreakers(breakers) {
  const place = byId("breakers");
  if (!place.firstChild) {
    const head = make("tr");
    for (const [name, cls] of [["Name", ""], ["State", ""], ["Calls, last minute", "number"], ["Failed", "number"], ["Slowest\u00a05\u00a0%", "number"], ["Went out", "number"], ["Steer", "act"]]) {
      const cell = make("th", cls, name);
      cell.scope = "col";
      head.append(cell);
    }
    place.append(make("table", "", make("caption", "", "A provider is what fails together; a target is one model at it, with its own circuit."), make("thead", "", head), make("tbody")));
  }
  const providers = breakers.filter((one) => one.kind === "provider");
  const ordered = providers.flatMap((provider) => [provider, ...breakers.filter((one) => one.kind === "target" && one.provider === provider.name)]);
  keep(place.querySelector("tbody"), ordered, keyOf, createRow, updateRow);
}

function createRow(one) {
  const name = make("th", "", slot("span", "name"));
  name.scope = "row";
  const state = make("td", "", slot("span", "word"), slot("span", "why", "small"));
  const row = make("tr", one.kind, name, state);
  for (const [key, label] of [["calls", "calls, last minute"], ["failed", "failed"], ["p95", "slowest 5 %"], ["opens", "went out"]]) {
    const cell = slot("td", key, "number");
    cell.dataset.name = label;
    row.append(cell);
  }
  row.append(make("td", "act", actions(one)));
  return row;
}

function updateRow(row, one) {
  say(part(row, "name"), one.name);
  setWord(part(row, "word"), one);
  say(part(row, "why"), capital(one.why));
  const traffic = one.traffic;
  say(part(row, "calls"), traffic ? String(traffic.completed + traffic.failed) : one.kind === "target" ? "0" : "");
  say(part(row, "failed"), traffic ? failedShare(traffic) : one.kind === "target" ? "–" : "");
  say(part(row, "p95"), traffic ? ms(traffic.p95_ms) : one.kind === "target" ? "–" : "");
  say(part(row, "opens"), `${one.opens + one.holds} ×`);
  updateActions(row, one);
}

// ---- steering

function actions(one) {
  const row = make("div", "row");
  for (const [what, label] of [["isolate", "Isolate"], ["reset", "Reset"]]) {
    const button = slot("button", what, "quiet");
    button.type = "button";
    button.textContent = label;
    button.setAttribute("aria-label", `${label} ${one.kind} ${one.name}`);
    button.addEventListener("click", () => ask(what, one.kind, one.name));
    row.append(button);
  }
  return row;
}

function updateActions(element, one) {
  const [isolate, reset] = [part(element, "isolate"), part(element, "reset")];
  const focused = document.activeElement;
  isolate.hidden = role !== "admin" || one.standing === "isolated";
  reset.hidden = role !== "admin" || one.state === "closed";
  if (focused === isolate && isolate.hidden) reset.focus(); // the keyboard stays where it was
  if (focused === reset && reset.hidden) isolate.focus();
}

// What isolating does to users: the routes that nobody else can serve go down.
function withoutIt(kind, name) {
  const mine = (one) => one[kind === "provider" ? "provider" : "name"] === name;
  const routes = shown.routes.filter((route) => route.targets.some(mine));
  const down = routes.filter((route) => !route.targets.some((one) => one.eligible && !mine(one))).map((route) => route.name);
  if (down.length) return `Nobody else can serve ${down.join(", ")} now: requests there will find nobody.`;
  return routes.length ? "Its routes go on with their other targets." : "";
}

function ask(what, kind, name) {
  const dialog = byId("ask");
  const isolating = what === "isolate";
  byId("ask-title").textContent = `${isolating ? "Isolate" : "Reset"} ${kind} ${name}?`;
  byId("ask-text").textContent = isolating
    ? `No request is sent there until somebody resets it. ${withoutIt(kind, name)}`
    : `Requests are sent there again at once${kind === "provider" ? ", to its targets too unless a person isolated them" : ""}. What counted against it is forgotten.`;
  byId("ask-why").hidden = !isolating;
  byId("reason").value = "";
  byId("ask-problem").textContent = "";
  byId("ask-yes").textContent = isolating ? "Isolate" : "Reset";
  dialog.querySelector("form").onsubmit = async (event) => {
    event.preventDefault();
    byId("ask-yes").disabled = true;
    const body = isolating && byId("reason").value.trim() ? { reason: byId("reason").value } : {};
    const path = name.split("/").map(encodeURIComponent).join("/");
    const problem = await send(`breakers/${kind}/${path}/${what}`, body);
    byId("ask-yes").disabled = false;
    if (problem) byId("ask-problem").textContent = problem;
    else dialog.close();
  };
  dialog.showModal();
}

async function send(path, body, method = "POST") {
  try {
    const answer = await fetch(path, { method, headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), credentials: "same-origin" });
    if (answer.ok) return "";
    return (await answer.json()).error || `the server answered ${answer.status}`;
  } catch {
    return "the server cannot be reached";
  }
}

// ---- what happened

const probed = new Set(); // breakers whose next opening is a failed probe

function openedBy(e) {
  if (probed.delete(e.breaker) && e.reason !== "rate_limited") return `the probe failed (${plain(e.kind || e.reason)})`;
  const kind = plain(e.kind || e.reason);
  if (e.reason === "consecutive_failures") return `${e.failures} failures in a row (${kind})`;
  if (e.reason === "failure_rate") return `${e.failures} of ${e.calls} calls failed (${kind})`;
  if (e.reason === "slow_call_rate") return `${e.failures} of ${e.calls} calls were slow`;
  return kind;
}

const SENTENCES = {
  "circuit.opened": (e) => ["bad", `${e.breaker} is out${probed.has(e.breaker) ? " again" : ""}: ${openedBy(e)}; open for ${span(1000 * e.open_seconds)}${e.shadow ? " (shadow: calls go on)" : ""}`],
  "circuit.half_opened": (e) => {
    probed.add(e.breaker);
    return ["", `${e.breaker} is being probed`];
  },
  "circuit.closed": (e) => {
    probed.delete(e.breaker);
    return ["good", `${e.breaker} works again (${plain(e.reason)}), after ${span(1000 * e.open_seconds)}`];
  },
  "circuit.isolated": (e) => ["held", `${e.breaker} was isolated by a person: ${e.reason || "no reason given"}`],
  "target.overdue": (e) => ["bad", `${e.target} hangs: ${e.in_flight} calls wait, the oldest for ${span(1000 * e.oldest_seconds)}`],
  "target.on_time": (e) => ["good", `${e.target} no longer hangs`],
  "stream.interrupted": (e) => ["bad", `a stream of ${e.target} broke off after ${e.delivered_chars} characters (${plain(e.kind)})`],
  "deadline.exceeded": (e) => ["bad", `a request of ${e.route ?? "no route"} ran out of time after ${e.attempts} attempts`],
  "attempt.succeeded": (e) => ["", `${e.target} answered in ${ms(1000 * e.latency_seconds)}`],
  "attempt.failed": (e) => ["bad", `${e.target} failed: ${plain(e.kind)}${e.status ? ` (${e.status})` : ""}`],
  "attempt.ignored": (e) => ["", `${e.target}: ${plain(e.kind)}${e.status ? ` (${e.status})` : ""}, says nothing about it`],
  "fallback.taken": (e) => ["", `${e.route ?? "a request"} moved from ${e.from_target} to ${e.to_target}${e.kind ? ` (${plain(e.kind)})` : ""}`],
  "permit.refused": (e) => ["", e.reason],
  "storage.degraded": (e) => ["bad", `the fleet's store is out of reach: ${e.reason}`],
  "storage.restored": () => ["good", "the fleet's store is back"],
};

function happened(event) {
  const told = SENTENCES[event.event];
  const [tone, text] = told ? told(event) : ["", plain(event.event.replace(".", " "))];
  const time = make("time", "", clock(event.at));
  time.dateTime = event.at;
  return make("li", "fresh", time, make("span", tone, text));
}

function later(element) {
  waiting.push(element);
  if (waiting.length > KEPT_EVENTS) waiting.shift();
  if (waiting.length === 1) requestAnimationFrame(showEvents);
}

function showEvents() {
  const list = byId("events");
  list.prepend(...waiting.reverse());
  waiting = [];
  while (list.children.length > KEPT_EVENTS) list.lastChild.remove();
}

// ---- the connection

function setLink(state, text) {
  const link = byId("link");
  link.className = `link ${state}`;
  say(link, text);
  byId("headline").classList.toggle("stale", state !== "live");
}

function again() {
  clearTimeout(retry);
  retry = setTimeout(start, 1000);
}

async function start() {
  clearTimeout(retry);
  if (source) source.close();
  let answer;
  try {
    answer = await fetch("status", { credentials: "same-origin", cache: "no-store" });
  } catch {
    setLink("lost", "no connection; what you see is old");
    again();
    return;
  }
  if (answer.status === 401) {
    setLink("", "not signed in");
    byId("view").hidden = true;
    byId("leave").hidden = true;
    byId("sign-in").hidden = false;
    byId("token").focus();
    return;
  }
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    setLink("lost", told.error || `the server answered ${answer.status}`);
    again();
    return;
  }
  const doc = await answer.json();
  role = doc.role;
  byId("sign-in").hidden = true;
  byId("leave").hidden = !doc.signed_in;
  byId("view").hidden = false;
  draw(doc);
  listen();
}

function listen() {
  byId("events").replaceChildren();
  probed.clear();
  source = new EventSource(`events?standing=1${byId("all").checked ? "" : "&only=changes"}`);
  source.onopen = () => setLink("live", "live");
  source.addEventListener("standing", (message) => draw(JSON.parse(message.data)));
  source.addEventListener("fact", (message) => later(happened(JSON.parse(message.data))));
  source.addEventListener("gap", () => later(make("li", "", make("span", "", "…"), make("span", "", "some events were missed"))));
  source.addEventListener("end", () => {
    source.close();
    setLink("lost", "the server is stopping");
    again();
  });
  source.onerror = () => {
    setLink("lost", "no connection; what you see is old");
    if (source.readyState === EventSource.CLOSED) again();
  };
}

byId("sign-in").addEventListener("submit", async (event) => {
  event.preventDefault();
  const problem = await send("session", { token: byId("token").value });
  say(byId("sign-in-problem"), problem);
  if (!problem) {
    byId("token").value = "";
    start();
  }
});
byId("leave").addEventListener("click", async () => {
  await send("session", {}, "DELETE");
  start();
});
byId("ask-no").addEventListener("click", () => byId("ask").close());
byId("all").addEventListener("change", () => {
  if (source) source.close();
  listen();
});
setInterval(() => {
  for (const card of byId("trouble").children) if (card.times) updateTimes(card, card.times);
}, 1000);
start();
