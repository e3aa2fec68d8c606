// The page of the demo: figures come as server-sent events, what is changed goes back by POST.
"use strict";

const by = (id) => document.getElementById(id);
const MINUTE = 60000;
const STAGES = ["read", "wait", "segment", "draw", "encode"];
const history = []; // [time, age in ms]
let shown = null; // the newest figures
let dragging = false;

async function change(asked) {
  try {
    const answer = await fetch("controls", {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(asked),
    });
    if (!answer.ok) say(await answer.text());
  } catch {
    state("connection lost");
  }
}

function say(text) {
  by("message").textContent = text;
  by("message").hidden = !text;
}

function state(text) {
  by("state").textContent = text;
  by("state").dataset.state = text;
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
  events.addEventListener("error", () => {
    state("connection lost");
    events.close();
    setTimeout(look, 1000);
  });
}
document.addEventListener("visibilitychange", look);

// --- the figures

const number = (value, digits = 0) =>
  value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits });

function show(figures) {
  const before = shown;
  shown = figures;
  state(figures.state);
  say(figures.message);
  by("running").textContent = `${figures.models[figures.model]} on ${figures.backend}, ${figures.sources[figures.source]}`;
  const some = figures.frames > 0;
  by("fps").textContent = some ? number(figures.fps, 1) : "–";
  by("age").textContent = some ? number(figures.age_ms) : "–";
  by("p50").textContent = some ? number(figures.p50_ms, 1) : "–";
  by("p99").textContent = some ? number(figures.p99_ms, 1) : "–";
  by("drops").textContent = number(figures.drops);
  by("miou-tile").hidden = figures.miou === null;
  if (figures.miou !== null) by("miou").textContent = number(100 * figures.miou, 1);
  by("judged").textContent = figures.judged === 1 ? "frame" : `${figures.judged} frames`;
  by("power-tile").hidden = figures.power_w === null;
  if (figures.power_w !== null) by("power").textContent = number(figures.power_w, 1);
  showAge(figures);
  showStages(figures.stages_ms);
  showClasses(figures, before);
  press("paused", figures.state === "paused");
  by("paused").textContent = figures.state === "paused" ? "Go on" : "Pause";
  press("side_by_side", figures.side_by_side);
  press("figures", figures.figures);
  if (!dragging) showOpacity(figures.opacity);
  choose("model", figures.models, figures.model);
  choose("source", figures.sources, figures.source);
}

function press(id, on) {
  by(id).setAttribute("aria-pressed", String(on));
}

function showOpacity(value) {
  by("opacity").value = value;
  by("opacity-value").textContent = `${Math.round(100 * value)} %`;
}

function choose(id, names, index) {
  const list = by(id);
  if (list.options.length !== names.length || names.some((name, i) => list.options[i].text !== name)) {
    list.replaceChildren(...names.map((name, i) => new Option(name, i)));
  }
  // only when it changes: somebody may have the list open
  if (list.dataset.index !== String(index)) list.selectedIndex = index;
  list.dataset.index = index;
}

function showAge(figures) {
  if (!figures.frames || figures.state === "paused" || figures.state === "opening") return;
  const now = Date.now();
  history.push([now, figures.age_ms]);
  while (history[0][0] < now - MINUTE) history.shift();
  const ages = history.map(([, age]) => age);
  const most = Math.max(...ages, 1);
  by("line").setAttribute(
    "points",
    history.map(([at, age]) => `${240 - (240 * (now - at)) / MINUTE},${46 - (44 * age) / most}`).join(" "),
  );
  by("age-range").textContent = `${number(Math.min(...ages))} to ${number(most)} ms`;
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

function showClasses(figures, before) {
  const list = by("list");
  const names = (some) => some.classes.map((item) => item.name).join("\n");
  if (!before || names(before) !== names(figures)) {
    list.replaceChildren(
      ...figures.classes.map((item, i) => {
        const row = made("label", "class");
        const box = document.createElement("input");
        box.type = "checkbox";
        box.addEventListener("change", () => toggle(i));
        const swatch = document.createElement("i");
        const name = document.createElement("span");
        name.textContent = item.name;
        const bar = document.createElement("b");
        const full = document.createElement("u");
        swatch.style.background = full.style.background = `rgb(${item.colour.join()})`;
        bar.append(full);
        row.append(box, swatch, name, bar, document.createElement("data"));
        return row;
      }),
    );
  }
  figures.classes.forEach((item, i) => {
    const row = list.children[i];
    row.firstChild.checked = !item.hidden;
    row.classList.toggle("absent", item.share < 0.0005);
    row.querySelector("u").style.width = `${100 * item.share}%`;
    row.lastChild.textContent = `${number(100 * item.share, 1)} %`;
  });
}

// --- the controls

const hidden = () => shown.classes.flatMap((item, i) => (item.hidden ? [i] : []));

function toggle(index) {
  if (!shown || index >= shown.classes.length) return;
  const now = new Set(hidden());
  if (!now.delete(index)) now.add(index);
  change({ hidden: [...now] });
}

const flip = {
  paused: () => change({ paused: shown.state !== "paused" }),
  side_by_side: () => change({ side_by_side: !shown.side_by_side }),
  figures: () => change({ figures: !shown.figures }),
};
for (const [id, act] of Object.entries(flip)) by(id).addEventListener("click", () => shown && act());
by("all").addEventListener("click", () => change({ hidden: [] }));
by("none").addEventListener("click", () => shown && change({ hidden: shown.classes.map((_, i) => i) }));
for (const id of ["model", "source"]) {
  by(id).addEventListener("change", () => change({ [id]: by(id).selectedIndex }));
}

let asked = null; // the opacity that is asked for next: one POST at a time while it is dragged
let asking = false;
async function askOpacity() {
  if (asking) return;
  asking = true;
  while (asked !== null) {
    const opacity = asked;
    asked = null;
    await change({ opacity });
  }
  asking = false;
}
by("opacity").addEventListener("input", () => {
  dragging = true;
  asked = by("opacity").valueAsNumber;
  showOpacity(asked);
  askOpacity();
});
by("opacity").addEventListener("change", () => setTimeout(() => (dragging = false), 500));

const next = (id) => shown && change({ [id]: (shown[id] + 1) % shown[`${id}s`].length });
const opacity = (step) => shown && change({ opacity: Math.min(Math.max(shown.opacity + step, 0), 1) });
const KEYS = {
  " ": flip.paused,
  b: flip.side_by_side,
  f: flip.figures,
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
  const act = KEYS[event.key.toLowerCase()] ?? (/^[1-9]$/.test(event.key) ? () => toggle(event.key - 1) : null);
  if (act) {
    event.preventDefault();
    act();
  }
});

look();
