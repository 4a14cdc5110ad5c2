/**
 * A voice chat: joins microphone, connection, loudspeaker and the conversation on the screen.
 *
 * The server finds the turns (server VAD) and begins the answers; this side stops the sound when the person
 * speaks, and tells the server how much of the answer was heard.
 */

import { encode, RATE } from "./pcm.js";
import { PendingPicture } from "./pending-picture.js";
import { Player } from "./player.js";
import { Realtime } from "./realtime.js";
import { Recorder } from "./recorder.js";

export class VoiceChat {
  #conversation;
  #show;
  #processing;
  #voice = "";
  #session = null;
  #connecting = false;
  #fault = false;
  #asking = false; // a typed question is on its way
  #awaited = false; // the question is over, its answer has not begun
  #response = null; // the id of the answer being made
  #item = null; // the id of its item
  #speaking = null; // the item whose sound is being played
  #userSpeaks = false;
  #stops = 0; // how often the person stopped an answer
  #unwanted = false; // the awaited answer was stopped before it began
  #askedAt = null;
  #ignored = new Set(); // responses that were interrupted: what still comes of them is dropped
  #unshown = new Set(); // events whose errors mean nothing to people: what they were about was over already
  #voiceEvent = null;
  #createEvent = null;
  #lastWords = null; // the error that announced the end of the session
  #whenDone = [];

