"use strict";
// Whatever comes from the ledger is set as text, never as markup.
const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);
const token = new URLSearchParams(location.search).get("token");
const kept = "ise-review-" + data.id;
const SAID = { same: true, different: false, unsure: null };

let questions = data.questions; // served: only the one that is asked
let images = data.images; // number -> {path, camera, picture}
let place = 0, current = 0, editing = false, busy = false, saved = true;
let answers = {}; // offline: place -> action
let extra = []; // offline: names, locks, merges, in order
let done = 0, history = []; // served: questions that were answered
let draft = fresh();

function fresh() { return { said: {}, strange: new Set() }; }

function make(kind, properties = {}, ...children) {
  const made = document.createElement(kind);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "text") made.textContent = value;
    else if (value !== null && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children.filter(Boolean));
  return made;
}

// -- what is shown

function titleOf(part) {
  if (part.own) return "The other half of the same person";
  if (part.person === null) return "One undecided image";
  return part.name ? `${part.name} · person ${part.person}` : `Person ${part.person}`;
}

function metaOf(part) {
  const cameras = [...new Set(part.shown.map((n) => images[n].camera).filter(Boolean))];
  const count = part.count === 1 ? "1 image" : `${part.count} images`;
  return count + (cameras.length ? ` · ${cameras.length === 1 ? "camera" : "cameras"} ${cameras.join(", ")}` : "");
}

function strip(part) {
  return make("ul", { class: "strip" }, ...part.shown.map((n) => {
    const image = images[n];
    const inside = image.picture ? make("img", { src: image.picture, alt: "" }) : make("span", { class: "gone", text: "file is gone" });
    return make("li", {}, make("button", {
      type: "button", title: image.path, "aria-label": `${image.path}: mark as somebody else`,
      "aria-pressed": String(draft.strange.has(n)), onclick: () => { toggle(n); },
    }, inside));
  }));
}

function toggle(n) {
  draft.strange.has(n) ? draft.strange.delete(n) : draft.strange.add(n);
  changed();
}

function choice(index) {
  const button = (word, label, style) => make("button", {
    type: "button", class: style, text: label, "aria-pressed": String(draft.said[index] === word),
    onclick: () => { current = index; say(word, false); },
  });
  return make("div", { class: "choice" }, button("same", "Same", "yes"), button("different", "Different", "no"), button("unsure", "Unsure", "maybe"));
}

function editor(about) {
  const name = make("input", { id: "name", value: about.name, autocomplete: "off", maxlength: 200 });
  const other = make("input", { id: "merge", inputmode: "numeric", autocomplete: "off" });
  const give = () => act({ kind: "name", name: name.value.trim() }, () => { about.name = name.value.trim(); });
  const join = () => /^\d+$/.test(other.value.trim()) ? act({ kind: "merge", person: Number(other.value) }) : tell("a person's number is wanted");
  name.addEventListener("keydown", (event) => { if (event.key === "Enter") give(); });
  return make("div", { class: "edit" },
    make("label", {}, "Name", name), make("button", { type: "button", text: "Give name", onclick: give }),
    make("label", {}, "Same as person number", other), make("button", { type: "button", text: "Merge", onclick: join }));
}

function draw() {
  const question = questions[place];
  at("question").hidden = !question;
  at("end").hidden = Boolean(question);
  at("rest").disabled = at("next").disabled = !question;
  at("undo").disabled = data.served ? !history.length : !(place > 0 || extra.length);
  const total = data.served ? done + data.left : questions.length;
  at("bar").style.width = total ? `${(100 * (data.served ? done : place)) / total}%` : "100%";
  at("progress").textContent = data.served ? `${done} answered` : `${Math.min(place + 1, questions.length)} of ${questions.length}`;
  if (!question) return finish();
  const about = question.about;
  at("question").replaceChildren(
    make("article", { class: "card about" },
      make("div", { class: "head" },
        make("h2", { text: titleOf({ ...about, own: false }) }), make("span", { class: "muted", text: metaOf(about) }),
        make("span", { class: "actions" },
          make("button", { type: "button", text: editing ? "Close" : "Edit", "aria-expanded": String(editing), onclick: edit }),
          make("button", { type: "button", text: about.locked ? "Unlock" : "Lock", title: "right as it is", onclick: lock }))),
      strip(about), editing ? editor(about) : null),
    make("p", { class: "hint" }, make("b", { text: question.others.length > 1 ? "Which of these are the same person?" : "Is this the same person?" }),
      make("span", { class: "muted", text: " Tap a picture that is somebody else's." })),
    make("div", { class: "others" }, ...question.others.map((part, index) => make("article",
      { class: `card other ${draft.said[index] || ""} ${index === current ? "current" : ""}`, id: `other${index}` },
      make("div", { class: "head" }, make("h3", { text: titleOf(part) }),
        make("span", { class: "muted", text: `${metaOf(part)} · ${Math.round(100 * part.probability)} % likely the same` })),
      strip(part), choice(index)))));
}

function finish() {
  const text = data.served ? "Every answer is in the ledger." : "Save the answers, then read them in:";
  at("end").replaceChildren(make("h2", { text: data.served ? "Nothing left that is worth asking" : "That is all" }), make("p", { text }),
    data.served ? null : make("p", {}, make("code", { text: `ise-identities import --ledger ${data.ledger} answers.json` })));
}

function tell(text) {
  at("message").hidden = !text;
  at("message").textContent = text || "";
  if (text) scrollTo({ top: 0 });
}

function changed() { draw(); if (!data.served) keep(); }

// -- what is said

