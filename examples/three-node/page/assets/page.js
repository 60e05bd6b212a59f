// The page shows what the server tells it, and asks the server to do what is done
// here. It keeps nothing but what it shows: a reload asks for it again.

"use strict";

const byId = (id) => document.getElementById(id);

/** How many lines the time line has, and how many messages a lane shows at once. */
const MAX_LINES = 50;
const MAX_CHIPS = 12;

/** What takes less than so many milliseconds is not drawn as it travels. */
const TOO_FAST = 40;

const IS = {
  ready: "● ready",
  joining: "◌ joining",
  no_answer: "… no answer",
  paused: "‖ paused",
  down: "✕ down",
};

const HOLDS_NOTHING = {
  ready: "It holds nothing.",
  joining: "It lost its data, and answers nothing until it has rejoined.",
  no_answer: "It does not say what it holds.",
  paused: "Its process is stopped, and says nothing.",
  down: "Its process has ended. What it has acked is on its disk.",
};

const VERDICTS = {
  done: "✓ done",
  maybe_applied: "? failed, may have been applied",
  not_applied: "✕ failed, not applied",
  failed: "✕ failed",
  does_not_compile: "✕ does not compile",
};

/** The last state that was told. */
let state = null;

// Asking the server

async function act(what) {
  const complaint = byId("complaint");
  try {
    const answer = await fetch("/act", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(what),
    });
    complaint.textContent = answer.ok ? "" : await answer.text();
  } catch {
    complaint.textContent = "The server does not answer.";
  }
}

// What the server tells

function listen() {
  const events = new EventSource("/events");
  const on = (name, take) =>
    events.addEventListener(name, (event) => take(JSON.parse(event.data)));
  events.onopen = () => (byId("connection").textContent = "");
  events.onerror = () =>
    (byId("connection").textContent = "The server does not answer. It may have been ended.");
  on("hello", ({ all, scenes }) => {
    listScenes(scenes);
    byId("lines").replaceChildren();
    forgetMessages();
    all.lines.forEach(addLine);
    if (all.state) {
      show(all.state);
    }
  });
  on("state", show);
  on("message", showMessage);
  on("line", addLine);
}

function show(told) {
  const before = state;
  state = told;
  told.nodes.forEach((node, place) => showNode(node, place, before?.nodes[place]));
  showPace(told);
  showScene(told.scene, before?.scene);
}

// Nodes and links

function makeNodes() {
  for (const place of [0, 1, 2]) {
    const node = byId("node").content.firstElementChild.cloneNode(true);
    const name = `Node ${place + 1}`;
    node.querySelector("h3").textContent = name;
    node.setAttribute("aria-label", name);
    const on = (button, what) =>
      node.querySelector(button).addEventListener("click", () => act(what()));
    const isAt = (is) => state?.nodes[place].is === is;
    const toNode = (what) => ({ do: "node", node: place, what });
    on(".run", () => toNode(isAt("down") ? "start" : "kill"));
    on(".pause", () => toNode(isAt("paused") ? "resume" : "pause"));
    on(".wipe", () => toNode("wipe"));
    on(".rejoin", () => ({ do: "rejoin", node: place }));
    node.querySelector("details").addEventListener("change", () => {
      const field = (name) => node.querySelector(`[name=${name}]`);
      act({
        do: "link",
        node: place,
        faults: {
          to: field("to").checked,
          back: field("back").checked,
          delay_ms: Number(field("delay_ms").value),
          lose_percent: Number(field("lose_percent").value),
        },
      });
    });
    byId("nodes").append(node);
  }
}

