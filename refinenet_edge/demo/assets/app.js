// The page of the demo: figures come as server-sent events, what is changed goes back by POST.
"use strict";

const by = (id) => document.getElementById(id);
const MINUTE = 60000;
const STAGES = ["read", "wait", "segment", "draw", "encode"];
const history = []; // [time, age in ms]
const SEEN = 0.002; // share of the picture from which on a class is in it,
const GONE = 0.0005; // and below which it no longer is
const STILL = 3000; // ms that the classes keep their places for, after somebody pointed at them
const SETTLED = 700; // ms after which the figures say what was asked for
const requested = {}; // name: [value, when], asked for a moment ago
let shown = null; // the newest figures

// --- what is asked for: one POST at a time, so that the last one wins; while one is under way the next are joined

let waiting = null;
let asking = false;

async function change(asked) {
  for (const [name, value] of Object.entries(asked)) requested[name] = [value, Date.now()];
  waiting = { ...waiting, ...asked };
  render();
  if (asking) return;
  asking = true;
  while (waiting) {
    const body = JSON.stringify(waiting);
    waiting = null;
    try {
      const headers = { "Content-Type": "application/json" };
      const answer = await fetch("controls", { method: "POST", headers, body });
      if (!answer.ok) say(await answer.text());
    } catch {
      lost();
    }
  }
  asking = false;
}

// as it was asked for, or else as it is
function now(name) {
  const [value, at] = requested[name] ?? [null, 0];
  if (Date.now() < at + SETTLED) return value;
  if (name === "paused") return shown.state === "paused";
  return { ...shown.controls, ...shown.controls.style }[name];
}

function say(text) {
  by("message").textContent = text;
  by("message").hidden = !text;
}

function state(text) {
  by("state").textContent = text;
  by("state").dataset.state = text;
}

function lost() {
  state("connection lost");
  say(
    `${location.host} does not answer: the demo has ended, or the network to it is down. If it has ended, start it ` +
      "again: refinenet-edge demo (as a service: systemctl status refinenet-edge-demo). This page tries again every second.",
  );
}

// --- what comes from the demo

let events = null;

// a page that nobody sees asks for nothing: a browser has six connections to a host, for all its tabs
function look() {
  events?.close();
  events = null;
  if (document.hidden) {
    by("picture").removeAttribute("src");
    return;
  }
  by("picture").src = `stream?${Date.now()}`;
  events = new EventSource("figures");
  events.addEventListener("message", (event) => show(JSON.parse(event.data)));
  events.addEventListener("error", async (event) => {
    event.target.close();
    setTimeout(look, 1000);
    // after a restart with another token
    const answer = await fetch("icon.svg", { cache: "no-store" }).catch(() => null);
    if (!answer) lost();
    else if (answer.status === 401) {
      const why = await answer.text();
      state("not let in");
      say(why);
    }
  });
}
document.addEventListener("visibilitychange", look);

// --- the figures

const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

function show(figures) {
  shown = figures;
  say(figures.message);
  const { controls, playing, speed, score } = figures;
  by("running").textContent =
    `${playing.models[controls.model]} on ${playing.backend}, ${playing.sources[controls.source]}`;
  const some = speed.age_ms > 0; // a picture was shown
  by("fps").textContent = some ? number(speed.fps, 1) : "–";
  by("age").textContent = some ? number(speed.age_ms) : "–";
  by("p50").textContent = some ? number(speed.p50_ms, 1) : "–";
  by("p99").textContent = some ? number(speed.p99_ms, 1) : "–";
  by("drops").textContent = number(speed.drops);
  by("miou-tile").hidden = score === null;
  if (score !== null) {
    by("miou").textContent = number(100 * score.miou, 1);
    by("judged").textContent = score.frames === 1 ? "frame" : `${score.frames} frames`;
  }
  by("power-tile").hidden = figures.power_w === null;
  if (figures.power_w !== null) by("power").textContent = number(figures.power_w, 1);
  showCameras(figures);
  showAge(speed.age_ms, figures.state);
  showStages(speed.stages_ms);
  showClasses(figures.classes);
  render();
}

// the controls
function render() {
  if (!shown) return;
  const paused = now("paused");
  state(paused ? "paused" : shown.state === "paused" ? "live" : shown.state);
  by("paused").textContent = paused ? "Go on" : "Pause";
  for (const name of ["paused", "side_by_side"]) by(name).setAttribute("aria-pressed", String(now(name)));
  by("opacity").value = now("opacity");
  by("opacity-value").textContent = `${Math.round(100 * now("opacity"))} %`;
  choose("model", shown.playing.models);
  choose("source", shown.playing.sources);
  const hidden = new Set(now("hidden"));
  rows.forEach((row, i) => (row.firstChild.checked = !hidden.has(i)));
  showLegend(hidden);
}

