// The page: conversations at the side, one in the middle. All text goes in as text, never as markup.

import { Refusal, call, hasToken, json, setToken, stream, upload } from "./api.js";
import { draw, tokenAt, words } from "./strip.js";

const $ = (id) => document.getElementById(id);
const FIELDS = ["temperature", "top_p", "top_k", "max_tokens", "seed"];
const state = { id: null, sessions: [], messages: [], cut: null, busy: null, found: null };

// --- small things ----------------------------------------------------------------------------------------------------

function element(name, attributes = {}, ...children) {
  const made = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

const count = (n) => Number(n || 0).toLocaleString("en");

// What goes wrong is said; a missing token is asked for, and the thing is tried again.
async function attempt(work) {
  try {
    return await work();
  } catch (error) {
    if (error instanceof Refusal && error.status === 401) {
      const token = await askText("This server needs a token", "Token", "");
      if (token) {
        setToken(token.trim());
        return attempt(work);
      }
    }
    if (error.name !== "AbortError") say(error.message || String(error), true);
    return undefined;
  }
}

function askText(title, label, text, { area = false, sure = false } = {}) {
  $("dialogtitle").textContent = title;
  $("dialoglabel").textContent = label;
  $("dialogtext").value = text;
  $("dialogtext").rows = area ? 6 : 1;
  $("dialogtext").hidden = sure;
  $("dialog").returnValue = "";
  $("dialog").showModal();
  return new Promise((resolve) => {
    $("dialog").addEventListener("close", () => resolve($("dialog").returnValue === "yes" ? $("dialogtext").value || "yes" : null), {
      once: true,
    });
  });
}

// --- conversations ---------------------------------------------------------------------------------------------------

async function refreshList() {
  const query = $("search").value.trim();
  const answer = await json("GET", `sessions?limit=200&q=${encodeURIComponent(query)}`);
  state.sessions = answer.data;
  const items = state.sessions.map((session) =>
    element(
      "li",
      { class: session.parent ? "child" : null },
      element(
        "button",
        { type: "button", "aria-current": session.id === state.id ? "true" : null, onclick: () => open(session.id) },
        session.title || "New conversation",
        element("small", {}, `${session.messages} messages, ${count(session.tokens)} tokens`),
      ),
    ),
  );
  if (!items.length) items.push(element("li", {}, query ? "Nothing found." : "No conversations yet."));
  $("list").replaceChildren(...items);
}

function showTitle() {
  const session = state.sessions.find((each) => each.id === state.id);
  const title = (session && session.title) || "New conversation";
  $("title").textContent = title;
  document.title = `${title} — mccore`;
  for (const name of ["rename", "branch", "export", "delete"]) $(name).disabled = !state.id;
}

async function open(id) {
  closeMenu();
  state.id = id;
  state.cut = null;
  history.replaceState(null, "", id ? `#${id}` : "#");
  await attempt(async () => {
    state.messages = id ? (await json("GET", `sessions/${id}/messages`)).data : [];
    renderMessages();
    await refreshList();
    showTitle();
    await look();
  });
  $("question").focus();
}

async function ensureSession() {
  if (state.id) return state.id;
  const made = await json("POST", "sessions", { system: $("system").value || null });
  state.id = made.id;
  history.replaceState(null, "", `#${made.id}`);
  return made.id;
}

// --- messages --------------------------------------------------------------------------------------------------------

const NAMES = { user: "You", assistant: "Model", system: "System", file: "File" };

function renderMessage(message, index) {
  const text = element("div", { class: "text" });
  if (message.parts) {
    for (const part of message.parts) text.append(part.type === "text" ? part.text : element("span", { class: "tool" }, ` [${part.text}] `));
  } else text.textContent = message.text;
  const footer = element("footer");
  if (message.role === "user") footer.append(element("button", { type: "button", onclick: () => edit(index) }, "Edit"));
  if (message.role === "assistant") {
    footer.append(element("button", { type: "button", onclick: () => regenerate(index) }, "Regenerate"));
    footer.append(element("button", { type: "button", onclick: () => branchAt(index + 1) }, "Branch here"));
    if (message.finish) footer.append(figures(message));
  }
  const article = element("article", { class: message.role }, element("h2", {}, NAMES[message.role] || message.role), text);
  if (footer.childNodes.length) article.append(footer);
  return article;
}

function figures(message) {
  const spent = message.seconds - (message.first_token_seconds || 0);
  const speed = message.new_tokens > 1 && spent > 0 ? `${((message.new_tokens - 1) / spent).toFixed(1)} tokens/s, ` : "";
  const read = message.prompt_tokens - message.cached_tokens;
  const ended = { cancelled: ", stopped", interrupted: ", broken off", length: ", cut off at its longest" }[message.finish] || "";
  return `${message.new_tokens} tokens, ${speed}${count(read)} read, ${count(message.cached_tokens)} not read again${ended}`;
}

function renderMessages() {
  $("messages").replaceChildren(...state.messages.map(renderMessage));
  $("messages").scrollTop = $("messages").scrollHeight;
}

function sampling() {
  const body = {};
  for (const name of FIELDS) if ($(name).value !== "") body[name] = Number($(name).value);
  return body;
}

function busy(controller) {
  state.busy = controller;
  $("send").disabled = Boolean(controller);
  $("stop").hidden = !controller;
  $("messages").setAttribute("aria-busy", controller ? "true" : "false");
  for (const button of document.querySelectorAll("article footer button")) button.disabled = Boolean(controller);
}

// Sends a message, null to have the last one answered, and shows the answer as it comes.
async function ask(content) {
  const controller = new AbortController();
  busy(controller);
  say("Reading…");
  let unsent = content;
  await attempt(async () => {
    const id = await ensureSession();
    const begun = performance.now();
    let shown = null;
    let tokens = 0;
    if (content !== null) {
      state.messages.push({ role: "user", text: content });
      renderMessages();
    }
    let looked = performance.now();
    for await (const event of stream(`sessions/${id}/messages`, { content, ...sampling() }, controller.signal)) {
      if (event.event === "read") {
        unsent = null;
        say("Answering…");
        shown = element("div", { class: "text" });
        $("messages").append(element("article", { class: "assistant" }, element("h2", {}, "Model"), shown));
      } else if (event.event === "said") {
        tokens += 1;
        const follow = $("messages").scrollHeight - $("messages").scrollTop - $("messages").clientHeight < 80;
        shown.append(event.type === "text" ? event.text : element("span", { class: "tool" }, event.text));
        if (follow) $("messages").scrollTop = $("messages").scrollHeight;
        say(`Answering: ${((1000 * tokens) / (performance.now() - begun)).toFixed(1)} pieces/s`);
        if (performance.now() - looked > 2000) {
          looked = performance.now();
          look().catch(() => {});
        }
      } else if (event.event === "error") throw new Refusal(500, event.error.message);
      else if (event.event === "done") say(event.finish === "cancelled" ? "Stopped." : "");
    }
  });
  busy(null);
  if (unsent !== null && unsent !== undefined) $("question").value = $("question").value || unsent;
  await attempt(async () => {
    if (state.id) state.messages = (await json("GET", `sessions/${state.id}/messages`)).data;
    renderMessages();
    await refreshList();
    showTitle();
    await look();
  });
  $("question").focus();
}

async function branchAt(at) {
  const made = await attempt(() => json("POST", `sessions/${state.id}/branch`, { at }));
  if (made) await open(made.id);
  return made;
}

async function edit(index) {
  const text = await askText("Edit the message", "The conversation goes on from here in a branch; this one stays.", state.messages[index].text, {
    area: true,
  });
  if (text !== null && (await branchAt(index))) await ask(text);
}

async function regenerate(index) {
  if (await branchAt(index)) await ask(null);
}

// --- the strip -------------------------------------------------------------------------------------------------------

async function look() {
  const id = state.id;
  const cut = id ? await json("GET", `sessions/${id}/cut`).catch(() => null) : null;
  if (id !== state.id) return;
  state.cut = cut;
  $("context").hidden = !cut || !cut.tokens;
  if (!cut || !cut.tokens) return;
  $("cutwords").textContent = words(cut);
  $("strip").setAttribute("aria-label", words(cut));
  draw($("strip"), cut.runs, cut.tokens);
  if ($("passages").open) await showPassages();
}

// The passages of the far past that the last answer saw word for word: all but the newest run.
async function showPassages() {
  const last = [...state.messages].reverse().find((message) => message.role === "assistant" && message.seen);
  const raw = ((last && last.seen) || []).filter((run) => run[2] === 0);
  const far = raw.slice(0, -1).reverse().slice(0, 20);
  const items = [];
  for (const [start, stop] of far) {
    const found = await json("GET", `sessions/${state.id}/text?start=${start}&stop=${Math.min(stop, start + 400)}`);
    items.push(element("li", {}, `tokens ${count(start)} to ${count(stop)}: `, element("pre", {}, found.text)));
  }
  if (!items.length) items.push(element("li", {}, "Nothing but the newest tokens."));
  $("seen").replaceChildren(...items);
}

async function showAt(event) {
  if (!state.cut) return;
  const at = Math.max(0, Math.min(state.cut.tokens - 1, tokenAt($("strip"), event.clientX, state.cut.tokens)));
  const run = state.cut.runs.find((each) => at >= each[0] && at < each[1]);
  const found = await attempt(() => json("GET", `sessions/${state.id}/text?start=${at}&stop=${Math.min(at + 100, state.cut.tokens)}`));
  if (!found) return;
  const level = !run ? "not read yet" : run[2] === 0 ? "word for word" : `as gists of level ${run[2]}`;
  say(`Token ${count(at)}, ${level}: ${found.text.replace(/\s+/g, " ").slice(0, 200)}`);
}

// --- files -----------------------------------------------------------------------------------------------------------

async function addFiles(files) {
  for (const file of files) {
    await attempt(async () => {
      const id = await ensureSession();
      $("progress").hidden = false;
      busy(state.busy || new AbortController());
      const done = await upload(`sessions/${id}/files?name=${encodeURIComponent(file.name)}`, file, (part) => {
        $("bar").value = part;
        $("progresswords").textContent = `${file.name}: ${Math.round(100 * part)} % sent, being read`;
      });
      say(`${file.name}: ${count(done.tokens)} tokens are in the history.`);
    });
    $("progress").hidden = true;
    busy(null);
  }
  if (state.id) await open(state.id);
}

// --- what buttons do -------------------------------------------------------------------------------------------------

function closeMenu() {
  document.body.classList.remove("menu");
  $("menu").setAttribute("aria-expanded", "false");
}

async function exportSession() {
  const session = state.sessions.find((each) => each.id === state.id) || {};
  const text = JSON.stringify({ title: session.title, id: state.id, messages: state.messages }, null, 2);
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type: "application/json" })), download: `${session.title || "conversation"}.json` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

