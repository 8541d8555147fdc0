// Bars of IoU per class, those that suffer first, and at a click what a class was taken for.

function showClasses(exit) {
  const { names, colours, iou, confusion } = report.classes;
  const last = report.exits.length - 1;
  const known = names.map((_, index) => index).filter((index) => iou[exit][index] !== null);
  const loss = (index) => iou[last][index] - iou[exit][index];
  known.sort((one, other) => loss(other) - loss(one) || one - other);
  const rows = known.map((index) => {
    const [here, final] = [iou[exit][index], iou[last][index]];
    const bar = make("span", { class: "class-bar", style: `width: ${100 * here}%; background: ${colours[index]}` });
    const mark = make("span", { class: "class-final", style: `left: ${100 * final}%` });
    const track = make("span", { class: "class-track", "aria-hidden": "true" }, bar, mark);
    const change = `${loss(index) > 0 ? "\u2212" : "+"}${Math.abs(100 * loss(index)).toFixed(1)}`;
    const button = make("button", { type: "button", "data-class": index }, make("span", { class: "class-name" }, names[index]), track, make("span", { class: "class-number" }, `${(100 * here).toFixed(1)} (${change})`));
    button.setAttribute("aria-label", `${names[index]}: IoU ${percent(here)}, final exit ${percent(final)}`);
    if (confusion) button.addEventListener("click", () => showConfusion(exit, index, button));
    else button.disabled = true;
    return make("li", {}, button);
  });
  document.getElementById("class-bars").replaceChildren(...rows);
  document.getElementById("confusion").replaceChildren();
}

/** What the pixels of a class were taken for at an exit, the most frequent first. */
function showConfusion(exit, index, button) {
  const { names, colours, confusion, confusion_split } = report.classes;
  for (const other of document.querySelectorAll("#class-bars button")) other.removeAttribute("aria-pressed");
  button.setAttribute("aria-pressed", "true");
  const row = confusion[exit][index];
  const total = row.reduce((sum, count) => sum + count, 0);
  const order = row.map((_, at) => at).filter((at) => row[at] > 0);
  order.sort((one, other) => row[other] - row[one]);
  const swatch = (at) => make("span", { class: "swatch", style: `background: ${colours[at]}` });
  const lines = order.slice(0, 8).map((at) => make("li", {}, swatch(at), ` ${names[at]} ${percent(row[at] / total)}`));
  const heading = make("h3", {}, `What ${names[index]} was taken for at ${exitName(exit)}`);
  const about = make("p", { class: "quiet" }, total ? `Of ${total.toLocaleString("en")} pixels labelled so on ${confusion_split}.` : `No pixel is labelled so on ${confusion_split}.`);
  document.getElementById("confusion").replaceChildren(heading, about, make("ol", {}, ...lines));
}

function beginClasses() {
  const select = document.getElementById("class-exit");
  select.append(...report.exits.map((name, index) => make("option", { value: index }, name)));
  select.addEventListener("change", () => showClasses(Number(select.value)));
  let touched = false;
  select.addEventListener("change", () => (touched = true));
  const start = (chosen) => {
    if (touched) return;
    select.value = chosen ? chosen.exits[0] : 0;
    showClasses(Number(select.value));
  };
  listeners.push(start);
  if (!report.choices) start(null);
}

// ------------------------------------------------------------------------------------------------------------ the beginning

document.documentElement.classList.add("live");
if (report.gallery) beginGallery();
if (report.classes) beginClasses();
if (report.choices) beginChoosing();
document.querySelector("#details form")?.addEventListener("submit", () => document.getElementById("details").close());