function showNode(node, place, before) {
  if (JSON.stringify(node) === JSON.stringify(before)) {
    return;
  }
  const shown = byId("nodes").children[place];
  const find = (what) => shown.querySelector(what);
  const { link } = node;
  const faults = [
    link.to && link.back && "cut both ways",
    link.to && !link.back && "cut there →",
    link.back && !link.to && "cut back ←",
    link.delay_ms > 0 && `delays ${link.delay_ms / 1000} s`,
    link.lose_percent > 0 && `loses ${link.lose_percent} %`,
  ].filter(Boolean);
  shown.className = `node ${node.is}`;
  shown.classList.toggle("cut", link.to || link.back);
  shown.classList.toggle("faulty", faults.length > 0);
  find("summary").textContent = `Link: ${faults.join(", ") || "works"}`;
  find("[name=to]").checked = link.to;
  find("[name=back]").checked = link.back;
  find("[name=delay_ms]").value = link.delay_ms;
  find("[name=lose_percent]").value = link.lose_percent;
  find(".is").textContent = IS[node.is];
  find(".address").textContent = node.address;
  find(".run").textContent = node.is === "down" ? "Start" : "Kill";
  find(".pause").textContent = node.is === "paused" ? "Go on" : "Pause";
  find(".pause").disabled = node.is === "down";
  find(".rejoin").hidden = node.is !== "joining";
  find("table").hidden = node.rows.length === 0;
  const known = new Set((before?.rows ?? []).map((row) => row.key + row.version));
  find("tbody").replaceChildren(
    ...node.rows.map((row) => rowOf(row, before && !known.has(row.key + row.version))),
  );
  const nothing = find(".nothing");
  nothing.hidden = node.rows.length > 0 && !node.has_more;
  nothing.textContent = node.has_more ? "And further keys." : HOLDS_NOTHING[node.is];
}

function rowOf({ key, value, version }, isNew) {
  const row = document.createElement("tr");
  row.classList.toggle("new", Boolean(isNew));
  const cell = (text, title) => {
    const cell = row.insertCell();
    cell.textContent = text;
    cell.title = title;
    return cell;
  };
  cell(key, key);
  cell(value ?? "† tombstone", value ?? "deleted").classList.toggle("tombstone", value === null);
  cell(version.replace(/^\d+(?=\d{5}\.)/, "…"), version);
  return row;
}

// Messages

/** By the id of their call: the chip of each that is shown. */
const chips = new Map();

function forgetMessages() {
  chips.forEach(remove);
  chips.clear();
}

function remove(chip) {
  // One that has come to its end, and is kept there, would keep the chip.
  chip.getAnimations().forEach((animation) => animation.cancel());
  chip.remove();
}

function showMessage({ id, node, by, at, says, is_good, ms }) {
  let chip = chips.get(id);
  if (!chip && (at === "sent" || !is_good)) {
    const lane = byId("nodes").children[node].querySelector(".lane");
    const isTooFast = ms < TOO_FAST && !state?.pace.by_step;
    if (isTooFast || lane.childElementCount >= MAX_CHIPS) {
      return;
    }
    chip = document.createElement("span");
    chip.className = `chip ${by}`;
    chip.textContent = `${by} → ${says}`;
    lane.append(chip);
    chips.set(id, chip);
    move(chip, at === "sent" ? 0 : 1, 1, ms);
  }
  if (!chip || at === "sent") {
    return;
  }
  chip.classList.add(is_good ? "good" : "bad");
  chip.textContent = is_good ? `${by} ✓ ${says}` : `${by} ✕ ${says}`;
  if (at === "answered") {
    move(chip, 1, 0, ms);
    return;
  }
  chips.delete(id);
  chip.getAnimations().forEach((animation) => animation.pause());
  // What went wrong stays for long enough to be read.
  setTimeout(() => remove(chip), is_good ? 150 : 1800);
}

/** Moves a chip along its lane. Step by step it comes half-way, and waits. */
function move(chip, from, to, ms) {
  const isStill = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const goal = state?.pace.by_step || isStill ? 0.5 : to;
  const at = (part) => ({ left: `${part * 100}%`, transform: `translateX(-${part * 100}%)` });
  const duration = state?.pace.by_step ? 300 : ms;
  chip.getAnimations().forEach((animation) => animation.cancel());
  chip.animate([at(isStill ? goal : from), at(goal)], { duration, fill: "forwards" });
}

// The time line

/** Lines that came since the last frame. */
let newLines = [];

/** The id of the last one. */
let lastId = -1;

function addLine(line) {
  if (newLines.length === 0) {
    requestAnimationFrame(flushLines);
  }
  newLines.push(line);
  lastId = line.id;
  newLines = newLines.slice(-MAX_LINES);
}

function flushLines() {
  const lines = byId("lines");
  lines.prepend(...newLines.reverse().map(lineOf));
  newLines = [];
  while (lines.childElementCount > MAX_LINES) {
    lines.lastElementChild.remove();
  }
}