function choose(name, names) {
  const list = by(name);
  if (list.options.length !== names.length || names.some((text, i) => list.options[i].text !== text)) {
    list.replaceChildren(...names.map((text, i) => new Option(text, i)));
    list.dataset.index = "";
  }
  // only when it changes: somebody may have the list open
  const index = now(name);
  if (list.dataset.index !== String(index)) list.selectedIndex = index;
  list.dataset.index = index;
}

// several cameras are one picture, which is cut: their tiles stand beside each other as there is place
function showCameras({ cameras, columns }) {
  const several = cameras.length > 1;
  const names = several ? cameras.map((camera) => camera.name) : [];
  const list = by("cameras");
  if (list.dataset.names !== names.join("\n")) {
    list.dataset.names = names.join("\n");
    list.hidden = !several;
    list.style.setProperty("--columns", columns);
    list.replaceChildren(...names.map(cameraTile));
    by("frame").classList.toggle("cut", several);
    by("age-of").textContent = by("ages-of").textContent = several ? "Oldest when shown" : "Age when shown";
    if (several) cut(columns);
  }
  [...list.children].forEach((item, i) => {
    item.dataset.state = cameras[i].state;
    item.querySelector("span").textContent = cameraText(cameras[i]);
  });
}

function cameraTile(name, place) {
  const item = document.createElement("li");
  const button = document.createElement("button");
  button.type = "button";
  button.title = `${name}: see it alone`;
  button.setAttribute("aria-label", button.title);
  button.append(document.createElement("canvas"), document.createElement("span"));
  button.addEventListener("click", () => change({ source: place + 1 })); // the first is all of them
  item.append(button);
  return item;
}

function cameraText({ state, why, age_ms, fps, share, drops }) {
  const since = age_ms ? ` for ${number(age_ms / 1000)} s` : "";
  if (state !== "live") return `${state}${state === "opening" ? "" : since}${why && `: ${why}`}`;
  return `${number(age_ms)} ms old, ${number(fps, 1)} fps, ${number(100 * share)} % of frames, ${number(drops)} dropped`;
}

function cut(columns) {
  const canvases = [...by("cameras").querySelectorAll("canvas")];
  if (!canvases.length) return;
  const picture = by("picture");
  const width = picture.naturalWidth / columns;
  const height = picture.naturalHeight / Math.ceil(canvases.length / columns);
  // a picture of one camera may still be on its way
  if (width && Math.abs(width / height - 16 / 9) < 0.1) {
    canvases.forEach((canvas, i) => {
      if (canvas.width !== Math.floor(width)) [canvas.width, canvas.height] = [width, height];
      const [left, top] = [(i % columns) * width, Math.floor(i / columns) * height];
      canvas.getContext("2d").drawImage(picture, left, top, width, height, 0, 0, canvas.width, canvas.height);
    });
  }
  requestAnimationFrame(() => cut(columns));
}

function showAge(age, state) {
  if (!age || state === "paused" || state === "opening") return;
  const now = Date.now();
  history.push([now, age]);
  while (history[0][0] < now - MINUTE) history.shift();
  const ages = history.map(([, age]) => age);
  const most = Math.max(...ages);
  const top = roundUp(most);
  by("line").setAttribute(
    "points",
    history.map(([at, age]) => `${240 - (240 * (now - at)) / MINUTE},${100 - (100 * age) / top}`).join(" "),
  );
  by("age-range").textContent = `${number(Math.min(...ages))} to ${number(most)}`;
  [top, top / 2, 0].forEach((age, i) => (by("heights").children[i].textContent = age.toLocaleString("en")));
}

// the next of 1, 2, 5, 10, 20 ..., so that the axis stays where it is for a while
function roundUp(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return power * [1, 2, 5, 10].find((digit) => digit * power >= value);
}

function showStages(stages) {
  const known = STAGES.filter((name) => name in stages);
  const all = known.reduce((sum, name) => sum + stages[name], 0) || 1;
  if (by("bar").children.length !== known.length) {
    by("bar").replaceChildren(...known.map((name) => made("div", `s${STAGES.indexOf(name)}`)));
    by("stages").replaceChildren(
      ...known.map((name) => {
        const item = document.createElement("li");
        item.append(made("i", `s${STAGES.indexOf(name)}`), `${name} `, document.createElement("span"));
        return item;
      }),
    );
  }
  known.forEach((name, i) => {
    by("bar").children[i].style.width = `${(100 * stages[name]) / all}%`;
    by("stages").children[i].lastChild.textContent = number(stages[name], 1);
  });
}

