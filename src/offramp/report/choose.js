// The sliders: a budget, an accepted drop, and what a search would choose under them.

/** What `search` chooses: the fastest that keeps an accepted drop, else the most accurate; null where nothing is within.
 *  The front names the shelf, and the shelf holds the refined thresholds. `drop` null: any. */
function choose(mode, budget, drop) {
  const { front, shelves } = report.choices.modes[mode];
  const least = drop === null ? 0 : report.choices.final_miou - drop / 100;
  const best = (candidates) => {
    let winner = null;
    for (const one of candidates) {
      if (one.latency_ms > budget || one.miou < least) continue;
      const gain = winner === null ? 1 : one.miou - winner.miou;
      const saved = winner === null ? 1 : winner.latency_ms - one.latency_ms;
      const better = drop === null ? gain > 0 || (gain === 0 && saved > 0) : saved > 0 || (saved === 0 && gain > 0);
      if (better) winner = one;
    }
    return winner;
  };
  const coarse = best(front);
  if (coarse === null) return null;
  const shelf = shelves[coarse.shelf];
  const point = best(shelf.points.map(([latency_ms, miou], place) => ({ latency_ms, miou, place })));
  const thresholds = shelf.points[point.place].slice(2);
  return { ...shelf, ...point, mode, thresholds, again: shelf.again[point.place] ?? null };
}

/** The score's name, as the page tells it. */
function scoreOf(chosen) {
  const where = { all: "of all pixels", "off-edges": "of the pixels off the edges", objects: "of the pixels of objects" };
  if (chosen.pixel_threshold === 0) return "the mean confidence of all pixels";
  const least = report.choices.thresholds[chosen.pixel_threshold];
  const sure = least === undefined ? `step ${chosen.pixel_threshold} of the grid` : least.toFixed(3);
  return `the share ${where[chosen.region]} with a confidence of at least ${sure}`;
}

function tile(what, value, about) {
  return make("div", {}, make("dt", {}, what), make("dd", {}, make("strong", {}, value), make("span", {}, about)));
}

function showTiles(chosen, left) {
  const { final_miou, images, other_split } = report.choices;
  const tiles = [
    tile("Expected mIoU", percent(chosen.miou), `${(100 * (chosen.miou - final_miou)).toFixed(1)} points against the final exit`),
    tile("Expected latency", `${chosen.latency_ms.toFixed(2)} ms`, `worst ${chosen.worst_latency_ms.toFixed(2)} ms; by ${images} images of val`),
  ];
  if (chosen.again) {
    const [latency, miou] = chosen.again;
    tiles.push(tile(`On ${other_split}`, percent(miou), `${latency.toFixed(2)} ms; measured on images that nothing was chosen by`));
  }
  const box = document.getElementById("chosen");
  box.replaceChildren(...tiles);
  // The whole numbers, for whoever wants them.
  Object.assign(box.dataset, {
    miou: chosen.miou,
    latency: chosen.latency_ms,
    exits: JSON.stringify(chosen.exits.map((index) => report.exits[index])),
    region: chosen.region,
    pixelThreshold: chosen.pixel_threshold,
    thresholds: JSON.stringify(chosen.thresholds),
    shares: JSON.stringify(chosen.exits.map((_, place) => left.filter((at) => at === place).length / images)),
  });
}

function showWays(chosen, left) {
  const rows = chosen.exits.map((index, place) => {
    const share = left.filter((at) => at === place).length / report.choices.images;
    const bar = make("span", { class: `share-bar ${exitColour(index)}`, style: `width: ${100 * share}%`, "aria-hidden": "true" });
    const least = place < chosen.thresholds.length ? `leave at score ${chosen.thresholds[place].toFixed(4)}` : "takes the rest";
    return make("li", {}, make("b", {}, exitName(index)), ` ${percent(share)} of images, ${least}`, make("span", { class: "share-track" }, bar));
  });
  document.getElementById("ways").replaceChildren(...rows);
  document.getElementById("score").textContent = chosen.thresholds.length ? `The score is ${scoreOf(chosen)}.` : "";
}