function lineOf({ by, what, quorums, verdict, says, unseen, took_ms }) {
  const line = document.createElement("li");
  line.className = verdict;
  const add = (className, text) => {
    const part = document.createElement("div");
    part.className = className;
    part.textContent = text;
    line.append(part);
    return part;
  };
  const of = quorums ? ` · ${quorums.n}/${quorums.w}/${quorums.r}` : "";
  add("what", `${by}: ${what}`).classList.add(`of-${by}`);
  add("verdict", `${VERDICTS[verdict]}${of} · ${took_ms} ms`);
  if (unseen) {
    line.classList.add("missed");
    add("unseen", `⚠ ${unseen}`);
  }
  add("says", says);
  return line;
}

// Scenes

function listScenes(scenes) {
  const list = byId("scene-list");
  if (list.childElementCount > 0) {
    return;
  }
  scenes.forEach(([name, title]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = title;
    button.dataset.name = name;
    button.addEventListener("click", () => {
      act({ do: "scene", name, plays_on: byId("plays-on").checked });
      byId("stage").scrollIntoView({ block: "nearest" });
    });
    const item = document.createElement("li");
    item.append(button);
    list.append(item);
  });
}

function showScene(scene, before) {
  if (JSON.stringify(scene) === JSON.stringify(before)) {
    return;
  }
  byId("scene").hidden = !scene;
  byId("scenes").hidden = Boolean(scene);
  if (!scene) {
    return;
  }
  byId("scene-title").textContent = scene.title;
  const told = byId("told");
  // What was told stays as it is: only what is new is read out.
  while (told.childElementCount > scene.told.length) {
    told.lastElementChild.remove();
  }
  scene.told.forEach((text, place) => {
    const item = told.children[place] ?? told.appendChild(document.createElement("li"));
    if (item.textContent !== text) {
      item.textContent = text;
    }
  });
  const { end } = scene;
  byId("end").hidden = !end;
  byId("end").className = end?.is_as_told ? "good" : "bad";
  byId("end").textContent = !end
    ? ""
    : end.is_as_told
      ? `✓ Checked on the nodes: ${end.says}`
      : `✕ It came to something else: ${end.says}`;
  byId("next").hidden = scene.plays_on || Boolean(end);
  byId("next").disabled = !scene.waits;
}

// Pace, clocks and the rest

function showPace({ pace, ahead_ms, per_second }) {
  const set = (input, value) => {
    if (document.activeElement !== input) {
      input.value = value;
    }
  };
  set(byId("travel"), pace.travel_ms);
  byId("travel-ms").textContent = `${pace.travel_ms} ms`;
  byId("by-step").checked = pace.by_step;
  byId("step").disabled = !pace.by_step;
  byId("load").checked = per_second > 0;
  // Nobody can listen to a hundred lines a second.
  byId("lines").setAttribute("aria-live", per_second > 0 ? "off" : "polite");
  set(byId("clock-A"), ahead_ms[0] / 1000);
  set(byId("clock-B"), ahead_ms[1] / 1000);
}

function showPromise() {
  const form = byId("operation").elements;
  const [n, w, r] = ["n", "w", "r"].map((name) => Number(form[name].value));
  const compiles = w <= n && r <= n;
  byId("promise").textContent = !compiles
    ? `${n}/${w}/${r} does not compile: try it.`
    : r + w > n
      ? `${n}/${w}/${r}: R + W > N, so a read meets every acknowledged write.`
      : `${n}/${w}/${r}: R + W ≤ N, so a read may miss an acknowledged write.`;
}

function connectControls() {
  const form = byId("operation");
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const { by, key, value, n, w, r } = form.elements;
    const op = event.submitter?.value ?? "put";
    const quorums = { n: Number(n.value), w: Number(w.value), r: Number(r.value) };
    const what = { do: "operate", by: by.value, quorums, op, key: key.value };
    act(op === "put" ? { ...what, value: value.value } : what);
  });
  form.addEventListener("change", showPromise);
  const pace = () =>
    act({
      do: "pace",
      travel_ms: Number(byId("travel").value),
      by_step: byId("by-step").checked,
    });
  byId("travel").addEventListener("change", pace);
  byId("by-step").addEventListener("change", pace);
  for (const side of ["A", "B"]) {
    const clock = byId(`clock-${side}`);
    clock.addEventListener("change", () => {
      act({ do: "clock", side, ahead_ms: Math.round(Number(clock.value) * 1000) });
    });
  }
  byId("load").addEventListener("change", ({ target }) => {
    act({ do: "load", per_second: target.checked ? 100 : 0 });
  });
  for (const name of ["step", "heal", "pass", "next", "leave"]) {
    byId(name).addEventListener("click", () => act({ do: name }));
  }
}

makeNodes();
connectControls();
showPromise();
listen();