async function rename() {
  const title = await askText("Rename the conversation", "Title", $("title").textContent);
  if (!title) return;
  await attempt(async () => {
    await json("PATCH", `sessions/${state.id}`, { title });
    await refreshList();
    showTitle();
  });
}

async function remove() {
  if (!(await askText("Delete this conversation?", "Its history is removed from the disk.", "", { sure: true }))) return;
  if (await attempt(() => call("DELETE", `sessions/${state.id}`))) await open(null);
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem("theme", name);
  if (state.cut) draw($("strip"), state.cut.runs, state.cut.tokens);
}

function wire() {
  $("new").onclick = () => open(null);
  $("rename").onclick = rename;
  $("branch").onclick = () => branchAt(state.messages.length);
  $("export").onclick = exportSession;
  $("delete").onclick = remove;
  $("menu").onclick = () => {
    const shown = document.body.classList.toggle("menu");
    $("menu").setAttribute("aria-expanded", String(shown));
    if (shown) $("new").focus();
  };
  $("hide").onclick = closeMenu;
  $("theme").onclick = () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark");
  $("leave").hidden = !hasToken();
  $("leave").onclick = () => {
    setToken("");
    location.reload();
  };
  $("stop").onclick = () => attempt(() => (state.id ? json("POST", `sessions/${state.id}/stop`) : state.busy.abort()));
  $("ask").onsubmit = (event) => {
    event.preventDefault();
    const text = $("question").value;
    if (!text.trim() || state.busy) return;
    $("question").value = "";
    ask(text);
  };
  $("question").onkeydown = (event) => {
    if (event.key === "Enter" && !event.shiftKey && !event.isComposing) {
      event.preventDefault();
      $("ask").requestSubmit();
    }
  };
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && state.busy && !$("dialog").open) $("stop").click();
    else if (event.key === "Escape") closeMenu();
  });
  let waiting = 0;
  $("search").oninput = () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => attempt(refreshList), 200);
  };
  $("file").onchange = async () => {
    await addFiles([...$("file").files]);
    $("file").value = "";
  };
  $("strip").onclick = showAt;
  $("passages").ontoggle = () => $("passages").open && attempt(showPassages);
  for (const name of ["dragover", "dragleave", "drop"]) {
    document.addEventListener(name, (event) => {
      event.preventDefault();
      document.body.classList.toggle("drop", name === "dragover");
      if (name === "drop" && event.dataTransfer.files.length) addFiles([...event.dataTransfer.files]);
    });
  }
  window.addEventListener("resize", () => state.cut && draw($("strip"), state.cut.runs, state.cut.tokens));
  for (const name of [...FIELDS, "system"]) {
    $(name).value = localStorage.getItem(`field.${name}`) || "";
    $(name).onchange = () => localStorage.setItem(`field.${name}`, $(name).value);
  }
}

async function begin() {
  theme(localStorage.getItem("theme") || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
  wire();
  await attempt(async () => {
    const served = (await json("GET", "models")).data[0];
    $("temperature").placeholder = served.defaults.temperature;
    $("top_k").placeholder = served.defaults.top_k;
    $("top_p").placeholder = 1;
    $("max_tokens").placeholder = served.defaults.max_new_tokens;
    await refreshList();
  });
  const wanted = location.hash.slice(1);
  await open(state.sessions.some((session) => session.id === wanted) ? wanted : null);
  document.documentElement.dataset.ready = "true";
}

begin();
