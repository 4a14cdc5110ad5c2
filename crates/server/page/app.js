/** The page: finds its elements, shows what happens, passes on what the person does. */

import { Conversation } from "./conversation.js";
import { Camera, readPicture } from "./pictures.js";
import { authorization } from "./realtime.js";
import { VoiceChat } from "./voice-chat.js";

const view = (name) => document.querySelector(`[data-view=${name}]`);
const field = (name) => document.querySelector(`[data-field=${name}]`);
const action = (name) => document.querySelector(`[data-action=${name}]`);

const STATES = {
  idle: "Press to talk",
  connecting: "Connecting …",
  listening: "Listening",
  thinking: "Thinking …",
  speaking: "Speaking",
  error: "Something went wrong",
};

const show = {
  state(state, { talking }) {
    if (document.body.dataset.state !== state) document.body.dataset.state = state;
    view("state").textContent = STATES[state];
    action("talk").setAttribute("aria-pressed", String(talking));
    if (!talking) show.level(0);
    action("stop").hidden = state !== "thinking" && state !== "speaking";
    view("welcome").hidden = !conversation.empty;
  },

  error(message, { reconnect = false } = {}) {
    view("error").textContent = message;
    view("error").parentElement.hidden = !message;
    action("reconnect").hidden = !reconnect;
  },

  session(session) {
    view("model").textContent = session.model ?? "";
    chooseVoice(session.audio?.output?.voice);
    if (voicesMissing) loadVoices();
  },

  level(peak) {
    // The square root makes quiet speech visible.
    action("talk").style.setProperty("--level", Math.sqrt(Math.min(1, peak)).toFixed(3));
  },

  latency(ms) {
    view("latency").textContent = `First sound: ${Math.round(ms)} ms`;
  },

  played({ seconds, peak }) {
    document.body.dataset.playedSeconds = seconds.toFixed(3);
    document.body.dataset.playedPeak = peak.toFixed(4);
  },

  picture(url) {
    view("picture").hidden = !url;
    if (url) view("picture").querySelector("img").src = url;
  },
};

const conversation = new Conversation(view("conversation"));
const chat = new VoiceChat({
  conversation,
  show,
  processing: new URLSearchParams(location.search).get("processing") !== "off",
  // Over plain http a page has no audio worklet, so there is nothing to play with.
  silent: !window.isSecureContext,
});
const camera = new Camera(view("camera"));
let voicesMissing = true;

// The key and the voices.

/** Learns whether the server wants a key; asks again while the model is being loaded. */
async function look() {
  const answer = await fetch("health", { cache: "no-store" }).catch(() => null);
  const health = await answer?.json().catch(() => null);
  const ready = answer?.ok;
  notify(ready ? insecure() : answer ? "The server is loading the model or shutting down." : "The server does not answer.");
  if (!ready) return setTimeout(look, 3000);
  const keyNeeded = health?.key_required !== false; // a server that does not say may have one
  view("key").hidden = !keyNeeded;
  if (!keyNeeded || chat.key) loadVoices();
}

function insecure() {
  if (window.isSecureContext) return "";
  return "This page came over plain http. Browsers give microphone and sound output to https or localhost only: here you can type and read.";
}

function notify(text) {
  view("notice").textContent = text;
  view("notice").hidden = !text;
}

async function loadVoices() {
  const answer = await fetch("v1/audio/voices", { headers: authorization(chat.key) }).catch(() => null);
  if (!answer?.ok) return;
  const { voices } = await answer.json();
  voicesMissing = false;
  const options = voices.map((voice) => new Option(capitalized(voice), voice));
  const chosen = field("voice").value;
  field("voice").replaceChildren(new Option("Default", ""), ...options);
  chooseVoice(chosen);
}

function capitalized(name) {
  return name.charAt(0).toUpperCase() + name.slice(1);
}

function chooseVoice(voice) {
  const known = [...field("voice").options].some((option) => option.value === voice);
  if (known) field("voice").value = voice;
  else if (voice) field("voice").append(new Option(capitalized(voice), voice, true, true));
}

function keyTyped() {
  chat.key = field("key").value.trim();
  sessionStorage.setItem("key", chat.key);
}

field("key").value = chat.key = sessionStorage.getItem("key") ?? "";
field("key").addEventListener("input", keyTyped);
field("key").addEventListener("change", () => chat.key && voicesMissing && loadVoices());
field("voice").addEventListener("change", () => { chat.voice = field("voice").value; });
view("settings").addEventListener("submit", (event) => event.preventDefault());

// Questions.

action("talk").addEventListener("click", () => chat.talk());
action("stop").addEventListener("click", () => chat.stopAnswer());
action("reconnect").addEventListener("click", () => chat.reconnect());
action("dismiss").addEventListener("click", () => chat.dismissError());
action("restart").addEventListener("click", () => chat.restart());

async function send() {
  const text = field("question").value.trim();
  if (!text) return;
  field("question").value = "";
  const sent = await chat.ask(text);
  if (!sent) field("question").value ||= text; // nothing typed is lost
}

field("question").addEventListener("keydown", (event) => {
  // While an input method composes a word, Enter belongs to it.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  send();
});

view("composer").addEventListener("submit", (event) => {
  event.preventDefault();
  send();
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && !view("camera").open) chat.stopAnswer();
});

// Pictures.

async function attach(file) {
  if (!file?.type.startsWith("image/")) return;
  await orSay(async () => chat.attach(await readPicture(file)));
}

/** Does what may fail, and says why if it does. */
async function orSay(work) {
  try {
    await work();
  } catch (error) {
    show.error(error.message);
  }
}

action("choose-picture").addEventListener("click", () => field("picture").click());
field("picture").addEventListener("change", () => {
  attach(field("picture").files[0]);
  field("picture").value = ""; // the same file may be chosen again
});
action("remove-picture").addEventListener("click", () => chat.picture.remove());
action("open-camera").addEventListener("click", () => orSay(() => camera.open()));
action("close-camera").addEventListener("click", () => camera.close());
action("take-picture").addEventListener("click", () => {
  const url = camera.take();
  if (!url) return;
  camera.close();
  chat.attach(url);
});
document.addEventListener("paste", (event) => attach(event.clipboardData?.files[0]));
document.addEventListener("dragover", (event) => event.preventDefault());
document.addEventListener("drop", (event) => {
  event.preventDefault();
  attach(event.dataTransfer?.files[0]);
});

// The transcript.

async function copy() {
  const text = conversation.asText();
  const copied = navigator.clipboard ? await navigator.clipboard.writeText(text).then(() => true, () => false) : copyBySelection(text);
  action("copy").textContent = copied ? "Copied" : "Not copied";
  setTimeout(() => { action("copy").textContent = "Copy transcript"; }, 1500);
}

/** The clipboard's own interface exists over https only. */
function copyBySelection(text) {
  const area = document.createElement("textarea");
  area.value = text;
  document.body.append(area);
  area.select();
  const copied = document.execCommand("copy");
  area.remove();
  return copied;
}

action("copy").addEventListener("click", copy);

show.state(chat.state, { talking: false });
look();