  /** `show` has a method for each thing that changes on the screen; `silent` asks for answers without sound. */
  constructor({ conversation, show, processing, silent }) {
    this.#conversation = conversation;
    this.#show = show;
    this.#processing = processing;
    this.silent = silent;
    this.key = "";
    this.realtime = new Realtime({ onEvent: (event) => this.#receive(event), onLost: () => this.#lost() });
    this.recorder = new Recorder({
      onPiece: (samples, level) => this.#record(samples, level),
      onEnd: () => this.#fail("The microphone was disconnected."),
    });
    this.player = new Player({
      onProgress: (played) => this.#played(played),
      onFirstSound: (itemId) => this.#firstSound(itemId),
    });
    this.picture = new PendingPicture({ send: (type, fields) => this.realtime.send(type, fields), show: show.picture });
  }

  get state() {
    if (this.#fault) return "error";
    if (this.#connecting) return "connecting";
    if (this.#speaking) return "speaking";
    if (this.#asking || this.#awaited || this.#response || this.player.pending) return "thinking";
    return this.recorder.on ? "listening" : "idle";
  }

  // What the person does.

  /** Turns the microphone on or off. Call it inside the click: loudspeakers open only there. */
  async talk() {
    if (this.#connecting) return;
    if (this.recorder.on) this.#stopTalking();
    else await this.#attempt(() => this.recorder.start({ processing: this.#processing }));
    this.#changed();
  }

  /** Asks a typed question; false if it could not be sent. Call it inside the key press. */
  async ask(text) {
    if (this.#connecting || this.#asking) return false;
    this.#asking = true;
    const sent = await this.#ask(text);
    this.#asking = false;
    this.#changed();
    return sent;
  }

  async reconnect() {
    if (!this.#connecting) await this.#attempt();
  }

  /** Ends the answer that is being made or played, and a question that is about to be sent. */
  async stopAnswer() {
    this.#stops++;
    this.#unwanted = this.#awaited;
    await this.#cancel();
    this.#changed();
  }

  /** The person read what went wrong. */
  dismissError() {
    this.#fault = false;
    this.#show.error("");
    this.#changed();
  }

  attach(url) {
    this.picture.attach(url);
    this.#changed();
  }

  set voice(voice) {
    this.#voice = voice;
    if (voice && this.realtime.open) this.#sendVoice();
  }

  /** Ends the session, so that the model forgets; the next question opens another. */
  async restart() {
    if (this.#connecting) return;
    this.recorder.stop();
    await this.player.stop();
    this.realtime.close();
    this.#forgetSession();
    this.#conversation.clear();
    this.dismissError();
  }

  // Opening.

  /** Opens loudspeaker and connection if they are not, then does `more`. */
  async #attempt(more = async () => {}) {
    this.#fault = false;
    this.#connecting = true;
    this.#show.error("");
    this.#changed();
    try {
      await this.#open();
      await more();
    } catch (error) {
      this.#fail(error.message);
    }
    this.#connecting = false;
    this.#changed();
    return !this.#fault;
  }

  async #open() {
    await Promise.all([this.silent || this.player.unlock(), this.realtime.open || this.#connect()]);
  }

  async #connect() {
    await this.realtime.connect(this.key);
    if (!this.#conversation.empty) this.#conversation.addBreak();
    this.#update({ audio: { input: { transcription: { model: "default" } } } });
    if (this.silent) this.#update({ output_modalities: ["text"] });
    if (this.#voice) this.#sendVoice();
  }

  #update(session) {
    return this.realtime.send("session.update", { session: { type: "realtime", ...session } });
  }

  #sendVoice() {
    this.#voiceEvent = this.#update({ audio: { output: { voice: this.#voice } } });
  }

  // Asking.

  #record(samples, level) {
    this.#show.level(level);
    this.realtime.send("input_audio_buffer.append", { audio: encode(samples) });
  }

  /** Somebody who turns the microphone off inside a turn is done: silence lets the server end the turn. */
  #stopTalking() {
    this.recorder.stop();
    if (!this.#userSpeaks) return;
    const pause = this.#session?.audio?.input?.turn_detection?.silence_duration_ms ?? 500;
    const silence = encode(new Int16Array(0.04 * RATE));
    for (let ms = 0; ms < pause + 400; ms += 40) this.realtime.send("input_audio_buffer.append", { audio: silence });
  }

  async #ask(text) {
    const stops = this.#stops;
    if (!(await this.#attempt())) return false;
    await this.#cancel();
    await this.#answerDone();
    if (!this.realtime.open || stops !== this.#stops) return false;
    this.#sendQuestion(text);
    this.#createEvent = this.realtime.send("response.create");
    this.#asked();
    return true;
  }

  #sendQuestion(text) {
    const { url, parts } = this.picture.use();
    const content = [...parts, { type: "input_text", text }];
    this.realtime.send("conversation.item.create", { item: { type: "message", role: "user", content } });
    this.#conversation.addQuestion({ text, picture: url });
  }

  #asked() {
    this.#askedAt = performance.now();
    this.#awaited = true;
    this.#unwanted = false;
    this.#changed();
  }

  // Interrupting.

  async #cancel() {
    if (this.#response) this.#sendQuietly("response.cancel");
    await this.#interrupt();
  }

  async #interrupt() {
    const unheard = this.#silentItem();
    if (this.#response) this.#ignored.add(this.#response);
    this.#speaking = null;
    const cut = await this.player.stop();
    cut.forEach(({ itemId, ms, share }) => this.#truncate(itemId, ms, share));
    if (unheard) this.#truncate(unheard, 0, 0);
  }

  /** The item being made, if none of its sound has come: its words were read at most. */
  #silentItem() {
    return this.#response && this.#item && this.player.progress(this.#item).received === 0 ? this.#item : null;
  }

  /** Until this comes the server takes for heard all that it sent. */
  #truncate(item_id, audio_end_ms, share) {
    if (!this.silent) this.#sendQuietly("conversation.item.truncate", { item_id, content_index: 0, audio_end_ms });
    const turn = this.#conversation.find(item_id);
    if (turn?.text) turn.interruptAtShare(this.silent ? 1 : share);
  }

  #sendQuietly(type, fields) {
    this.#unshown.add(this.realtime.send(type, fields));
  }

  /** The server makes one answer at a time: a new one waits for the cancelled one's end. */
  #answerDone() {
    return this.#response ? new Promise((resolve) => this.#whenDone.push(resolve)) : Promise.resolve();
  }

  // What the server says.

  #receive(event) {
    if (event.type !== "response.done" && this.#ignored.has(event.response_id)) return;
    this.#dispatch(event);
    this.#changed();
  }

  #dispatch(event) {
    switch (event.type) {
      case "session.created":
      case "session.updated": return this.#sessionChanged(event.session);
      case "input_audio_buffer.speech_started": return this.#speechStarted();
      case "input_audio_buffer.speech_stopped": return this.#speechStopped();
      case "input_audio_buffer.committed": return this.#committed(event);
      case "conversation.item.input_audio_transcription.completed": return this.#transcribed(event);
      case "conversation.item.added": return this.picture.added(event.item);
      case "conversation.item.truncated": return this.#sendQuietly("conversation.item.retrieve", { item_id: event.item_id });
      case "conversation.item.retrieved": return this.#retrieved(event.item);
      case "response.created": return this.#responseCreated(event.response);
      case "response.output_item.added": return this.#itemAdded(event.item);
      case "response.output_audio_transcript.delta":
      case "response.output_text.delta": return this.#words(event);
      case "response.output_audio.delta": return this.player.push(event.item_id, event.delta);
      case "response.output_audio.done": return this.#soundDone(event.item_id);
      case "response.done": return this.#responseDone(event.response);
      case "error": return this.#refused(event.error);
    }
  }

  #sessionChanged(session) {
    this.#session = session;
    this.#show.session(session);
  }

  #speechStarted() {
    this.#userSpeaks = true;
    this.#awaited = false;
    const serverCancels = this.#session?.audio?.input?.turn_detection?.interrupt_response !== false;
    if (serverCancels) this.#interrupt();
    else this.#cancel();
  }

  #speechStopped() {
    this.#userSpeaks = false;
    this.#asked();
  }

  #committed({ item_id }) {
    this.#conversation.addQuestion({ itemId: item_id, picture: this.picture.useSent() });
  }