function made(tag, name) {
  const element = document.createElement(tag);
  element.className = name;
  return element;
}

let rows = []; // of the classes, in their order
let seen = new Set(); // indices of those in the picture
let touched = 0; // when somebody last pointed at them

function showClasses(classes) {
  const names = classes.map((item) => item.name).join("\n");
  if (by("classes").dataset.names !== names) {
    by("classes").dataset.names = names;
    delete requested.hidden; // it was of other classes
    rows = classes.map(classRow);
    seen = new Set();
    touched = 0;
  }
  classes.forEach((item, i) => {
    if (item.share >= SEEN) seen.add(i);
    else if (item.share < GONE) seen.delete(i);
    rows[i].querySelector("u").style.width = `${100 * item.share}%`;
    rows[i].lastChild.textContent = `${number(100 * item.share, 1)} %`;
  });
  if (Date.now() < touched + STILL) return;
  place("present", (i) => seen.has(i));
  place("absent", (i) => !seen.has(i));
  by("absent-count").textContent = by("absent").children.length;
  by("others").hidden = !by("absent").children.length;
}

function place(list, belongs) {
  const placed = rows.filter((_, i) => belongs(i));
  const there = by(list).children;
  if (there.length !== placed.length || placed.some((row, i) => there[i] !== row)) by(list).replaceChildren(...placed);
}

function showLegend(hidden) {
  const shownClasses = shown.classes.filter((_, i) => seen.has(i) && !hidden.has(i));
  const key = shownClasses.map((item) => item.name + item.colour).join("\n");
  if (by("legend").dataset.key === key) return;
  by("legend").dataset.key = key;
  by("legend").replaceChildren(
    ...shownClasses.map((item) => {
      const entry = document.createElement("li");
      const swatch = document.createElement("i");
      swatch.style.background = `rgb(${item.colour.join()})`;
      entry.append(swatch, item.name);
      return entry;
    }),
  );
}

function classRow(item, index) {
  const row = made("label", "class");
  const box = document.createElement("input");
  box.type = "checkbox";
  box.addEventListener("change", () => toggle(index));
  const swatch = document.createElement("i");
  const name = document.createElement("span");
  name.textContent = item.name;
  const bar = document.createElement("b");
  const full = document.createElement("u");
  swatch.style.background = full.style.background = `rgb(${item.colour.join()})`;
  bar.append(full);
  row.append(box, swatch, name, bar, document.createElement("data"));
  return row;
}

// --- the controls

function toggle(index) {
  if (index >= shown.classes.length) return;
  const hidden = new Set(now("hidden"));
  if (!hidden.delete(index)) hidden.add(index);
  change({ hidden: [...hidden] });
}

// the class at a place of the list, which then keeps it
function listed(place) {
  const index = rows.indexOf([...document.querySelectorAll(".class")][place]);
  touched = Date.now();
  if (index >= 0) toggle(index);
}

const flip = (name) => shown && change({ [name]: !now(name) });
for (const name of ["paused", "side_by_side"]) by(name).addEventListener("click", () => flip(name));
for (const name of ["pointermove", "pointerdown", "keydown"]) {
  by("classes").addEventListener(name, () => (touched = Date.now()));
}
by("all").addEventListener("click", () => change({ hidden: [] }));
by("none").addEventListener("click", () => shown && change({ hidden: shown.classes.map((_, i) => i) }));
for (const name of ["model", "source"]) {
  by(name).addEventListener("change", () => change({ [name]: by(name).selectedIndex }));
}
by("opacity").addEventListener("input", () => change({ opacity: by("opacity").valueAsNumber }));

const next = (name) => change({ [name]: (now(name) + 1) % shown.playing[`${name}s`].length });
const opacity = (step) => change({ opacity: Math.round(100 * Math.min(Math.max(now("opacity") + step, 0), 1)) / 100 });
const KEYS = {
  " ": () => flip("paused"),
  b: () => flip("side_by_side"),
  s: () => by("snapshot").click(),
  m: () => next("model"),
  n: () => next("source"),
  "+": () => opacity(0.1),
  "=": () => opacity(0.1),
  "-": () => opacity(-0.1),
};
document.addEventListener("keydown", (event) => {
  if (!shown || event.ctrlKey || event.altKey || event.metaKey) return;
  const on = event.target;
  // what has the focus keeps its own keys
  if (on.matches("select, input[type=range]") || (event.key === " " && on.matches("button, a, input, summary"))) return;
  const act = KEYS[event.key.toLowerCase()] ?? (/^[1-9]$/.test(event.key) ? () => listed(event.key - 1) : null);
  if (act) {
    event.preventDefault();
    act();
  }
});

look();
