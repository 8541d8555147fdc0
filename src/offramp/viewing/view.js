// The page asks, the server answers: one question at a time. A question says which image and the whole plan, so the server's
// next answer always follows the controls as they are now. What changes while a question is under way goes into the next one.

const byId = (id) => document.getElementById(id);
const LARGEST = 50e6; // bytes of a dropped image; the server refuses more, too
const START_BAR = 0.9; // of exits that no deployment gives a threshold
const SCALED = 8; // answers that the bars have one scale for
const SPOKEN_MS = 1500; // a screen reader hears of exits no more often

let facts; // what the server says of the package once
let rows = []; // of the exits: {name, item, pick, threshold, ...}
let bars = new Map(); // of the steps: name -> {fill, value}
let shown = -1; // number of the image on the page
let index = 0; // of the folder's images
let playing = false;
let resumed = false;
let asking = false;
let waiting = null; // the next question's part about the image; {} where only the plan changed
let longest = []; // ms of the longest step of each of the last answers: the scale of the bars
let toSay = ""; // to a screen reader
let silence = null; // the timer until it may be told again

// ------------------------------------------------------------------------------------------------------------ asking

/** Ask as soon as the question under way is answered. */
function want(what = {}) {
  waiting = { ...waiting, ...what };
  if (!asking) askOn();
}

async function askOn() {
  asking = true;
  while (waiting || playing) {
    const what = waiting ?? {};
    waiting = null;
    if (playing && what.index === undefined) {
      Object.assign(what, { play: byId("timed").checked ? "timed" : "every", resumed });
      resumed = false;
    }
    await ask(what);
  }
  asking = false;
}

async function ask(what) {
  const plan = planned();
  if (plan === null) {
    pause();
    return complain("Choose one exit at least.");
  }
  if (shown < 0 && what.index === undefined && what.play === undefined) return;
  const width = Math.max(16, Math.round(byId("picture").clientWidth * devicePixelRatio));
  const body = JSON.stringify({ ...what, ...plan, have: shown, width: Math.min(width, 1600) });
  const answer = await send("answer", { method: "POST", headers: { "Content-Type": "application/json" }, body });
  if (answer) show(answer, plan);
  else pause(); // a video that cannot be played is not asked for for ever
}

/** A request; null where it failed, and the page says why. */
async function send(door, options) {
  try {
    const response = await fetch(door, options);
    const said = await response.json();
    if (!response.ok) throw new Error(said.error);
    complain("");
    return said;
  } catch (error) {
    const gone = error instanceof TypeError ? "offramp view does not answer; has it ended?" : error.message;
    complain(gone);
    return null;
  }
}

function complain(text) {
  byId("error").textContent = text;
  byId("error").hidden = !text;
}

// ---------------------------------------------------------------------------------------------------------- controls

function mode() {
  return document.querySelector("[name=mode]:checked").value;
}

/** The plan as the controls stand; null without an exit. */
function planned() {
  const picked = rows.filter((row) => row.pick.checked);
  if (!picked.length) return null;
  const plan = { mode: mode(), exits: picked.map((row) => row.name) };
  if (plan.mode === "anytime") {
    const deadline = Number(byId("deadline").value);
    if (deadline > 0) plan.deadline_ms = deadline;
  }
  if (plan.mode === "input-dependent") {
    plan.region = byId("region").value;
    plan.pixel_threshold = Number(byId("pixel").value);
    plan.image_thresholds = picked.slice(0, -1).map((row) => row.bar);
  }
  return plan;
}

/** Put the controls into the shape of the mode: one exit or several, thresholds or none. */
function arrange() {
  const now = mode();
  byId("for-anytime").hidden = now !== "anytime";
  byId("deadline-tile").hidden = now !== "anytime";
  byId("for-input-dependent").hidden = now !== "input-dependent";
  byId("exits-legend").textContent = now === "budgeted" ? "Exit" : "Exits asked, from shallow to deep";
  const grid = facts.pixel_thresholds[Number(byId("pixel").value)];
  byId("pixel-value").textContent = byId("pixel").value === "0" ? "none: mean confidence" : `confidence ≥ ${grid.toFixed(3)}`;
  const deepest = rows.filter((row) => row.pick.checked).at(-1);
  for (const row of rows) {
    row.pick.type = now === "budgeted" ? "radio" : "checkbox";
    row.judged.hidden = now !== "input-dependent" || !row.pick.checked;
    // The deepest exit asked takes what is left: it has a score, but no threshold.
    row.leave.hidden = row.threshold.hidden = row.bound.hidden = row === deepest;
    row.bound.textContent = row.bar.toFixed(3);
  }
  drawSteps();
}

/** Another mode: budgeted keeps the deepest exit alone, the others begin with several. */
function turn() {
  const picked = rows.filter((row) => row.pick.checked);
  const one = picked.at(-1) ?? rows.at(-1);
  const proposed = rows.filter((row) => facts.proposed.includes(row.name));
  const several = picked.length > 1 ? picked : proposed;
  arrange(); // first, since of radio buttons one alone can be checked
  for (const row of rows) row.pick.checked = mode() === "budgeted" ? row === one : several.includes(row);
  arrange();
  want();
}