/** Scores of the images of val at each early exit: all of them faint, those that come so far full; and the threshold. */
function scorePlot(chosen, left, place) {
  const [width, height, bins, bottom] = [340, 150, 24, 130];
  const scores = report.choices.scores[chosen.policy][chosen.exits[place]];
  const threshold = chosen.thresholds[place];
  const low = Math.floor(20 * Math.min(threshold, ...scores)) / 20;
  const high = Math.max(Math.ceil(20 * Math.max(threshold, ...scores)) / 20, low + 0.05);
  const counts = [new Array(bins).fill(0), new Array(bins).fill(0)];
  scores.forEach((score, image) => {
    const bin = Math.min(bins - 1, Math.floor((bins * (score - low)) / (high - low)));
    counts[0][bin] += 1;
    if (left[image] >= place) counts[1][bin] += 1;
  });
  const most = Math.max(...counts[0]);
  const name = exitName(chosen.exits[place]);
  const svg = draw("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `Scores of ${scores.length} images at ${name}, threshold ${threshold.toFixed(4)}` });
  counts.forEach((kind, which) =>
    kind.forEach((count, bin) => {
      const tall = (112 * count) / most;
      const box = { class: which ? "bar" : "bar all", x: (bin * width) / bins, y: bottom - tall, width: width / bins - 1, height: tall };
      svg.append(draw("rect", box, { title: `${counts[0][bin]} images, ${counts[1][bin]} of them come so far` }));
    }),
  );
  const at = (width * (threshold - low)) / (high - low);
  svg.append(draw("line", { class: "axis", x1: 0, x2: width, y1: bottom, y2: bottom }));
  svg.append(draw("line", { class: "threshold", x1: at, x2: at, y1: bottom, y2: 12 }));
  svg.append(draw("text", { class: "tick", x: 0, y: height - 4 }, { text: low.toFixed(2) }));
  svg.append(draw("text", { class: "tick", x: width, y: height - 4, "text-anchor": "end" }, { text: `score ${high.toFixed(2)}` }));
  return make("figure", {}, svg, make("figcaption", {}, `${name}: images right of the line leave here.`));
}

/** What to say where nothing meets both limits: the nearest on either side. */
function whatMisses(mode, budget, drop) {
  const fastest = choose(mode, Infinity, drop);
  const best = choose(mode, budget, null);
  const said = fastest ? `the fastest that keeps it takes ${fastest.latency_ms.toFixed(2)} ms` : "nothing of this mode keeps it";
  const loss = best ? `; the best within the budget loses ${(100 * (report.choices.final_miou - best.miou)).toFixed(1)} points` : "";
  return `Nothing meets both the budget and the accepted drop: ${said}${loss}.`;
}

/** The ring in the chart of accuracy against latency. */
function movePointer(chosen) {
  for (const svg of document.querySelectorAll("svg[data-x]")) {
    svg.querySelector(".pointer")?.remove();
    if (chosen === null) continue;
    const [latency, miou] = chosen.again ?? [chosen.latency_ms, chosen.miou];
    const on = (axis, value) => {
      const [low, high, start, stop] = svg.dataset[axis].split(" ").map(Number);
      return start + ((stop - start) * (value - low)) / (high - low);
    };
    const title = `the sliders' choice: mIoU ${percent(miou)}, ${latency.toFixed(2)} ms`;
    svg.append(draw("circle", { class: "pointer", cx: on("x", latency), cy: on("y", 100 * miou), r: 9 }, { title }));
  }
}

function showCommand(mode, budget, drop) {
  const limits = [drop === null ? "" : ` --max-drop-pp ${drop}`, budget === null ? "" : ` --max-latency-ms ${budget}`];
  document.getElementById("command").textContent =
    `offramp search --mode ${mode}${limits.join("")} --records val.records --profile here.profile --out chosen.json`;
}

function beginChoosing() {
  const form = document.getElementById("limits");
  const { budget, drop, mode } = report.choices.sliders;
  const budgetInput = form.elements.budget;
  const dropInput = form.elements.drop;
  Object.assign(budgetInput, { min: budget.min, max: budget.max, step: budget.step, value: budget.value });
  Object.assign(dropInput, { min: 0, max: drop.max, step: drop.step, value: drop.value ?? drop.max });
  form.elements.mode.value = mode;
  const update = () => {
    const most = Number(budgetInput.value);
    const accepted = Number(dropInput.value) >= drop.max ? null : Number(dropInput.value);
    const budgetText = `${most.toFixed(budget.digits)} ms`;
    const dropText = accepted === null ? "any: the most accurate within the budget" : `${accepted.toFixed(1)} points: the fastest that keeps it`;
    document.getElementById("budget-text").textContent = budgetText;
    document.getElementById("drop-text").textContent = dropText;
    budgetInput.setAttribute("aria-valuetext", budgetText);
    dropInput.setAttribute("aria-valuetext", dropText);
    const chosen = choose(form.elements.mode.value, most, accepted);
    showCommand(form.elements.mode.value, budgetInput.value, accepted === null ? null : dropInput.value);
    document.getElementById("nothing").hidden = chosen !== null;
    if (chosen === null) document.getElementById("nothing").textContent = whatMisses(form.elements.mode.value, most, accepted);
    document.getElementById("choice").hidden = chosen === null;
    movePointer(chosen);
    if (chosen !== null) {
      const left = leavesAt(chosen, report.choices.scores, report.choices.images);
      showTiles(chosen, left);
      showWays(chosen, left);
      document.getElementById("score-plots").replaceChildren(...chosen.thresholds.map((_, place) => scorePlot(chosen, left, place)));
    }
    for (const listener of listeners) listener(chosen);
  };
  form.addEventListener("input", update);
  form.addEventListener("submit", (event) => event.preventDefault());
  update();
}
