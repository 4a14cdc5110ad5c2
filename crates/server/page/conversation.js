/** The conversation on the screen: one element a turn, words that follow the sound. */

// People speak about this many characters a second; used until an answer's real length is known.
const CHARACTERS_A_SECOND = 15;

// Words whose sound was not played yet are dimmed by a highlight, not by elements: a screen reader would read
// each word again if it moved from one element to another.
const unheard = "highlights" in CSS ? new Highlight() : null;
if (unheard) CSS.highlights.set("unheard", unheard);

export class Conversation {
  #view;
  #turns = new Map();
  #order = [];
  #atEnd = true;

  constructor(view) {
    this.#view = view;
    this.#followEnd(view.parentElement);
  }

  get empty() {
    return this.#order.length === 0;
  }

  /** A question that was typed, or a spoken one whose words may come later. */
  addQuestion({ itemId, text = "", picture = null }) {
    this.#atEnd = true;
    const turn = this.#add("user", itemId);
    if (picture) turn.showPicture(picture);
    turn.setText(text || "(spoken)");
    turn.element.toggleAttribute("data-wordless", !text);
    return turn;
  }

  /** The answer with this id; begun if it is new. */
  answer(itemId) {
    return this.#turns.get(itemId) ?? this.#add("assistant", itemId);
  }

  find(itemId) {
    return this.#turns.get(itemId);
  }

  append(itemId, words) {
    this.answer(itemId).append(words);
  }

  remove(itemId) {
    const turn = this.#turns.get(itemId);
    if (!turn) return;
    turn.element.remove();
    turn.forget();
    this.#turns.delete(itemId);
    this.#order = this.#order.filter((other) => other !== turn);
  }

  clear() {
    this.#order.forEach((turn) => turn.forget());
    this.#turns.clear();
    this.#order = [];
    this.#view.replaceChildren();
  }

  /** After a reconnection the model knows nothing of what stands above. */
  addBreak() {
    const line = document.createElement("p");
    line.className = "break";
    line.textContent = "New connection: the model does not know what was said above.";
    this.#view.append(line);
  }

  asText() {
    return this.#order.map((turn) => turn.asText()).join("\n\n");
  }

  #add(role, itemId) {
    const turn = new Turn(role);
    this.#order.push(turn);
    if (itemId) this.#turns.set(itemId, turn);
    this.#view.append(turn.element);
    return turn;
  }

  /** Keeps the end in sight, unless the reader scrolled up. */
  #followEnd(scroller) {
    let top = 0;
    scroller.addEventListener("scroll", () => {
      const below = scroller.scrollHeight - scroller.scrollTop - scroller.clientHeight;
      // Not being at the end is no sign that somebody scrolled: words may have come since. Going up is.
      if (below < 40) this.#atEnd = true;
      else if (scroller.scrollTop < top) this.#atEnd = false;
      top = scroller.scrollTop;
    });
    const observer = new ResizeObserver(() => {
      if (this.#atEnd) scroller.scrollTop = scroller.scrollHeight;
    });
    observer.observe(scroller); // a message below makes it smaller
    observer.observe(this.#view);
  }
}

/** One turn. Its element's text is what was said and nothing else; remarks are attributes that CSS shows. */
class Turn {
  #words = document.createTextNode("");
  #range = null;
  #heard = 0;
  #cut = null;

  constructor(role) {
    this.role = role;
    this.element = document.createElement("div");
    this.element.dataset.role = role;
    this.element.append(this.#words);
    // Held back from screen readers until it is whole; they would read it letter by letter.
    if (role === "assistant") this.element.setAttribute("aria-busy", "true");
  }

  get text() {
    return this.#words.data;
  }

  setText(text) {
    this.#words.data = text;
    this.element.removeAttribute("data-wordless");
  }

  append(words) {
    if (this.#cut !== null) return;
    this.#words.appendData(words);
    this.element.dataset.begun = ""; // the waiting dots go
    this.#dim();
  }

  showPicture(url) {
    const image = document.createElement("img");
    image.src = url;
    image.alt = "picture";
    this.element.prepend(image);
  }

  remark(text) {
    this.element.dataset.remark = text;
  }

  /** No more words come. */
  finish() {
    this.element.removeAttribute("aria-busy");
  }

  /** Undims what can have been heard by now. Silent answers are never dimmed. */
  follow({ heard, received, complete }) {
    if (this.#cut !== null) return;
    if (complete && heard >= received) return this.forget();
    const length = this.text.length;
    const seconds = complete ? received : Math.max(received, length / CHARACTERS_A_SECOND);
    this.#heard = Math.max(this.#heard, wordEnd(this.text, (heard / seconds) * length));
    this.#range ??= unheard && new Range();
    this.#dim();
  }

  /** Marks where the answer was interrupted, by a share of its text. */
  interruptAtShare(share) {
    this.interruptAt(wordStart(this.text, share * this.text.length));
  }

  /** The same by the words that the server kept; they may differ in white space at the end only. */
  interruptAfter(words) {
    const kept = words.trimEnd();
    if (this.text.startsWith(kept)) this.interruptAt(kept.length);
  }

  interruptAt(position) {
    const text = this.text;
    this.#cut = position;
    this.forget();
    const heard = part("span", "heard", text.slice(0, position));
    const rest = part("s", "unheard", text.slice(position));
    [...this.element.childNodes].filter((node) => node.nodeName !== "IMG").forEach((node) => node.remove());
    this.element.append(heard, rest);
    this.element.dataset.interrupted = "";
    this.remark("Interrupted");
    this.finish();
  }

  /** Takes its dimmed words out of the highlight, which would hold them forever. */
  forget() {
    if (this.#range) unheard.delete(this.#range);
    this.#range = null;
  }

  asText() {
    const said = this.#cut === null ? this.text : `${this.text.slice(0, this.#cut).trimEnd()} … [interrupted]`;
    return `${this.role === "user" ? "You" : "Model"}: ${said}`;
  }

  #dim() {
    if (!this.#range) return;
    this.#range.setStart(this.#words, this.#heard);
    this.#range.setEnd(this.#words, this.text.length);
    unheard.add(this.#range);
  }
}

function part(tag, name, text) {
  const element = document.createElement(tag);
  element.dataset.part = name;
  element.textContent = text;
  return element;
}

/** The end of the word at `position`: a word lights up when it begins to sound. */
function wordEnd(text, position) {
  const end = text.slice(Math.floor(position)).search(/\s/);
  return position <= 0 ? 0 : end < 0 ? text.length : Math.floor(position) + end;
}

/** The end of the last word that was over at `position`: half a word was not heard. */
function wordStart(text, position) {
  const at = Math.floor(position);
  if (at >= text.length) return text.length;
  return /\s/.test(text[at]) ? at : Math.max(0, text.slice(0, at).search(/\s\S*$/));
}