// ----------------------------------------------------------------------------------------------------------- drawing

/** An element with a class, text and children. */
function make(tag, kind = "", ...content) {
  const element = document.createElement(tag);
  if (kind) element.className = kind;
  element.append(...content);
  return element;
}

function track() {
  const fill = make("div", "fill");
  return [make("div", "track", fill), fill];
}

function drawExits() {
  rows = facts.exits.map(({ name, stage }) => {
    const pick = make("input");
    pick.type = "checkbox";
    pick.name = "exit";
    pick.value = name;
    const fate = make("span", "fate");
    const [score, fill] = track();
    const value = make("output");
    const leave = make("span", "", "leave at");
    const threshold = make("input");
    Object.assign(threshold, { type: "range", min: 0, max: 1, step: 0.001, value: START_BAR });
    threshold.setAttribute("aria-label", `Threshold of ${name}`);
    const bound = make("output");
    const judged = make("div", "judged", make("span", "", "score"), score, value, leave, threshold, bound);
    const item = make("li", "", make("label", "exit", pick, make("span", "name", name), fate), judged);
    // The bar is what the score must reach; the slider shows it, but knows only its own steps.
    const row = { name, stage, item, pick, fate, fill, value, bar: START_BAR, leave, threshold, bound, judged };
    pick.addEventListener("change", () => { arrange(); want(); });
    threshold.addEventListener("input", () => { row.bar = Number(threshold.value); arrange(); want(); });
    return row;
  });
  byId("exits").replaceChildren(...rows.map((row) => row.item));
}

/** A line for each step that the plan may take, whether taken or not: so nothing jumps. */
function drawSteps() {
  const picked = rows.filter((row) => row.pick.checked);
  const names = [];
  let begun = 0;
  for (const row of picked) {
    for (; begun <= row.stage; begun++) names.push(`stage ${begun}`);
    names.push(`head ${row.name}`);
  }
  names.push("labels");
  if (names.join("\n") === [...bars.keys()].join("\n")) return;
  bars = new Map();
  const items = names.map((name) => {
    const [outer, fill] = track();
    const value = make("output");
    bars.set(name, { fill, value });
    const label = make("span", "name", name === "labels" ? "label map" : name);
    label.title = label.textContent;
    return make("li", name.split(" ")[0], label, outer, value);
  });
  byId("times").replaceChildren(...items);
}

function drawClasses() {
  const items = facts.classes.map(({ name, colour }) => {
    const swatch = make("span", "swatch");
    swatch.style.background = `rgb(${colour.join(",")})`;
    return make("li", "", swatch, make("span", "", name), make("output"));
  });
  byId("classes").replaceChildren(...items);
}

// ----------------------------------------------------------------------------------------------------------- showing

function show(answer, plan) {
  shown = answer.number;
  byId("invitation").hidden = true;
  byId("name").textContent = facts.input.kind === "images" && answer.name !== dropped
    ? `${answer.name} (${index + 1} of ${facts.input.total})` : answer.name;
  if (answer.image) byId("image").src = answer.image;
  byId("image").alt = answer.name;
  byId("image").hidden = false;
  byId("labels").src = answer.labels;
  const map = document.querySelector("#confidence img");
  if (answer.confidence) map.src = answer.confidence;
  [map.style.width, map.style.height] = answer.overhang.map((times) => `${times * 100}%`);
  byId("confidence").dataset.empty = answer.confidence ? "" : "empty";
  overlay();
  [...byId("classes").children].forEach((item, number) => {
    item.lastChild.textContent = `${(answer.shares[number] * 100).toFixed(1)} %`;
  });
  byId("taken").textContent = answer.exit;
  byId("latency").textContent = answer.latency_ms.toFixed(1);
  byId("rate").textContent = playing && answer.rate ? answer.rate.toFixed(1) : "–";
  byId("dropped").textContent = answer.dropped;
  byId("met").textContent = answer.met === null ? "–" : answer.met ? "met" : "missed";
  showExits(answer, plan);
  showTimes(answer);
  speak(`${answer.exit} taken`);
}

function showExits(answer, plan) {
  for (const row of rows) {
    const asked = `head ${row.name}` in answer.steps_ms;
    const taken = row.name === answer.exit;
    row.item.classList.toggle("taken", taken);
    row.fate.textContent = taken ? "taken" : asked ? "asked" : plan.exits.includes(row.name) ? "not reached" : "";
    const score = answer.scores[row.name];
    row.fill.style.width = `${(score ?? 0) * 100}%`;
    row.value.textContent = score === undefined ? "–" : score.toFixed(3);
  }
}

