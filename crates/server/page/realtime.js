/** The connection to `/v1/realtime`: OpenAI's realtime events, one JSON object a frame. */

export class Realtime {
  #socket = null;
  #sent = 0;

  /** `onEvent(event)` for each server event; `onLost({code})` when an open connection ended by itself. */
  constructor({ onEvent, onLost }) {
    this.onEvent = onEvent;
    this.onLost = onLost;
  }

  get open() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Resolves when the session was created; rejects with an error whose message is meant for people. */
  async connect(key) {
    const socket = openSocket(key);
    this.#socket = socket;
    if (await this.#created(socket)) return;
    this.#socket = null;
    throw new Error(await whyRefused(key));
  }

  /** Sends an event and returns its id, which an error about it repeats. */
  send(type, fields = {}) {
    const event_id = `page_${++this.#sent}`;
    if (this.open) this.#socket.send(JSON.stringify({ type, event_id, ...fields }));
    return event_id;
  }

  close() {
    const socket = this.#socket;
    this.#socket = null;
    socket?.close(1000);
  }

  #created(socket) {
    return new Promise((resolve) => {
      let created = false;
      socket.addEventListener("message", ({ data }) => {
        if (this.#socket !== socket) return;
        const event = JSON.parse(data);
        created ||= event.type === "session.created";
        this.onEvent(event);
        if (created) resolve(true);
      });
      socket.addEventListener("close", ({ code }) => {
        resolve(false);
        if (created && this.#socket === socket) this.onLost({ code });
      });
    });
  }
}

/** Browsers cannot set headers on a websocket, so the key travels as a subprotocol. */
function openSocket(key) {
  const url = new URL("v1/realtime", location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  const protocols = key ? ["realtime", `openai-insecure-api-key.${key}`] : ["realtime"];
  try {
    return new WebSocket(url, protocols);
  } catch (error) {
    throw new Error("This key has characters that no key can have. Copy it again.", { cause: error });
  }
}

/** A browser does not tell why a websocket failed to open; a plain request with the same key does. */
async function whyRefused(key) {
  const answer = await fetch("v1/models", { headers: authorization(key) }).catch(() => null);
  if (!answer) return "The server does not answer. Check that it is running and that you are online.";
  if (answer.status === 401) return key ? "The server does not accept this key. Check it and try again." : "This server wants a key. Type it in below.";
  if (answer.status === 503) return "The server is loading the model or shutting down. Try again in a moment.";
  return "The server refused the conversation. Perhaps too many are open at the moment; try again soon.";
}

export function authorization(key) {
  return key ? { authorization: `Bearer ${key}` } : {};
}