  #transcribed({ item_id, transcript }) {
    if (transcript?.trim()) this.#conversation.find(item_id)?.setText(transcript.trim());
  }

  #retrieved({ id, content }) {
    const words = content?.[0]?.transcript ?? content?.[0]?.text;
    if (words !== undefined && words !== null) this.#conversation.find(id)?.interruptAfter(words);
  }

  #responseCreated({ id }) {
    this.#awaited = false;
    this.#response = id;
    this.#item = null;
    if (this.#unwanted) this.#cancel();
  }

  #itemAdded({ id, type }) {
    if (type !== "message") return;
    this.#item = id;
    this.#conversation.answer(id);
  }

  #words({ item_id, delta }) {
    this.#conversation.append(item_id, delta);
    if (!this.silent) this.#follow(item_id);
  }

  #soundDone(itemId) {
    this.player.finish(itemId);
    this.#follow(itemId);
  }

  #responseDone({ id, status, status_details }) {
    if (id !== this.#response) return;
    if (status === "failed") this.#show.error(status_details?.error?.message ?? "The answer failed on the server.");
    this.#closeTurn(this.#item, status);
    this.#response = this.#item = null;
    this.#awaited = false;
    this.#whenDone.splice(0).forEach((resolve) => resolve());
  }

  #closeTurn(itemId, status) {
    const turn = this.#conversation.find(itemId);
    if (!turn) return;
    if (!turn.text) return this.#conversation.remove(itemId);
    if (status === "incomplete") turn.remark("Ended at the length limit");
    if (status === "failed") turn.remark("Failed");
    this.player.finish(itemId);
    if (this.player.progress(itemId).received === 0) turn.forget();
    turn.finish();
  }

  #refused({ code, message, event_id }) {
    if (this.#unshown.has(event_id)) return;
    if (event_id && event_id === this.#createEvent) this.#awaited = false;
    if (event_id && event_id === this.#voiceEvent) this.#voiceRefused();
    if (code === "session_expired" || code === "shutting_down") this.#lastWords = message;
    this.#show.error(message);
  }

  #voiceRefused() {
    this.#voice = "";
    this.#show.session(this.#session);
  }

  // What the loudspeaker says.

  #played(played) {
    this.#show.played(played);
    this.#follow(this.#speaking);
    this.#changed();
  }

  #firstSound(itemId) {
    this.#speaking = itemId;
    if (this.#askedAt !== null) this.#show.latency(performance.now() - this.#askedAt);
    this.#askedAt = null;
  }

  #follow(itemId) {
    this.#conversation.find(itemId)?.follow(this.player.progress(itemId));
  }

  // Ends and faults.

  #lost() {
    const open = this.#lastWords ?? "The connection to the server was lost.";
    this.#forgetSession();
    this.#fail(open, { reconnect: true });
  }

  #fail(message, options) {
    this.recorder.stop();
    this.#fault = true;
    this.#show.error(message, options);
    this.#changed();
  }

  #forgetSession() {
    if (this.#item) this.#closeTurn(this.#item, "failed");
    this.#response = this.#item = this.#speaking = this.#askedAt = this.#lastWords = null;
    this.#awaited = this.#userSpeaks = false;
    this.picture.unsend();
    this.#whenDone.splice(0).forEach((resolve) => resolve());
  }

  #changed() {
    if (this.#speaking && !this.player.pending && !this.#response) this.#speaking = null;
    const mayGo = this.recorder.on && this.realtime.open && !this.#userSpeaks && !this.#awaited && !this.#response;
    if (mayGo) this.picture.sendAhead();
    this.#show.state(this.state, { talking: this.recorder.on });
  }
}