function showTimes(answer) {
  const times = Object.entries(answer.steps_ms).map(([step, ms]) => [step.startsWith("labels ") ? "labels" : step, ms]);
  // One scale for several answers, so that bars can be compared from frame to frame.
  longest = [...longest.slice(1 - SCALED), Math.max(...times.map(([, ms]) => ms))];
  const scale = Math.max(...longest);
  for (const { fill, value } of bars.values()) {
    fill.style.width = "0";
    value.textContent = "–";
  }
  for (const [step, ms] of times) {
    const bar = bars.get(step);
    if (!bar) continue; // the plan has changed since
    bar.fill.style.width = `${(ms / scale) * 100}%`;
    bar.value.textContent = ms.toFixed(1);
  }
}

/** Tell a screen reader, at once if it was not told of something else just now, else a little later what holds by then. */
function speak(text) {
  toSay = text;
  if (silence === null) say();
}

function say() {
  silence = null;
  if (toSay === byId("spoken").textContent) return;
  byId("spoken").textContent = toSay;
  silence = setTimeout(say, SPOKEN_MS);
}

function overlay() {
  const chosen = document.querySelector("[name=overlay]:checked").value;
  byId("labels").hidden = chosen !== "labels" || shown < 0;
  byId("confidence").hidden = chosen !== "confidence" || shown < 0 || byId("confidence").dataset.empty === "empty";
  byId("sureness").hidden = chosen !== "confidence";
  for (const id of ["labels", "confidence"]) byId(id).style.opacity = byId("opacity").value / 100;
}

// ------------------------------------------------------------------------------------------------------------ images

let dropped = ""; // name of the image that was dropped last

async function drop(file) {
  if (!file) return;
  if (file.size > LARGEST) return complain(`${file.name} is too large: at most ${LARGEST / 1e6} MB are taken`);
  pause();
  const headers = { "Content-Type": "application/octet-stream", "X-Name": encodeURIComponent(file.name) };
  const taken = await send("image", { method: "POST", headers, body: file });
  if (!taken) return;
  dropped = file.name;
  if (shown < 0) shown = 0; // there is an image now, though not yet on the page
  want();
}

function step(by) {
  if (facts.input.kind !== "images") return;
  dropped = "";
  index = (index + by + facts.input.total) % facts.input.total;
  want({ index });
}

function play() {
  if (facts.input.kind !== "video") return;
  playing = resumed = true;
  byId("play").textContent = "Pause";
  want();
}

function pause() {
  playing = false;
  byId("play").textContent = "Play";
}

function listen() {
  const changed = () => { arrange(); want(); };
  byId("modes").addEventListener("change", turn);
  for (const id of ["deadline", "region", "pixel"]) byId(id).addEventListener("input", changed);
  byId("controls").addEventListener("submit", (event) => event.preventDefault());
  byId("overlay").addEventListener("change", overlay);
  byId("opacity").addEventListener("input", overlay);
  byId("previous").addEventListener("click", () => step(-1));
  byId("next").addEventListener("click", () => step(1));
  byId("play").addEventListener("click", () => (playing ? pause() : play()));
  byId("file").addEventListener("change", () => { drop(byId("file").files[0]); byId("file").value = ""; });
  document.addEventListener("keydown", (event) => {
    if (event.target.matches("input, select") || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") step(-1);
    if (event.key === "ArrowRight") step(1);
  });
  document.addEventListener("dragover", (event) => { event.preventDefault(); byId("picture").classList.add("over"); });
  document.addEventListener("dragleave", () => byId("picture").classList.remove("over"));
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    byId("picture").classList.remove("over");
    drop(event.dataTransfer.files[0]);
  });
}

// ------------------------------------------------------------------------------------------------------------- start

async function start() {
  facts = await send("facts");
  if (!facts) return;
  document.title = `${facts.package} – Offramp view`;
  byId("package").textContent = facts.package;
  byId("engine").textContent = `${facts.engine}, ${facts.precision}, threads: ${facts.threads}; ${facts.size.join("×")} pixels; `
    + (facts.deployed ? "begins with the package’s own deployment" : "no deployment: choose exits and thresholds yourself");
  byId("steps").hidden = facts.input.kind !== "images" || facts.input.total < 2;
  byId("player").hidden = byId("dropped-tile").hidden = facts.input.kind !== "video";
  document.querySelector("[value=input-dependent]").disabled = !facts.judges;
  document.querySelector("[value=confidence]").disabled = !facts.judges;
  byId("pixel").max = facts.pixel_thresholds.length - 1;
  drawClasses();
  drawExits();
  const { plan } = facts;
  document.querySelector(`[name=mode][value=${plan.mode}]`).checked = true;
  byId("region").value = plan.region;
  byId("pixel").value = plan.pixel_threshold;
  for (const row of rows) row.pick.checked = plan.exits.includes(row.name);
  plan.image_thresholds.forEach((value, number) => {
    const row = rows.find(({ name }) => name === plan.exits[number]);
    row.bar = row.threshold.value = value;
  });
  arrange();
  listen();
  if (facts.input.kind === "images") want({ index });
  if (facts.input.kind === "video") want({ play: "every" });
}

start();
