/* What is asked for stands in the address, behind #; whatever changes it is followed by a search. */

const SVG = "http://www.w3.org/2000/svg";
const at = (id) => document.getElementById(id);
const PICKS = 24; // of the collection at once
const SMALL = 96; // pixels: enlarged, such a picture keeps its own

let about = null; // what /version says
let view = { k: 20, labels: [] }; // id, or code with other (the challenger's) and v; k, radius, labels, compare
let dropped = null; // a picture that was brought: {file, url, code}
let search = 0; // the number of the last one; answers of others are dropped
let offset = 0; // in the collection

/* Elements */

function element(tag, properties = {}, ...children) {
  const { attributes = {}, ...rest } = properties;
  const made = Object.assign(document.createElement(tag), rest);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function drawn(tag, attributes, ...children) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

function count(n, thing) {
  return `${n.toLocaleString("en").replaceAll(",", "\u202f")} ${thing}${n === 1 ? "" : "s"}`;
}

function image(src, alt = "") {
  const made = element("img", { alt, loading: "lazy", decoding: "async" });
  made.addEventListener("load", () => made.classList.toggle("small", made.naturalWidth <= SMALL));
  made.src = src;
  return made;
}

const copyOf = (id, size = "small") => image(`/api/picture?${new URLSearchParams({ id, size })}`);

function tell(text, fault = false) {
  at("told").textContent = text;
  at("told").classList.toggle("fault", fault);
}

/* Codes */

function bitsOf(code, length) {
  return Array.from({ length }, (_, i) => (parseInt(code.substr((i >> 3) * 2, 2), 16) >> (i & 7)) & 1);
}

/* A code as a strip; bits that differ from the asked picture's stand out, by height too. */
function strip(code, length, asked = null) {
  const bits = bitsOf(code, length);
  const other = bitsOf(asked ?? code, length);
  const differing = bits.flatMap((bit, i) => (bit === other[i] ? [] : [i]));
  const bars = (places, y, h) => places.map((i) => `M${i + 0.08} ${y}h.84v${h}h-.84z`).join("");
  const ones = bits.flatMap((bit, i) => (bit && bit === other[i] ? [i] : []));
  const said = asked === null ? `code ${bits.join("")}` : `bits that differ: ${differing.join(", ") || "none"}`;
  const svg = drawn("svg", { class: "bits", viewBox: `0 0 ${length} 10`, preserveAspectRatio: "none", role: "img", "aria-label": said });
  svg.append(
    drawn("title", {}, said),
    drawn("rect", { class: "ground", x: 0, y: 3, width: length, height: 4 }),
    drawn("path", { class: "ones", d: asked === null ? bars(ones, 0, 10) : bars(ones, 3, 4) }),
    drawn("path", { class: "differs", d: bars(differing, 0, 10) }),
  );
  return svg;
}

/* The address */

function read() {
  const given = new URLSearchParams(location.hash.slice(1));
  const number = (name) => (/^\d{1,9}$/.test(given.get(name) ?? "") ? Number(given.get(name)) : undefined);
  return {
    id: given.get("id") ?? undefined,
    code: given.get("code") ?? undefined,
    other: given.get("other") ?? undefined,
    v: given.get("v") ?? undefined,
    k: number("k") || 20,
    radius: number("radius"),
    labels: given.getAll("label"),
    compare: given.has("compare"),
  };
}

function address(of) {
  const said = new URLSearchParams();
  for (const name of ["id", "code", "other", "v", "k", "radius"]) if (of[name] !== undefined) said.set(name, of[name]);
  for (const label of of.labels) said.append("label", label);
  if (of.compare) said.set("compare", "1");
  return `#${said}`;
}

/* Another view; of filters no step back is kept, of pictures one is. */
function go(changes, { step = false, focus = false } = {}) {
  view = { ...view, ...changes };
  history[step ? "pushState" : "replaceState"](null, "", address(view));
  return show({ focus });
}

/* Requests */

async function ask(path, query = {}, options = {}) {
  const given = new URLSearchParams();
  for (const [name, value] of Object.entries(query))
    for (const each of [value].flat()) if (each !== undefined) given.append(name, each);
  for (;;) {
    const answer = await fetch(`${path}?${given}`, options).catch(() => null);
    if (answer === null) throw new Error("The service does not answer.");
    if (answer.status === 401) {
      await enter();
      continue;
    }
    const found = await answer.json().catch(() => ({}));
    if (!answer.ok) throw new Error(found.error ?? `The service answered ${answer.status}.`);
    return found;
  }
}

let door = null; // one question for the token, however many requests wait for it

function enter() {
  door ??= new Promise((resolve) => {
    const dialog = at("door");
    dialog.showModal();
    dialog.querySelector("form").onsubmit = async (event) => {
      event.preventDefault();
      const headers = { Authorization: `Bearer ${at("token").value}` };
      const answer = await fetch("/api/session", { method: "POST", headers }).catch(() => null);
      if (answer?.ok) {
        at("token").value = "";
        dialog.close();
        door = null;
        resolve();
      } else at("door-told").textContent = "That is not the token.";
    };
    dialog.oncancel = (event) => event.preventDefault();
  });
  return door;
}

const encode = (file, alias) => ask("/api/encode", { alias }, { method: "POST", body: file });

/* The answer of one model to what is asked. */
async function answerOf(alias) {
  const wanted = { alias, k: view.k, radius: view.radius, label: view.labels };
  if (view.id !== undefined) return ask("/api/search/image", { id: view.id, ...wanted });
  if (alias === "challenger" && view.other === undefined) {
    if (!dropped) throw new Error("The link has the champion's code alone: bring the picture to ask the challenger.");
    view.other = (await encode(dropped.file, alias)).code;
    history.replaceState(null, "", address(view));
  }
  return ask("/api/search/code", { code: alias === "champion" ? view.code : view.other, ...wanted });
}

/* The view */

async function show({ focus = false } = {}) {
  const number = ++search;
  controls();
  mark();
  if (view.id === undefined && view.code === undefined) {
    at("asked").hidden = true;
    at("answers").replaceChildren();
    return;
  }
  at("answers").setAttribute("aria-busy", "true");
  const sides = view.compare ? ["champion", "challenger"] : ["champion"];
  const settled = await Promise.allSettled(sides.map(answerOf));
  if (number !== search) return;
  at("answers").removeAttribute("aria-busy");
  const answers = settled.flatMap((each) => (each.status === "fulfilled" ? [each.value] : []));
  const faults = settled.flatMap((each) => (each.status === "rejected" ? [each.reason.message] : []));
  asked(answers);
  at("answers").classList.toggle("two", answers.length > 1);
  at("answers").replaceChildren(...answers.map(side));
  said(answers, faults);
  if (focus) {
    at("asked-title").focus({ preventScroll: true });
    at("asked").scrollIntoView({ block: "start" });
  }
}

function said(answers, faults) {
  const first = answers[0];
  const notes = answers.flatMap((each) => each.notes);
  const stale = first && view.code && view.v && view.v !== first.model.version;
  if (stale) notes.push(`the link was made with version ${view.v}, and version ${first.model.version} reads the code otherwise: bring the picture again`);
  const found = first
    ? `${count(first.neighbours.length, "picture")} of ${first.matching.toLocaleString("en")}${first.neighbours.length ? `, the nearest at distance ${first.neighbours[0].distance}` : ""}.`
    : "";
  tell([found, ...new Set(notes.map((note) => `Note: ${note}.`)), ...faults].join(" "), faults.length > 0 || Boolean(stale));
  if (first) served(answers.map((each) => each.model));
}

function served(models) {
  const names = models.map((model) => `${model.alias} ${model.name} version ${model.version} (${model.cell})`);
  at("served").textContent = `${count(about.searched, "picture")} · ${models[0].bits} bits · ${names.join(" · ")}`;
}

function asked(answers) {
  at("asked").hidden = !answers.length;
  if (!answers.length) return;
  const query = answers[0].asked;
  const brought = dropped && dropped.code === view.code;
  let picture = element("p", { className: "muted", textContent: "A code alone: the picture is not kept." });
  if (query.id !== null) picture = copyOf(query.id, "large");
  else if (brought) picture = image(dropped.url, "The picture that was brought");
  const codes = answers.map((each) =>
    element("figure", {}, element("figcaption", { textContent: `${each.model.alias}'s code: ${each.asked.code}` }), strip(each.asked.code, each.model.bits)),
  );
  const name = query.id ?? (brought ? dropped.file.name || "a pasted picture" : `code ${query.code}`);
  at("asked-body").replaceChildren(
    picture,
    element("div", {}, element("p", {}, element("strong", { textContent: name })), tags(query.labels, [])),
    element("div", { className: "codes" }, ...codes),
  );
  document.title = `${name}: similar pictures`;
}

function tags(labels, shared) {
  const items = [...labels].sort((a, b) => shared.includes(b) - shared.includes(a));
  const item = (label) => element("li", {}, shared.includes(label) ? element("mark", { textContent: label }) : label);
  return element("ul", { className: "tags", attributes: { "aria-label": "labels" } }, ...items.map(item));
}

function side(answer) {
  const { model, neighbours, ties } = answer;
  const shared = neighbours.filter((each) => each.shared.length).length;
  const known = answer.asked.labels.length ? ` · ${shared} of ${neighbours.length} share a label` : "";
  const header = element(
    "header",
    {},
    element("h3", { textContent: model.alias }),
    element("span", { textContent: `version ${model.version}, ${model.cell}${known}` }),
  );
  const list = element("ol", { className: "neighbours" });
  for (const tie of ties) {
    const group = neighbours.filter((each) => each.distance === tie.distance);
    group.forEach((each, i) => list.append(neighbour(answer, each, tie, i, group.length)));
  }
  return element("article", { className: "side", attributes: { "aria-label": model.alias } }, header, list);
}

function neighbour(answer, found, tie, place, size) {
  const bits = count(found.distance, "bit");
  const whole = tie.all === tie.shown;
  const ties = tie.all > 1 ? (whole ? `${tie.all} tie` : `${tie.shown} of ${tie.all}`) : "";
  const told = [`distance ${found.distance}`, ...(ties ? [whole ? ties : `${tie.all} tie, ${tie.shown} of them shown`] : []), ...(found.shared.length ? [`shares ${found.shared.join(", ")}`] : [])];
  const far = element("div", { className: "far" }, element("span", { textContent: bits }));
  if (place === 0 && ties) far.append(element("small", { textContent: ties }));
  const more = element("button", { type: "button", className: "more", title: "More like this" }, copyOf(found.id));
  more.setAttribute("aria-label", `More like ${found.id}: ${told.join("; ")}`);
  more.addEventListener("click", () => pick(found.id));
  const item = element(
    "li",
    { title: found.id },
    far,
    more,
    strip(found.code, answer.model.bits, answer.asked.code),
    tags(found.labels, found.shared),
  );
  item.classList.toggle("first", place === 0);
  item.classList.toggle("last", place === size - 1);
  item.classList.toggle("relevant", found.shared.length > 0);
  item.dataset.id = found.id;
  return item;
}

/* What is asked for */

function pick(id) {
  return go({ id, code: undefined, other: undefined, v: undefined }, { step: true, focus: true });
}

async function bring(file) {
  if (!file) return;
  if (about && file.size > about.most_bytes) {
    tell(`The picture has ${file.size.toLocaleString("en")} bytes; ${about.most_bytes.toLocaleString("en")} are taken.`, true);
    return;
  }
  tell("The picture is encoded…");
  try {
    const { code, model } = await encode(file, "champion");
    if (dropped) URL.revokeObjectURL(dropped.url);
    dropped = { file, url: URL.createObjectURL(file), code };
    await go({ id: undefined, code, other: undefined, v: model.version }, { step: true, focus: true });
  } catch (fault) {
    tell(fault.message, true);
  }
}

/* Controls and the collection */

function controls() {
  at("k").value = view.k;
  at("compare").checked = view.compare;
  const widest = Number(at("radius").max);
  at("radius").value = view.radius ?? widest;
  radiusTold();
  at("labels-told").textContent = view.labels.length ? view.labels.join(" and ") : "any";
  for (const box of at("labels").querySelectorAll("input")) box.checked = view.labels.includes(box.value);
}

function radius() {
  const chosen = Number(at("radius").value);
  return chosen === Number(at("radius").max) ? undefined : chosen;
}

function radiusTold() {
  at("radius-told").textContent = radius() === undefined ? "any distance" : count(radius(), "bit");
}

function changed() {
  if (!at("k").reportValidity()) return;
  const labels = [...at("labels").querySelectorAll("input:checked")].map((box) => box.value);
  go({ k: Number(at("k").value), radius: radius(), compare: at("compare").checked, labels });
}

async function browse() {
  const split = at("split").value || undefined;
  const found = await ask("/api/pictures", { offset, limit: PICKS, split });
  const last = Math.min(offset + PICKS, found.total);
  at("place").textContent = found.total ? `${offset + 1} to ${last} of ${found.total.toLocaleString("en")}` : "none";
  at("before").disabled = offset === 0;
  at("after").disabled = last >= found.total;
  at("pictures").replaceChildren(
    ...found.pictures.map(({ id, labels }) => {
      const button = element("button", { type: "button", className: "more" }, copyOf(id));
      button.setAttribute("aria-label", `Similar to ${id}: ${labels.join(", ") || "no labels"}`);
      button.addEventListener("click", () => pick(id));
      const item = element("li", { title: id }, button, tags(labels, []));
      item.dataset.id = id;
      return item;
    }),
  );
  mark();
}

function mark() {
  for (const item of at("pictures").children) {
    if (item.dataset.id === view.id) item.setAttribute("aria-current", "true");
    else item.removeAttribute("aria-current");
  }
}

function turn(by) {
  offset = Math.max(offset + by, 0);
  browse().catch((fault) => tell(fault.message, true));
}

async function start() {
  about = await ask("/version");
  at("radius").max = about.models[0].bits;
  const challenger = about.models.some((model) => model.alias === "challenger");
  at("compare").disabled = !challenger;
  if (!challenger) at("compare").parentElement.append(" (there is none)");
  served(about.models);
  const choice = ({ name, pictures }) =>
    element("li", {}, element("label", {}, element("input", { type: "checkbox", value: name }), name, element("small", { textContent: pictures })));
  at("labels").replaceChildren(...about.labels.map(choice));
  const splits = ["query", "database", "train", "added"].filter((name) => about.splits[name]);
  const named = { query: "queries", database: "database", train: "training pictures", added: "added later" };
  at("split").replaceChildren(...splits.map((name) => new Option(`${named[name]} (${about.splits[name]})`, name)));
  view = read();
  await Promise.all([show(), browse()]);
}

at("file").addEventListener("change", (event) => {
  bring(event.target.files[0]);
  event.target.value = "";
});
document.addEventListener("paste", (event) => bring(event.clipboardData.files[0]));
for (const name of ["dragover", "dragleave", "drop"])
  document.addEventListener(name, (event) => {
    event.preventDefault();
    at("drop").classList.toggle("over", name === "dragover");
    if (name === "drop") bring(event.dataTransfer.files[0]);
  });
at("controls").addEventListener("submit", (event) => event.preventDefault());
at("controls").addEventListener("change", changed);
at("radius").addEventListener("input", radiusTold);
at("split").addEventListener("change", () => turn(-offset));
at("before").addEventListener("click", () => turn(-PICKS));
at("after").addEventListener("click", () => turn(PICKS));
at("to-collection").addEventListener("click", (event) => {
  event.preventDefault(); // the address holds the view
  at("collection").focus({ preventScroll: true });
  at("collection").scrollIntoView();
});
document.querySelector(".skip").addEventListener("click", (event) => {
  event.preventDefault();
  at("answers").focus();
});
window.addEventListener("popstate", () => {
  view = read();
  show();
});

start().catch((fault) => tell(fault.message, true));
