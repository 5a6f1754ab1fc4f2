// News for the page that is open. One stream serves all pages of a browser: the page that has the lock listens, and passes on what it
// hears. Whatever is shown is set as text.
"use strict";

const channel = new BroadcastChannel("streamlab-news");

function live(kind, of) {
  return [...document.querySelectorAll(`[data-live="${kind}"]`)].filter((e) => (e.dataset.of ?? "") === (of ?? ""));
}

function rate(value) {
  return value === null ? "–" : value.toFixed(1);
}

function show(news) {
  live("at").forEach((e) => { e.textContent = news.at; });
  live("problem").forEach((e) => {
    e.hidden = news.problem === null;
    e.textContent = news.problem === null ? "" : `Kafka does not answer: ${news.problem}`;
  });
  let all = null;
  for (const [topic, [, offsets, perSecond]] of Object.entries(news.topics)) {
    live("offsets", topic).forEach((e) => { e.textContent = offsets; });
    live("rate", topic).forEach((e) => { e.textContent = rate(perSecond); });
    if (perSecond !== null) all = (all ?? 0) + perSecond;
  }
  live("rate").forEach((e) => { e.textContent = rate(all); });
  // Of several topics together.
  document.querySelectorAll('[data-live="rates"]').forEach((e) => {
    const known = e.dataset.of.split(",").map((topic) => news.topics[topic]?.[2] ?? null).filter((perSecond) => perSecond !== null);
    if (known.length > 0) e.textContent = `${rate(known.reduce((sum, one) => sum + one, 0))}/s`;
  });
  for (const [group, lag] of Object.entries(news.groups)) {
    live("lag", group).forEach((e) => { e.textContent = lag; });
  }
  live("firing").forEach((e) => {
    e.hidden = news.firing === 0;
    e.textContent = String(news.firing);
  });
  // Alerts and services change as a whole, and seldom: the page is made anew. Who is at something on it is told, and keeps his place.
  const marked = document.querySelector("[data-mark]");
  if (marked && marked.dataset.mark !== news.mark && !changing) {
    if (inUse()) {
      live("changed").forEach((e) => { e.hidden = false; });
    } else {
      changing = true;
      location.reload();
    }
  }
  follow(news);
}

function inUse() {
  return document.querySelector("main").contains(document.activeElement) || !getSelection().isCollapsed;
}

// What only a page of this console may send. The answer, or an error with the reason.
async function post(address, body) {
  const headers = {
    "content-type": "application/json",
    "x-streamlab-token": document.querySelector("meta[name=token]").content,
  };
  const answer = await fetch(address, { method: "POST", headers, body });
  const text = await answer.text();
  let found = {};
  try {
    found = JSON.parse(text);
  } catch {
    found.error = text;
  }
  if (!answer.ok) throw new Error(found.error);
  return found;
}

// Buttons that change something. While one of them is at work, or the page is about to be made anew, none takes a click.
let changing = false;
document.querySelectorAll("[data-change]").forEach((button) => {
  button.addEventListener("click", async () => {
    if (changing) return;
    changing = true;
    button.disabled = true;
    try {
      await post(button.dataset.change, button.dataset.body);
      location.reload();
    } catch (error) {
      const failed = document.querySelector("[data-failed]");
      failed.textContent = error.message;
      failed.hidden = false;
      button.disabled = false;
      changing = false;
    }
  });
});

// A schema that somebody would like to register.
document.querySelectorAll("form[data-try]").forEach((form) => {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const said = form.querySelector("[data-answer]");
    try {
      const found = await post(form.dataset.try, JSON.stringify({ schema: form.elements.schema.value }));
      said.textContent = found.compatible ? "Yes: it is compatible." : `No: ${found.messages.join("; ")}`;
    } catch (error) {
      said.textContent = `It cannot be asked: ${error.message}`;
    }
  });
});

// The records that come, where somebody wants to see them.
const button = document.querySelector("[data-follow]");
const most = 500;
let address = null;
let seen = null;
let asking = false;

function cell(text, className) {
  const cell = document.createElement("td");
  if (className) cell.className = className;
  if (text !== undefined) cell.textContent = text;
  return cell;
}

function part(value) {
  const of = cell();
  const words = { null: "null", empty: "empty", binary: "binary" };
  if (words[value.kind]) {
    const badge = document.createElement("span");
    badge.className = "badge";
    badge.textContent = words[value.kind];
    of.append(badge);
  }
  if (value.text) {
    const code = document.createElement("code");
    code.textContent = value.text.length > 300 || !value.whole ? `${value.text.slice(0, 300)}…` : value.text;
    of.append(code);
  }
  return of;
}

function row(topic, message) {
  const row = document.createElement("tr");
  row.className = "new";
  const offset = cell(undefined, "number");
  const link = document.createElement("a");
  link.href = `/topics/${encodeURIComponent(topic)}/${message.partition}/${message.offset}`;
  link.textContent = message.offset;
  offset.append(link);
  const at = cell();
  const time = document.createElement("time");
  time.textContent = message.timestamp ?? "none";
  at.append(time);
  row.append(cell(String(message.partition), "number"), offset, at, part(message.key), part(message.value));
  return row;
}

async function follow(news) {
  if (!button || button.getAttribute("aria-pressed") !== "true" || asking) return;
  const topic = button.dataset.topic;
  const written = news.topics[topic]?.[0];
  const said = document.querySelector("[data-news]");
  if (written === undefined) {
    said.textContent = "The topic is not there any more.";
    return;
  }
  if (written === seen) return;
  asking = true;
  try {
    const answer = await fetch(address);
    const found = await answer.json();
    if (!answer.ok) {
      said.textContent = found.error;
      return;
    }
    const table = document.querySelector("[data-records]");
    table.querySelectorAll(".new").forEach((old) => old.classList.remove("new"));
    for (const message of found.messages) table.prepend(row(topic, message));
    while (table.rows.length > most) table.deleteRow(-1);
    const query = new URLSearchParams(address.split("?")[1]);
    query.set("from", found.next);
    address = `${address.split("?")[0]}?${query}`;
    // There was more than fits into one answer: the next news bring it.
    if (found.stopped === "end") seen = written;
    said.textContent = `${found.messages.length} new`;
  } catch (error) {
    said.textContent = `No answer: ${error.message}`;
  } finally {
    asking = false;
  }
}

if (button) {
  button.hidden = false;
  address = button.dataset.follow;
  button.addEventListener("click", () => {
    const on = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(on));
    button.textContent = on ? "Stop" : "Show what comes";
  });
}

channel.addEventListener("message", (event) => show(event.data));

// Held until this page goes: then another page of this browser listens. A stream that is refused is asked for again, by whoever waits.
function listen() {
  navigator.locks.request("streamlab-news", () => new Promise((done) => {
    const stream = new EventSource("/api/stream");
    stream.addEventListener("message", (event) => {
      const news = JSON.parse(event.data);
      channel.postMessage(news);
      show(news);
    });
    stream.addEventListener("error", () => {
      if (stream.readyState === EventSource.CLOSED) setTimeout(done, 5000);
    });
  })).then(listen);
}
listen();