function say(word, forward) {
  draft.said[current] = word;
  const open = questions[place].others.findIndex((_, i) => !(i in draft.said));
  if (forward && open >= 0) current = open;
  changed();
  if (forward) at(`other${current}`).scrollIntoView({ block: "nearest", behavior: "smooth" });
}

function rest() {
  questions[place].others.forEach((_, index) => { if (!(index in draft.said)) draft.said[index] = "different"; });
  changed();
}

function edit() { editing = !editing; draw(); if (editing) at("name").focus(); }

function lock() {
  const about = questions[place].about;
  act({ kind: "lock", locked: !about.locked }, () => { about.locked = !about.locked; });
}

// the first picture that was not marked stands for its part
const key = (part) => part.shown.find((n) => !draft.strange.has(n)) ?? part.shown[0];
const named = (n) => ({ image: n, path: images[n].path });

function answerOf(question) {
  const said = question.others.map((part, i) => ({ ...named(key(part)), images: part.own ? part.images : [], same: SAID[draft.said[i] ?? "unsure"] }));
  return { kind: "answer", ...named(key(question.about)), others: said, strange: [...draft.strange].map(named) };
}

async function next() {
  const question = questions[place];
  if (!question || busy) return;
  if (data.served) return send("/act", { ...answerOf(question), question: question.id }, (found) => {
    history.push({ question, draft, images });
    done += 1;
    take(found);
  });
  answers[place] = answerOf(question);
  answers[place].draft = { said: draft.said, strange: [...draft.strange] };
  move(place + 1);
  saved = false;
  keep();
}

function move(to) {
  place = Math.max(0, Math.min(questions.length, to));
  const before = answers[place] && answers[place].draft;
  draft = before ? { said: { ...before.said }, strange: new Set(before.strange) } : fresh();
  current = 0; editing = false;
  tell(""); draw(); scrollTo({ top: 0 });
}

// names, locks and merges: at once where the page is served, else with the answers
async function act(action, then) {
  const about = questions[place].about;
  const whole = { ...named(key(about)), ...action };
  if (data.served) return send("/act", whole, (found) => {
    history.push(null);
    if (then) then();
    if (action.kind === "merge") take(found); else draw();
  });
  extra.push(whole); saved = false; if (then) then();
  draw(); keep(); tell(action.kind === "merge" ? `kept for the file: the same as person ${action.person}` : "");
}

async function undo() {
  if (busy) return;
  if (data.served) {
    if (!history.length) return;
    return send("/undo", {}, (found) => {
      const before = history.pop();
      if (before) {
        done -= 1; questions = [before.question]; images = before.images; draft = before.draft; place = current = 0;
      } else take(found);
      draw();
    });
  }
  if (place > 0) { const last = place - 1; move(last); delete answers[last]; } else extra.pop();
  keep(); draw();
}

// -- where it goes

async function send(to, body, then) {
  busy = true;
  document.body.style.cursor = "progress";
  try {
    const reply = await fetch(to, { method: "POST", headers: { "Content-Type": "application/json", "X-Review-Token": token }, body: JSON.stringify(body) });
    const found = await reply.json();
    if (found.error) tell(found.error);
    else { then(found); tell((found.refused || []).join("; ")); }
  } catch (error) {
    tell("the ledger's program does not answer; start ise-identities review --serve again");
  } finally {
    busy = false;
    document.body.style.cursor = "";
  }
}

function take(found) {
  questions = found.questions; images = found.images; data.left = found.left;
  place = current = 0; editing = false; draft = fresh();
  draw(); scrollTo({ top: 0 });
}

function file() {
  const given = [...extra, ...Object.keys(answers).map(Number).sort((a, b) => a - b).map((n) => ({ ...answers[n], draft: undefined }))];
  return JSON.stringify({ kind: "ise-review", version: 1, answers: given }, null, 1);
}

function save() {
  const link = make("a", { href: URL.createObjectURL(new Blob([file()], { type: "application/json" })), download: "answers.json" });
  link.click();
  saved = true;
}

function keep() {
  try { localStorage.setItem(kept, JSON.stringify({ answers, extra, place })); } catch (error) { /* a browser without: the file remains */ }
}

function start() {
  try {
    const before = data.served ? null : JSON.parse(localStorage.getItem(kept));
    if (before) { answers = before.answers; extra = before.extra; saved = false; return move(before.place); }
  } catch (error) { /* nothing is kept */ }
  draw();
}

addEventListener("keydown", (event) => {
  if (event.target.matches("input") || event.ctrlKey || event.metaKey || event.altKey) return;
  const question = questions[place];
  const pressed = event.key.toLowerCase();
  if (pressed === "z" || pressed === "backspace") undo();
  else if (!question) return;
  else if ({ s: 1, d: 1, u: 1 }[pressed]) say({ s: "same", d: "different", u: "unsure" }[pressed], true);
  else if (pressed === "r") rest();
  else if (pressed === "l") lock();
  else if (pressed === "n") edit();
  else if (pressed === "arrowdown" || pressed === "arrowup") {
    current = Math.max(0, Math.min(question.others.length - 1, current + (pressed === "arrowdown" ? 1 : -1)));
    draw(); at(`other${current}`).scrollIntoView({ block: "nearest" });
  } else if (pressed === "enter" && !event.target.matches("button")) next();
  else return;
  event.preventDefault();
});
at("next").addEventListener("click", next);
at("rest").addEventListener("click", rest);
at("undo").addEventListener("click", undo);
if (at("save")) at("save").addEventListener("click", save);
addEventListener("beforeunload", (event) => { if (!data.served && !saved) event.preventDefault(); });
start();
