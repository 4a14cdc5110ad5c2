/** The picture that waits for the next question. */

export class PendingPicture {
  #picture = null; // {url, sent, itemId}

  /** `send(type, fields)` sends a client event; `show(url)` shows the thumbnail, or none for null. */
  constructor({ send, show }) {
    this.send = send;
    this.show = show;
  }

  attach(url) {
    this.remove();
    this.#picture = { url, sent: false, itemId: null };
    this.show(url);
  }

  /** Takes it back, from the server's conversation too if it went ahead. */
  remove() {
    const picture = this.#take();
    if (picture?.itemId) this.send("conversation.item.delete", { item_id: picture.itemId });
  }

  /** Sends it as an item of its own: a spoken turn carries nothing but sound. */
  sendAhead() {
    if (!this.#picture || this.#picture.sent) return;
    this.#picture.sent = true;
    this.send("conversation.item.create", { item: { type: "message", role: "user", content: [part(this.#picture.url)] } });
  }

  /** Learns the id of the item that went ahead. */
  added(item) {
    const isPicture = item.role === "user" && item.content?.every(({ type }) => type === "input_image");
    if (isPicture && this.#picture?.sent) this.#picture.itemId ??= item.id;
  }

  /** The question is asked: returns its picture's URL, and the part to send with it unless it went ahead. */
  use() {
    const picture = this.#take();
    return { url: picture?.url ?? null, parts: picture && !picture.sent ? [part(picture.url)] : [] };
  }

  /** The spoken question is asked: returns the picture's URL if it went ahead of it. */
  useSent() {
    return this.#picture?.sent ? this.#take().url : null;
  }

  /** The session that had it is gone; it waits for the next one. */
  unsend() {
    if (this.#picture) Object.assign(this.#picture, { sent: false, itemId: null });
  }

  #take() {
    const picture = this.#picture;
    this.#picture = null;
    this.show(null);
    return picture;
  }
}

function part(url) {
  return { type: "input_image", image_url: url };
}
